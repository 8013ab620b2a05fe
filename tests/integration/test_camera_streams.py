"""Cameras as OpenCV opens them: an RTSP stream that is cut, falls silent, asks for a password; devices that are not."""

import contextlib
import http.server
import logging
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest

from roadloop_agent.drive.capture import Capture, Subscriber
from roadloop_agent.drive.frames import Frame, Mailbox
from roadloop_agent.drive.sources import opener
from roadloop_agent.drive.sources.devices import Cv2Device, without_credentials
from roadloop_agent.hardware_config import CameraSource
from roadloop_models.errors import ConfigError, RetryLaterError
from tests.fakes.rtsp import RtspCamera

WAIT_S = 30.0
SECRET = "s3cret"


class Captured:
    """A capture thread of one camera, and a slot's mailbox."""

    def __init__(self, table: CameraSource) -> None:
        self.mailbox = Mailbox()
        self.capture = Capture(
            name="front",
            open_items=opener(table, None, time.monotonic),
            period_s=0.0,
            pace=table.pace,
            loop=table.loop,
            subscribers=[Subscriber(self.mailbox, 0.0)],
            clock=time.monotonic,
            wall_ms=lambda: 0,
            reopen_s=0.05,
            reopen_max_s=0.1,
        )

    def frame(self) -> Frame:
        """The next frame."""
        frame = self.mailbox.take(WAIT_S)
        assert frame is not None, self.capture.collect_error()
        return frame

    def error(self) -> str:
        """The next error."""
        until_s = time.monotonic() + WAIT_S
        while (error := self.capture.collect_error()) is None:
            assert time.monotonic() < until_s, "waited in vain for an error"
            time.sleep(0.01)
        return str(error)


@contextmanager
def capturing(table: CameraSource) -> Iterator[Captured]:
    captured, stop = Captured(table), threading.Event()
    thread = threading.Thread(target=captured.capture.run, args=(stop, lambda: None))
    thread.start()
    try:
        yield captured
    finally:
        stop.set()
        thread.join(WAIT_S)
        assert not thread.is_alive()


def test_an_rtsp_camera_is_read_cut_off_and_read_again() -> None:
    with (
        RtspCamera() as camera,
        capturing(CameraSource(url=camera.url(), timeout_s=1.0, open_timeout_s=5.0)) as captured,
    ):
        first = captured.frame()
        assert first.data.shape == (96, 128, 3)
        while (frame := captured.frame()).number < first.number + 5:
            pass
        assert frame.t_source_s is not None and frame.t_mono_s > first.t_mono_s
        camera.close()
        error = captured.error()
        assert "gives no more frames" in error or f"rtsp://127.0.0.1:{camera.port}/front: no stream" in error
        with RtspCamera(camera.port):
            while captured.frame().number <= frame.number:
                pass
            captured.frame()
            assert captured.capture.collect_error() is None


def test_motion_jpeg_over_http_is_read() -> None:
    class Camera(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            image = cv2.imencode(".jpg", np.full((96, 128, 3), 90, dtype=np.uint8))[1].tobytes()
            part = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%b\r\n" % (len(image), image)
            with contextlib.suppress(OSError):  # until who looks is gone
                while True:
                    self.wfile.write(part)
                    time.sleep(0.02)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Camera) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        with capturing(CameraSource(url=f"http://127.0.0.1:{server.server_address[1]}/front.mjpg")) as captured:
            frame = captured.frame()
            assert frame.data.shape == (96, 128, 3) and abs(int(frame.data.mean()) - 90) <= 2
            assert captured.frame().number > frame.number
        server.shutdown()


def test_a_stream_that_falls_silent_is_opened_again() -> None:
    with (
        RtspCamera() as camera,
        capturing(CameraSource(url=camera.url(), timeout_s=0.5, open_timeout_s=2.0)) as captured,
    ):
        number = captured.frame().number
        camera.silent.set()
        assert captured.error()
        camera.silent.clear()
        captured.mailbox.take(0.0)
        assert captured.frame().number > number


def test_a_camera_that_accepts_and_never_answers_does_not_hold_the_device_for_ever() -> None:
    with socket.create_server(("127.0.0.1", 0)) as tarpit:
        url = f"rtsp://user:{SECRET}@127.0.0.1:{tarpit.getsockname()[1]}/front"
        started_s = time.monotonic()
        with pytest.raises(RetryLaterError) as caught:
            Cv2Device(CameraSource(url=url, open_timeout_s=0.5)).open()
        assert time.monotonic() - started_s < 10
        assert SECRET not in str(caught.value)


