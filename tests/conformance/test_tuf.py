"""The public TUF conformance suite, run against what vehicles verify and fetch with.

ROADLOOP_TUF_CONFORMANCE names a checkout of theupdateframework/tuf-conformance with an environment `env` in it, as its
`make dev` makes one; some of its tests need the program faketime.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CLIENT = Path(__file__).parent / "client"
LEAST_TESTS = 113
"""As many as the suite had when this was written: one that runs fewer has not been run."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture
def suite() -> Path:
    named = os.environ.get("ROADLOOP_TUF_CONFORMANCE")
    if not named:
        pytest.skip("ROADLOOP_TUF_CONFORMANCE names no checkout of theupdateframework/tuf-conformance")
    if shutil.which("faketime") is None:
        pytest.skip("the conformance suite needs the program faketime")
    return Path(named)


def test_the_conformance_suite_passes(suite: Path) -> None:
    ran = subprocess.run(
        [
            str(suite / "env" / "bin" / "python"),
            "-m",
            "pytest",
            "tuf_conformance",
            "-q",
            "-p",
            "no:cacheprovider",
            "--entrypoint",
            f"{sys.executable} {CLIENT}",
        ],
        cwd=suite,
        capture_output=True,
        text=True,
        check=False,
    )
    said = ran.stdout[-4000:] + ran.stderr[-1000:]
    assert ran.returncode == 0, said
    passed = re.search(r"(\d+) passed", ran.stdout)
    assert passed is not None and int(passed.group(1)) >= LEAST_TESTS, said
