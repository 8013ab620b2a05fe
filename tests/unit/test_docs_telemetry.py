"""docs/telemetry.md: its tables are ones that the agent takes, and its comments name the defaults."""

import re
from pathlib import Path

from roadloop_agent.config import NetworkTable, SpoolTable, VehicleFile
from roadloop_models.settings import read_settings

PAGE = Path(__file__).parents[2] / "docs" / "telemetry.md"


def test_the_tables_of_the_page_are_good(tmp_path: Path) -> None:
    blocks = re.findall(r"^```\n(\[.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    assert len(blocks) == 2
    path = tmp_path / "vehicle.toml"
    path.write_text('[vehicle]\nid = "van-1"\n[broker]\nhost = "127.0.0.1"\n' + "".join(blocks), encoding="utf-8")
    file = read_settings(path, VehicleFile)
    assert file.spool == SpoolTable()
    shown = file.network
    usual = NetworkTable()
    assert (shown.metered, shown.default_class, shown.highlight_share) == (
        usual.metered,
        usual.default_class,
        usual.highlight_share,
    )
    assert shown.on_metered.sends == usual.on_metered.sends
