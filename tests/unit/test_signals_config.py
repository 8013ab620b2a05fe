"""Signals in a profile: what is refused, and how it is said; and what a recorded log has of them."""

from pathlib import Path

import numpy as np
import pytest

from roadloop_agent.config import Config, SlotTable, load_config, load_profile
from roadloop_agent.drive.sources.signals.survey import LogChoice, survey
from roadloop_agent.onboard import ON_BOARD, OnBoard
from roadloop_agent.signals_config import SignalsSource
from roadloop_agent.validate import survey_logs
from roadloop_models.errors import ConfigError
from tests.unit.test_signals_nmea import sentence
from tests.unit.test_signals_sources import DBC, LATITUDE, SPEED, YAW, write_log, write_npz

VECTORS = Path(__file__).parents[1] / "vectors" / "config"
GOOD = """
hardware = "test"

[sources.motion]
kind = "signals"
rate_hz = 10.0

[[sources.motion.feeds]]
kind = "can"
channel = "can0"
fd = true
dbc = ["car.dbc"]
name = "bus"

[[sources.motion.feeds]]
kind = "nmea"
device = "/dev/ttyACM0"

[sources.motion.signals."Vehicle.Speed"]
from = "SPEED.SPEED"
unit = "km/h"
stale_s = 0.5

[sources.motion.signals."Vehicle.AngularVelocity.Yaw"]
from = "KINEMATICS.YAW_RATE"

[slots.place]
task = "placing"
runtime = "onnx"
source = "motion"
rate_hz = 10.0
"""


