"""An RTSP camera on loopback: Motion JPEG over RTP, interleaved in the TCP connection (RFC 2326, RFC 2435)."""

import base64
import itertools
import socketserver
import struct
import threading
from typing import Self

import cv2
import numpy as np

_CLOCK_HZ = 90_000
_PIECE_BYTES = 1200
_EOI = b"\xff\xd9"


class RtspCamera:
    """Serves while the block lasts; sends a picture every `period_s`, all of one colour that changes."""

    def __init__(self, port: int = 0, password: str | None = None, period_s: float = 0.02) -> None:
        """With `password` only user `user` may look."""
        self.password = password
        self.period_s = period_s
        self.silent = threading.Event()
        """Set: connections stay, pictures stop."""
        self._server = _Server(("127.0.0.1", port), _Session)
        self._server.camera = self
        self.port = self._server.server_address[1]
        self.stop = threading.Event()
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    def url(self, user: str = "") -> str:
        """Where it is; `user` is `name:password@`."""
        return f"rtsp://{user}127.0.0.1:{self.port}/front?token=hidden"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Switch it off: all connections end."""
        self.stop.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = True
    camera: RtspCamera


class _Session(socketserver.StreamRequestHandler):
    server: _Server

    def handle(self) -> None:
        self.connection.settimeout(5)
        try:
            self._answer()
        except OSError:
            return  # who looked is gone

    def _answer(self) -> None:
        while True:
            request = self._request()
            if request is None:
                return
            method, headers = request
            common = f"CSeq: {headers.get('cseq', '0')}\r\nSession: 1\r\n"
            expected = base64.b64encode(f"user:{self.server.camera.password}".encode()).decode()
            if self.server.camera.password and headers.get("authorization") != f"Basic {expected}":
                self._reply("401 Unauthorized", common + 'WWW-Authenticate: Basic realm="camera"\r\n')
            elif method == "DESCRIBE":
                sdp = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=front\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\n"
                sdp += "m=video 0 RTP/AVP 26\r\na=control:track1\r\n"
                self._reply("200 OK", f"{common}Content-Type: application/sdp\r\nContent-Length: {len(sdp)}\r\n", sdp)
            elif method == "SETUP":
                assert "TCP" in headers["transport"], "the camera speaks no UDP"
                self._reply("200 OK", f"{common}Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n")
            elif method == "PLAY":
                self._reply("200 OK", common)
                self._play()
                return
            else:
                self._reply("200 OK", f"{common}Public: OPTIONS, DESCRIBE, SETUP, PLAY\r\n")

    def _request(self) -> tuple[str, dict[str, str]] | None:
        first = self.rfile.readline(4096).decode()
        if not first.strip():
            return None
        headers = {}
        while line := self.rfile.readline(4096).decode().strip():
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        return first.split()[0], headers

    def _reply(self, status: str, headers: str, body: str = "") -> None:
        self.wfile.write(f"RTSP/1.0 {status}\r\n{headers}\r\n{body}".encode())

    def _play(self) -> None:
        camera = self.server.camera
        numbers = itertools.count()
        for index in itertools.count():
            if camera.stop.wait(camera.period_s):
                return
            if not camera.silent.is_set():
                for packet in _packets(_picture(index), round(index * camera.period_s * _CLOCK_HZ), numbers):
                    self.wfile.write(b"$\x00" + struct.pack(">H", len(packet)) + packet)


def _picture(index: int) -> bytes:
    image = np.full((96, 128, 3), 40 + index % 200, dtype=np.uint8)
    return cv2.imencode(".jpg", image)[1].tobytes()


def _packets(jpeg: bytes, timestamp: int, numbers: "itertools.count[int]") -> list[bytes]:
    tables, scan, height, width, kind = _parts(jpeg)
    packets = []
    for start in range(0, len(scan), _PIECE_BYTES):
        piece = scan[start : start + _PIECE_BYTES]
        is_last = start + len(piece) == len(scan)
        rtp = struct.pack(">BBHII", 0x80, 26 | (0x80 * is_last), next(numbers) & 0xFFFF, timestamp & 0xFFFFFFFF, 1)
        header = struct.pack(">I", start) + bytes([kind, 255, width // 8, height // 8])
        quantization = struct.pack(">BBH", 0, 0, len(tables)) + tables if start == 0 else b""
        packets.append(rtp + header + quantization + piece)
    return packets


def _parts(jpeg: bytes) -> tuple[bytes, bytes, int, int, int]:
    """(quantization tables, entropy-coded scan, height, width, RFC 2435 type) of a baseline JPEG."""
    tables, height, width, kind, at = b"", 0, 0, 0, 2
    while True:
        marker, length = struct.unpack(">HH", jpeg[at : at + 4])
        body = jpeg[at + 4 : at + 2 + length]
        at += 2 + length
        if marker == 0xFFDB:
            while body:
                tables, body = tables + body[1:65], body[65:]
        elif marker == 0xFFC0:
            height, width = struct.unpack(">HH", body[1:5])
            kind = 1 if body[7] == 0x22 else 0
        elif marker == 0xFFDA:
            return tables, jpeg[at:].removesuffix(_EOI), height, width, kind
