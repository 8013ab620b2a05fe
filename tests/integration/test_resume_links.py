"""A file of 3 MB over a link that drops three times, as the benchmark measures it: what the vehicle receives in all."""

from pathlib import Path

import pytest

from tests.bench.resume_links import CUTS, SIZE_BYTES, https_bytes, mqtt_bytes

pytestmark = pytest.mark.slow


def test_by_mqtt_what_was_under_way_is_lost_and_nothing_else(tmp_path: Path) -> None:
    received = mqtt_bytes(tmp_path)
    assert SIZE_BYTES < received <= 3_250_000
    assert received - SIZE_BYTES < (len(CUTS) + 0.5) * 64 * 1024, "half a block by each cut, and what carries them"


def test_by_https_it_goes_on_at_the_byte(tmp_path: Path) -> None:
    assert SIZE_BYTES < https_bytes(tmp_path) <= 3_050_000