@pytest.fixture(autouse=True)
def placing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that takes signals."""
    task = OnBoard("signals", "none:none", "none:none", "none:none", needs=(SPEED,), uses=(YAW, LATITUDE))
    monkeypatch.setitem(ON_BOARD, "placing", task)


def write(folder: Path, text: str) -> Path:
    path = folder / "profile.toml"
    path.write_text(text)
    return path


@pytest.fixture
def config(tmp_path: Path) -> Config:
    write(tmp_path, GOOD)
    (tmp_path / "car.dbc").write_text(DBC)
    (tmp_path / "vehicle.toml").write_bytes((VECTORS / "vehicle-good.toml").read_bytes())
    text = (tmp_path / "vehicle.toml").read_text()
    if "profile" in text:
        text = "\n".join(line for line in text.splitlines() if not line.startswith("profile"))
        (tmp_path / "vehicle.toml").write_text(text)
    return load_config(tmp_path / "vehicle.toml")


def test_a_good_profile_has_its_defaults(config: Config) -> None:
    source = config.profile.sources["motion"]
    assert isinstance(source, SignalsSource) and source.is_live and source.pace == "live"
    assert source.signals[SPEED].from_ == "SPEED.SPEED"
    assert config.source_path(source) == config.profile_path.parent
    assert config.wanted_signals("motion") == {SPEED, YAW, LATITUDE}
    assert isinstance(config.profile.slots["place"], SlotTable)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('device = "', 'devise = "', r"sources\.motion\.feeds\[1\]\.devise: unknown key; did you mean 'device'\?"),
        (
            'kind = "nmea"',
            'kind = "nmae"',
            r"sources\.motion\.feeds\[1\]\.kind: 'nmae' is none of .*did you mean 'nmea'",
        ),
        ('from = "SPEED', 'form = "SPEED', r"signals\.Vehicle\.Speed\.form: unknown key; did you mean 'from'\?"),
        ('"Vehicle.Speed"', '"Vehicle.Sped"', r"'Vehicle\.Sped': unknown path; did you mean 'Vehicle\.Speed'\?"),
        ('"Vehicle.Speed"', '"Wheels"', r"'Wheels': unknown path; docs/signals\.md lists the VSS paths"),
        ('unit = "km/h"', 'unit = "kmh"', r"'Vehicle\.Speed'\.unit: unit 'kmh' cannot be .*did you mean 'km/h'\?"),
        ("stale_s = 0.5", "min = 9.0\nmax = 9.0", r"'Vehicle\.Speed': the range from min 9 to max 9 is empty"),
        ("stale_s = 0.5", 'feed = "bos"', r"'Vehicle\.Speed'\.feed: there is no feed of the name 'bos'.*'bus'"),
        ('from = "SPEED.SPEED"', 'feed = "bus"', r"'Vehicle\.Speed'\.from: this feed needs it"),
        ('from = "SPEED.SPEED"\n', "", r"'Vehicle\.Speed': unit, scale and offset are for signals with a `from`"),
        ("rate_hz = 10.0\n\n[[", "rate_hz = 10.0\nloop = true\n\n[[", r"pace, speed and loop are for recorded feeds"),
        ('kind = "can"\nchannel = "can0"\nfd = true', 'kind = "can-log"\npath = "x.log"', r"do not share a time"),
        (
            '"Vehicle.Speed"',
            '"Vehicle.OBD.Speed"',
            r"sources\.motion\.signals: placing needs Vehicle\.Speed: say where",
        ),
    ],
)
def test_a_broken_profile_is_refused_by_file_and_field(tmp_path: Path, old: str, new: str, says: str) -> None:
    assert old in GOOD
    with pytest.raises(ConfigError, match=says) as caught:
        load_profile(write(tmp_path, GOOD.replace(old, new)))
    assert "profile.toml" in str(caught.value)


def test_what_a_known_layout_has_is_not_asked_for(tmp_path: Path) -> None:
    start, stop = GOOD.index("[[sources"), GOOD.index("[slots.place]")
    known = GOOD[:start] + '[[sources.motion.feeds]]\nkind = "layout"\npath = "drive.csv"\n\n' + GOOD[stop:]
    source = load_profile(write(tmp_path, known)).sources["motion"]
    assert isinstance(source, SignalsSource) and source.pace == "rate" and not source.is_live


def test_of_two_mapped_feeds_a_signal_names_one(tmp_path: Path) -> None:
    two = GOOD.replace('kind = "nmea"\ndevice = "/dev/ttyACM0"', 'kind = "can"\nchannel = "can1"\ndbc = ["b.dbc"]')
    with pytest.raises(ConfigError, match=r"'Vehicle\.Speed'\.feed: there are 2 feeds that it could come from"):
        load_profile(write(tmp_path, two))


def test_a_log_says_what_each_slot_would_get(config: Config) -> None:
    folder = config.profile_path.parent
    write_log(folder / "drive.log")
    found = survey_logs(config, [LogChoice(folder / "drive.log")])["motion"]
    speed, yaw = found.signals[SPEED], found.signals[YAW]
    assert (speed.values, speed.origin, speed.unit) == (40, "SPEED.SPEED", "m/s")
    assert speed.rate_hz == pytest.approx(20, rel=0.05) and speed.low == pytest.approx(10)
    assert speed.high == pytest.approx(11.95, abs=0.01) and speed.ok_share == 1.0
    assert yaw.never_share == pytest.approx(0.05) and yaw.ok_share == pytest.approx(0.95)
    assert found.unchecked == {LATITUDE} and LATITUDE not in found.signals and found.troubles == ()


def test_a_log_of_each_feed_is_checked_together(config: Config) -> None:
    folder = config.profile_path.parent
    write_log(folder / "drive.log")
    seconds = [sentence(f"GNRMC,0016{40 + n:02d}.00,A,4807.0,N,01131.0,E,1,2,010170,,,A") for n in range(2)]
    (folder / "gnss.nmea").write_bytes(b"".join(seconds))
    logs = [LogChoice(folder / "drive.log"), LogChoice(folder / "gnss.nmea")]
    found = survey_logs(config, logs)["motion"]
    assert found.unchecked == frozenset() and found.signals[LATITUDE].values == 2
    assert found.signals[LATITUDE].origin == "of itself"


def test_a_signal_that_a_slot_needs_and_the_log_never_has_is_named(config: Config) -> None:
    folder = config.profile_path.parent
    np.savez(
        folder / "other.npz",
        t=np.arange(9.0),
        src=np.zeros(9, int),
        address=np.full(9, 36),
        data=np.full(9, b"\2", "S8"),
    )
    with pytest.raises(
        ConfigError, match=r"slots\.place: needs Vehicle\.Speed \(SPEED\.SPEED\), which the log never has"
    ):
        survey_logs(config, [LogChoice(folder / "other.npz")])


def test_a_signal_that_the_profile_names_and_the_log_never_has_is_named_too(config: Config) -> None:
    folder = config.profile_path.parent
    speeds = np.arange(9.0)
    np.savez(folder / "half.npz", t=speeds, src=np.zeros(9, int), address=np.full(9, 180), data=np.full(9, b"\2", "S8"))
    with pytest.raises(
        ConfigError, match=r"slots\.place: takes .*Yaw \(KINEMATICS\.YAW_RATE\), which the log never has"
    ):
        survey_logs(config, [LogChoice(folder / "half.npz")])


def test_a_log_without_anything_that_a_slot_takes_is_refused(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing_needed = OnBoard(
        "signals", "none:none", "none:none", "none:none", uses=("Vehicle.CurrentLocation.Altitude",)
    )
    monkeypatch.setitem(ON_BOARD, "placing", nothing_needed)
    folder = config.profile_path.parent
    (folder / "gnss.nmea").write_bytes(sentence("GNRMC,001640.00,A,4807.0,N,01131.0,E,1,2,010170,,,A"))
    with pytest.raises(ConfigError, match="the log has none of the signals that it takes"):
        survey_logs(config, [LogChoice(folder / "gnss.nmea")])


def test_a_dbc_of_another_length_is_refused(config: Config) -> None:
    folder = config.profile_path.parent
    write_log(folder / "drive.log")
    (folder / "car.dbc").write_text(
        DBC.replace("SPEED: 8 A", 'SPEED: 6 A\n SG_ X : 0|8@1+ (1,0) [0|0] "" A').replace("47|16", "39|16")
    )
    with pytest.raises(
        ConfigError, match=r"SPEED \(0xB4\): 40 of 40 frames have another length \(8 bytes, the DBC says 6"
    ):
        survey_logs(config, [LogChoice(folder / "drive.log")])


def test_a_log_goes_to_the_feed_that_it_fits_or_that_is_named(config: Config, tmp_path: Path) -> None:
    source = config.profile.sources["motion"]
    assert isinstance(source, SignalsSource)
    with pytest.raises(ConfigError, match=r"fits 0 feeds: say which one as --log FEED=.*\(bus\)"):
        survey(source, tmp_path, [LogChoice(tmp_path / "drive.csv")], [SPEED])
    write_npz(tmp_path / "a.npz")
    found = survey(source, tmp_path, [LogChoice(tmp_path / "a.npz", "bus", "0")], [SPEED])
    assert found.signals[SPEED].values == 40
    with pytest.raises(ConfigError, match="there is no such file"):
        survey(source, tmp_path, [LogChoice(tmp_path / "b.npz", "bus")], [SPEED])


def test_how_a_log_is_named_on_the_command_line(tmp_path: Path) -> None:
    assert LogChoice.parse("drive.log") == LogChoice(Path("drive.log"))
    assert LogChoice.parse("bus=a/drive.npz#0") == LogChoice(Path("a/drive.npz"), "bus", "0")
    assert LogChoice.parse("drive.npz#can1") == LogChoice(Path("drive.npz"), None, "can1")
    odd = tmp_path / "a=b#c.log"
    odd.touch()
    assert LogChoice.parse(str(odd)) == LogChoice(odd)
