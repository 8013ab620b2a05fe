"""Tables of profile.toml that are about the vehicle's own hardware: its cameras and its temperature."""

from typing import Annotated, ClassVar, Literal

import msgspec

from roadloop_models.errors import ConfigError

Pixels = Annotated[int, msgspec.Meta(ge=16, le=16_384)]
Celsius = Annotated[float, msgspec.Meta(ge=0, le=150)]
Pace = Literal["rate", "as-consumed", "live"]
CAMERA_URLS = ("rtsp://", "rtsps://", "http://", "https://")


class CameraSource(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="camera"
):
    """A camera at its own pace: exactly one of `device` (V4L2), `url` (RTSP or HTTP) and `pipeline` (GStreamer)."""

    loop: ClassVar[bool] = True
    pace: ClassVar[Pace] = "live"
    rate_hz: ClassVar[float | None] = None
    speed: ClassVar[float] = 1.0

    device: Annotated[str, msgspec.Meta(pattern=r"^/")] | None = None
    """`/dev/video0`, or better a name that stays: /dev/v4l/by-id/…"""
    url: Annotated[str, msgspec.Meta(max_length=1000)] | None = None
    """`rtsp://user:password@host/path`; what comes before the host and after `?` is never shown or sent."""
    pipeline: Annotated[str, msgspec.Meta(max_length=4000)] | None = None
    """`v4l2src … ! appsink`: OpenCV needs to be built with GStreamer."""
    width: Pixels | None = None
    height: Pixels | None = None
    fps: Annotated[float, msgspec.Meta(gt=0, le=1000)] | None = None
    """What the device is asked for (V4L2 only); without it what it gives of itself."""
    fourcc: Annotated[str, msgspec.Meta(pattern=r"^[A-Z0-9]{4}\Z")] | None = None
    """How the device sends its pictures: MJPG, YUYV, …"""
    rotate: Literal[0, 90, 180, 270] = 0
    """Degrees clockwise, for a camera that is mounted on its side or upside down."""
    open_timeout_s: Annotated[float, msgspec.Meta(ge=0.1, le=120)] = 10.0
    """How long it may take to the first frame."""
    timeout_s: Annotated[float, msgspec.Meta(ge=0.1, le=120)] = 5.0
    """Without a new frame for so long it is opened again."""
    frozen_s: Annotated[float, msgspec.Meta(ge=0.1, le=3600)] | None = None
    """Where every picture is the same for so long, it is opened again; without it a still picture is believed."""


class ThermalTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[thermal]`: from which temperatures slots give way. Without the table nothing is read.

    Slots whose source is paced `as-consumed` are left alone: of such a replay nothing is dropped.
    """

    zones: tuple[str, ...] = ()
    """Types of the zones to look at, as `/sys/class/thermal/thermal_zone*/type` says, `*` allowed; none: all."""
    warm_c: Celsius = 75.0
    hot_c: Celsius = 85.0
    critical_c: Celsius = 95.0
    hysteresis_c: Annotated[float, msgspec.Meta(ge=0, le=40)] = 5.0
    """A band ends so far below where it began."""


def check_thermal(where: str, thermal: ThermalTable) -> None:
    """Raises ConfigError, beginning with `where`, where the bands are not in order."""
    if not thermal.warm_c < thermal.hot_c < thermal.critical_c:
        raise ConfigError(f"{where}: warm_c, hot_c and critical_c must ascend")


def check_camera(where: str, camera: CameraSource) -> None:
    """Raises ConfigError, beginning with `where`, where the fields do not go together."""
    if sum(given is not None for given in (camera.device, camera.url, camera.pipeline)) != 1:
        raise ConfigError(f"{where}: give exactly one of device, url and pipeline")
    if camera.url is not None and not camera.url.startswith(CAMERA_URLS):
        raise ConfigError(f"{where}.url: begins with {' or '.join(CAMERA_URLS)}; a file is of the kind 'video'")
    if camera.pipeline is not None and "appsink" not in camera.pipeline:
        raise ConfigError(f"{where}.pipeline: must end in 'appsink', from which the frames are taken")
    asked = {"width": camera.width, "height": camera.height, "fps": camera.fps, "fourcc": camera.fourcc}
    for name, value in asked.items():
        if camera.device is None and value is not None:
            raise ConfigError(f"{where}.{name}: only a V4L2 device can be asked for it; say it in the url or pipeline")
    if (camera.width is None) != (camera.height is None):
        raise ConfigError(f"{where}: width and height go together")
