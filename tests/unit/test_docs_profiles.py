"""Profiles that the documentation shows are ones that the agent takes."""

import re
from pathlib import Path

import pytest

from roadloop_agent.config import load_profile

DOCS = Path(__file__).parents[2] / "docs"
PROFILES = [
    pytest.param(block, id=f"{page.stem}-{number}")
    for page in sorted(DOCS.glob("*.md"))
    for number, block in enumerate(
        re.findall(r"^```toml\n(hardware.*?)^```", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    )
    if "[slots." in block  # a page may also show only how a source is mapped
]


@pytest.mark.parametrize("block", PROFILES)
def test_a_profile_of_the_documentation_is_good(block: str, tmp_path: Path) -> None:
    path = tmp_path / "profile.toml"
    path.write_text(block, encoding="utf-8")
    assert load_profile(path).slots
