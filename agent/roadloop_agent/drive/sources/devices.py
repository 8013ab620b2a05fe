"""The camera devices that OpenCV opens: V4L2, network streams, GStreamer."""

import logging
import os
import re
from collections.abc import Callable
from pathlib import Path

import cv2

from roadloop_agent.drive.sources.camera import Camera, Shot
from roadloop_agent.hardware_config import CameraSource
from roadloop_models.errors import ConfigError, RetryLaterError

_LOG = logging.getLogger(__name__)
# One connection for all: over UDP every lost packet is a broken picture. An integrator's own options come first.
os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", "rtsp_transport;tcp")


def open_camera(table: CameraSource, clock: Callable[[], float]) -> Camera:
    """The camera of a table; nothing is opened before its frames are read."""
    return Camera(
        lambda: Cv2Device(table),
        open_timeout_s=table.open_timeout_s,
        timeout_s=table.timeout_s,
        frozen_s=table.frozen_s,
        rotate=table.rotate,
        clock=clock,
    )


class Cv2Device:
    """cv2.VideoCapture behind the Protocol of camera.py."""

    def __init__(self, table: CameraSource) -> None:
        self._table = table
        self._capture: cv2.VideoCapture | None = None

    def open(self) -> None:
        """Raises RetryLaterError naming the device without its credentials, ConfigError where OpenCV lacks a part."""
        table = self._table
        if table.device is not None:
            self._capture = _open_v4l2(table, table.device)
        elif table.url is not None:
            self._capture = _open_url(table, table.url)
        else:
            assert table.pipeline is not None, "one of the three is given"
            self._capture = _open_pipeline(table.pipeline)

    def read(self) -> Shot | None:
        """The next frame; its time is the buffer's (V4L2) or the stream's own."""
        assert self._capture is not None, "read after open"
        given, image = self._capture.read()
        if not given or image is None or image.ndim != 3:
            return None
        t_source_ms = self._capture.get(cv2.CAP_PROP_POS_MSEC)
        return Shot(image, t_source_ms / 1000.0 if t_source_ms > 0 else None)

    def release(self) -> None:
        """Give the device back."""
        if self._capture is not None:
            self._capture.release()


def without_credentials(url: str) -> str:
    """A stream's address as it may be shown: no user, password or query."""
    shown = re.sub(r"^(\w+://)[^/]*@", r"\1", url)
    return shown.partition("?")[0].partition("#")[0]


def _open_v4l2(table: CameraSource, device: str) -> cv2.VideoCapture:
    if not Path(device).exists():
        raise RetryLaterError(f"{device}: there is no such device; is the camera plugged in?")
    capture = cv2.VideoCapture(device, cv2.CAP_V4L2)
    if not capture.isOpened():
        capture.release()
        raise RetryLaterError(f"{device}: cannot be opened: in use, not a camera, or not allowed (group video)")
    # The format first: which sizes and rates there are depends on it.
    asked: list[tuple[int, float | None]] = [
        (cv2.CAP_PROP_FOURCC, None if table.fourcc is None else cv2.VideoWriter.fourcc(*table.fourcc)),
        (cv2.CAP_PROP_FRAME_WIDTH, table.width),
        (cv2.CAP_PROP_FRAME_HEIGHT, table.height),
        (cv2.CAP_PROP_FPS, table.fps),
        (cv2.CAP_PROP_BUFFERSIZE, 1),
    ]
    for prop, value in asked:
        if value is not None:
            capture.set(prop, value)
    size = (int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)))
    if table.width is not None and size != (table.width, table.height):
        _LOG.warning("%s: asked for %dx%d, gives %dx%d", device, table.width, table.height or 0, *size)
    return capture


def _open_url(table: CameraSource, url: str) -> cv2.VideoCapture:
    timeouts = [
        cv2.CAP_PROP_OPEN_TIMEOUT_MSEC,
        round(table.open_timeout_s * 1000),
        cv2.CAP_PROP_READ_TIMEOUT_MSEC,
        round(table.timeout_s * 1000),
    ]
    # By name: of the backends that OpenCV would try in turn, some print the address with its password.
    capture = cv2.VideoCapture(url, cv2.CAP_FFMPEG, timeouts)
    if not capture.isOpened():
        capture.release()
        raise RetryLaterError(f"{without_credentials(url)}: no stream there; is the camera on, the password right?")
    return capture


def _open_pipeline(pipeline: str) -> cv2.VideoCapture:
    if not cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER):
        raise ConfigError(
            "pipeline: this OpenCV is built without GStreamer, as the wheels of PyPI are; "
            "use `device` or `url`, or install the OpenCV of the system (python3-opencv) or of the board's maker"
        )
    capture = cv2.VideoCapture(pipeline, cv2.CAP_GSTREAMER)
    if not capture.isOpened():
        capture.release()
        raise RetryLaterError("pipeline: GStreamer cannot start it; try it with gst-launch-1.0")
    return capture
