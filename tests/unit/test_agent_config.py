"""The agent's configuration: what is refused, and how it is said."""

from pathlib import Path

import pytest

from roadloop_agent.config import MadeSignsSource, load_config, load_profile
from roadloop_models.errors import ConfigError
from roadloop_models.packaged import packaged_bundles

VECTORS = Path(__file__).parents[1] / "vectors" / "config"
PROFILES = Path(__file__).parents[2] / "firmware_configs" / "profiles"


def test_a_good_configuration_has_its_defaults_and_absolute_paths() -> None:
    config = load_config(VECTORS / "vehicle-good.toml")
    assert (config.vehicle_id, config.broker.host, config.broker.keepalive_s) == ("van-1", "127.0.0.1", 30)
    assert config.spool.max_bytes == 256 * 1024 * 1024
    assert config.telemetry.batch_samples == 100
    assert (config.network.on_metered.sends, config.network.on_unmetered.sends) == ("highlights", "all")
    assert config.state_dir == VECTORS / "state"
    assert config.identity_path(config.broker.key) == VECTORS / "identity" / "vehicle.key"
    slot = config.profile.slots["sign"]
    assert (slot.precision, slot.variant_key, slot.capture.every) == ("int8", "onnx-int8", 0)
    assert isinstance(config.profile.sources["camera"], MadeSignsSource)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("vehicle-unknown-key", r"broker\.keepalive: unknown key; did you mean 'keepalive_s'\?"),
        ("vehicle-unknown-table", r"spol: unknown key; did you mean 'spool'\?"),
        ("vehicle-id-is-a-topic", r"vehicle\.id: vehicle id 'van/\+': 1 to 40 lower-case letters"),
        ("vehicle-port-out-of-range", r"65535.*broker\.port"),
        ("vehicle-back-off-upside-down", r"broker\.reconnect_min_s is above broker\.reconnect_max_s"),
        ("vehicle-spool-too-small", r"1048576.*spool\.max_bytes"),
        ("vehicle-day-too-small", r"network\.on_metered\.bytes_per_day: 0 \(no limit\), or at least 262144"),
        ("vehicle-network-unknown-key", r"network\.on_metered\.bytes_a_day: unknown key; did you mean 'bytes_per_day'"),
        ("vehicle-files-port", r"files\.url: 'https://127\.0\.0\.1:99999': give it as https://host:port"),
        ("vehicle-files-plain-http", r"files\.url: 'http://.*give it as https://host:port"),
        ("vehicle-profile-missing", r"nowhere\.toml: No such file"),
        ("vehicle-truncated", r"not TOML"),
        ("vehicle-there-is-none", r"No such file"),
    ],
)
def test_a_broken_vehicle_file_is_refused_by_file_and_field(name: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        load_config(VECTORS / f"{name}.toml")
    assert ".toml" in str(caught.value) and caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("profile-unknown-kind", r"sources\.camera\.kind: 'made-sings' is none of images.*did you mean 'made-signs'\?"),
        ("profile-unknown-source-key", r"sources\.camera\.sed: unknown key; did you mean 'seed'\?"),
        ("profile-key-of-another-kind", r"sources\.camera\.seed: unknown key"),
        ("profile-unknown-task", r"slots\.sign\.task: 'traffic-signs' is unknown; did you mean 'traffic-sign'"),
        ("profile-unknown-runtime", r"Invalid enum value 'onyx'.*slots"),
        ("profile-unknown-source", r"slots\.sign\.source: there is no \[sources\.camra\]; did you mean 'camera'\?"),
        ("profile-rate-negative", r">= 0.*slots.*rate_hz"),
        ("profile-source-of-another-task", r"'camera' gives speeds, traffic-sign takes image"),
        ("profile-part-beyond-the-last", r"sources\.camera\.select: '3/3': parts are counted from 0 to 2"),
        ("profile-rows-upside-down", r"sources\.camera\.last_row is before first_row"),
        ("profile-no-slots", r"slots: at least one is needed"),
        ("profile-thermal-out-of-order", r"thermal: warm_c, hot_c and critical_c must ascend"),
        ("profile-thermal-unknown-key", r"thermal\.warm: unknown key; did you mean 'warm_c'\?"),
        ("profile-camera-two-inputs", r"sources\.camera: give exactly one of device, url and pipeline"),
        ("profile-camera-no-input", r"sources\.camera: give exactly one of device, url and pipeline"),
        ("profile-camera-file-as-url", r"sources\.camera\.url: begins with rtsp://.*a file is of the kind 'video'"),
        ("profile-camera-size-of-a-stream", r"sources\.camera\.width: only a V4L2 device can be asked"),
        ("profile-camera-half-a-size", r"sources\.camera: width and height go together"),
        ("profile-camera-fourcc", r"regex.*sources.*fourcc"),
        ("profile-camera-paced", r"sources\.camera\.pace: unknown key"),
        ("profile-camera-pipeline-without-sink", r"sources\.camera\.pipeline: must end in 'appsink'"),
    ],
)
def test_a_broken_profile_is_refused_by_file_and_field(name: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        load_profile(VECTORS / f"{name}.toml")
    assert name in str(caught.value)


def test_every_broken_file_is_tried() -> None:
    tried = {"vehicle-good", "profile-good", "vehicle-there-is-none"}
    for mark in (
        *test_a_broken_vehicle_file_is_refused_by_file_and_field.pytestmark,  # type: ignore[attr-defined]
        *test_a_broken_profile_is_refused_by_file_and_field.pytestmark,  # type: ignore[attr-defined]
    ):
        tried |= {name for name, _ in mark.args[1]}
    assert {path.stem for path in VECTORS.glob("*.toml")} <= tried


@pytest.mark.parametrize("path", sorted(PROFILES.glob("*.toml")), ids=lambda path: path.stem)
def test_the_profiles_that_ship_are_good(path: Path) -> None:
    profile = load_profile(path)
    assert {slot.task for slot in profile.slots.values()} == packaged_bundles().keys()
