"""docs/signals.md: its tables are those of the catalogue, and its profiles are read.

`python -m tests.unit.test_signals_docs` writes the tables.
"""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from roadloop_agent.config import ProfileFile
from roadloop_agent.signals_config import SignalsSource, check_signals
from roadloop_models.recordings.layouts import CAR_OBD, IMU_AXES, KIT_OBD, RAW_OBD_SPEED, SPEED_REFERENCE, Map
from roadloop_models.settings import read_settings
from roadloop_models.signals import VSS, known_units

PAGE = Path(__file__).parents[2] / "docs" / "signals.md"


def paths() -> str:
    rows = [
        f"| `{spec.path}` | {spec.unit} | {spec.low:g} to {spec.high:.5g} | {spec.stale_s:g} | {spec.meaning} |"
        for spec in VSS.values()
    ]
    return "\n".join(["| path | unit | range | stale after, s | what it is |", "|---|---|---|---|---|", *rows])


def units() -> str:
    rows = {spec.unit: ", ".join(f"`{unit}`" for unit in known_units(spec.unit)) for spec in VSS.values()}
    lines = [f"| {unit} | {known} |" for unit, known in rows.items()]
    return "\n".join(["| in the table | what may come in |", "|---|---|", *lines])


def layouts() -> str:
    def names(columns: Map) -> str:
        return ", ".join(f"`{path}`" for path, _ in columns.values())

    location = "`CurrentLocation.Latitude`, `.Longitude`, `.Altitude`"
    course = "`CurrentLocation.Speed`, `.Heading`"
    rows = [
        ("NavINST'19 OBD speed (`gps_sec,ref_vf,obd_speed` CSV)", names(SPEED_REFERENCE)),
        ("NavINST'19 raw OBD speed (`gps_sec,odom_speed` CSV)", names(RAW_OBD_SPEED)),
        ("smartLoc (`odom.txt`, with `gt.txt` beside it)", f"`Speed`, `AngularVelocity.Yaw`, {location}"),
        (
            "RTKLIB GNSS_IMU (CSV with its `.tag`, positions beside it)",
            f"{names(IMU_AXES)}, {location}, {course}, `.HorizontalAccuracy`",
        ),
        (
            "comma2k19 segment (npz)",
            "`Speed`, four `Chassis.Axle.….Wheel.….Speed`, `Chassis.SteeringWheel.Angle`, three `Acceleration.…`, "
            f"three `AngularVelocity.…`, {location}, {course}",
        ),
        ("KIT Automotive OBD-II (npz)", names(KIT_OBD)),
        ("carOBD (npz)", names(CAR_OBD)),
    ]
    lines = [f"| {what} | {signals} |" for what, signals in rows]
    return "\n".join(["| data set | signals, without `Vehicle.` |", "|---|---|", *lines])


TABLES: dict[str, Callable[[], str]] = {"paths": paths, "units": units, "layouts": layouts}


def with_table(page: str, name: str) -> str:
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n{TABLES[name]()}\n{end}{after}"


@pytest.mark.parametrize("name", TABLES)
def test_the_tables_are_those_of_the_catalogue(name: str) -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert with_table(page, name) == page, "run: python -m tests.unit.test_signals_docs"


def test_the_profiles_of_the_page_are_read(tmp_path: Path) -> None:
    profiles = re.findall(r"```toml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(profiles) == 2
    for text in profiles:
        path = tmp_path / "profile.toml"
        path.write_text(f"{text}\n[slots]\n", encoding="utf-8")
        source = read_settings(path, ProfileFile).sources["motion"]
        assert isinstance(source, SignalsSource)
        check_signals("sources.motion", source)


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    for table in TABLES:
        text = with_table(text, table)
    PAGE.write_text(text, encoding="utf-8")