def test_a_password_opens_the_stream_and_is_never_shown() -> None:
    script = (
        "import sys; from roadloop_agent.drive.sources.devices import Cv2Device\n"
        "from roadloop_agent.hardware_config import CameraSource\n"
        "device = Cv2Device(CameraSource(url=sys.argv[1]))\n"
        "try: device.open(); print('frame', device.read().image.shape)\n"
        "except Exception as error: print('error', error)\n"
    )
    with RtspCamera(password=SECRET) as camera:
        outputs = []
        for user in (f"user:{SECRET}@", f"user:{SECRET}-not@"):
            done = subprocess.run(
                [sys.executable, "-c", script, camera.url(user)], capture_output=True, text=True, timeout=60, check=True
            )
            assert SECRET not in done.stdout + done.stderr and "token" not in done.stdout + done.stderr
            outputs.append(done.stdout)
    assert outputs[0].startswith("frame (96, 128, 3)")
    assert outputs[1].startswith(f"error rtsp://127.0.0.1:{camera.port}/front: no stream there")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("rtsp://user:p@ss@host:554/a?token=1#x", "rtsp://host:554/a"),
        ("http://host/a", "http://host/a"),
        ("rtsp://host/a@b", "rtsp://host/a@b"),
    ],
)
def test_an_address_is_shown_without_what_is_secret(url: str, shown: str) -> None:
    assert without_credentials(url) == shown


def test_a_device_that_is_not_there_is_named() -> None:
    with pytest.raises(RetryLaterError, match=r"/dev/video-none: there is no such device; is the camera plugged in"):
        Cv2Device(CameraSource(device="/dev/video-none")).open()
    with pytest.raises(RetryLaterError, match=r"/dev/null: cannot be opened"):
        Cv2Device(CameraSource(device="/dev/null")).open()


class FakeVideoCapture:
    """V4L2 as OpenCV shows it, of a camera that can only do 640 x 480 and says when its buffers were filled."""

    def __init__(self, device: str, backend: int) -> None:
        assert backend == cv2.CAP_V4L2
        self.asked: list[tuple[int, float]] = []
        self.reads = 0
        self.released = False

    def isOpened(self) -> bool:
        return True

    def set(self, prop: int, value: float) -> bool:
        self.asked.append((prop, value))
        return prop not in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)

    def get(self, prop: int) -> float:
        sizes = {cv2.CAP_PROP_FRAME_WIDTH: 640.0, cv2.CAP_PROP_FRAME_HEIGHT: 480.0}
        return sizes.get(prop, 12_345.0 if prop == cv2.CAP_PROP_POS_MSEC else 0.0)

    def read(self) -> tuple[bool, object]:
        self.reads += 1
        return (True, np.zeros((480, 640, 3), dtype=np.uint8)) if self.reads == 1 else (False, None)

    def release(self) -> None:
        self.released = True


def test_a_v4l2_device_is_asked_for_its_format_first_and_may_give_another_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    captures: list[FakeVideoCapture] = []

    def open_fake(device: str, backend: int) -> FakeVideoCapture:
        captures.append(FakeVideoCapture(device, backend))
        return captures[-1]

    monkeypatch.setattr(cv2, "VideoCapture", open_fake)
    node = tmp_path / "video0"
    node.touch()
    device = Cv2Device(CameraSource(device=str(node), width=1280, height=720, fps=30, fourcc="MJPG"))
    with caplog.at_level(logging.WARNING):
        device.open()
    assert captures[0].asked == [
        (cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG")),
        (cv2.CAP_PROP_FRAME_WIDTH, 1280),
        (cv2.CAP_PROP_FRAME_HEIGHT, 720),
        (cv2.CAP_PROP_FPS, 30),
        (cv2.CAP_PROP_BUFFERSIZE, 1),
    ]
    assert f"{node}: asked for 1280x720, gives 640x480" in caplog.text
    shot = device.read()
    assert shot is not None and shot.image.shape == (480, 640, 3) and shot.t_source_s == 12.345
    assert device.read() is None
    device.release()
    assert captures[0].released


@pytest.mark.skipif(cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER), reason="this OpenCV has GStreamer")
def test_a_pipeline_without_gstreamer_says_the_way_out() -> None:
    with pytest.raises(ConfigError, match=r"built without GStreamer.*use `device` or `url`, or install"):
        Cv2Device(CameraSource(pipeline="videotestsrc ! appsink")).open()
