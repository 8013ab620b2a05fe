"""systemd's notification protocol (sd_notify(3)): one datagram with `KEY=value` lines."""

import socket
from collections.abc import Mapping


class Notifier:
    """Tells systemd how the service is; without NOTIFY_SOCKET nobody asks and nothing is sent."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Reads NOTIFY_SOCKET and WATCHDOG_USEC."""
        address = environment.get("NOTIFY_SOCKET", "")
        # A leading @ stands for the NUL of Linux's abstract namespace.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        usec = environment.get("WATCHDOG_USEC", "")
        self.watchdog_s: float | None = int(usec) / 2e6 if usec.isdigit() and int(usec) > 0 else None
        """How often systemd wants a sign of life: half the time after which it acts. None: it does not watch."""

    def notify(self, **values: str) -> None:
        """For example notify(READY="1", STATUS="running"). A lost datagram is systemd's to notice."""
        if not self._address:
            return
        message = "\n".join(f"{key}={value}" for key, value in values.items()).encode()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            try:
                sock.sendto(message, self._address)
            except OSError:
                return
