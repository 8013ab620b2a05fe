"""The socket pair between drive and link; the supervisor makes it, and needs nothing else of ipc.py for that."""

import socket

BUFFER_BYTES = 4 << 20
"""Asked of the kernel, so that drive outlives a restart of link; it may grant less."""


def make_socketpair() -> tuple[socket.socket, socket.socket]:
    """(drive's end, link's end), with as much room as the kernel grants."""
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in pair:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
    return pair
