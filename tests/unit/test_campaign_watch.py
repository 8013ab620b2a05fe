"""Campaigns as pure decisions: the language, the watch, its budgets, coarsened positions, clips and traces."""

import contextlib
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadloop_cloud.cli.campaign import EXAMPLE
from roadloop_models.campaigns.budgets import Budgets
from roadloop_models.campaigns.campaign import Budget, Campaign, Highlight, Keep, read_campaign, understand
from roadloop_models.campaigns.clip import pack
from roadloop_models.campaigns.condition import parse_condition
from roadloop_models.campaigns.novelty import Novelty, image_features
from roadloop_models.campaigns.positions import LATITUDE, LONGITUDE, coarse
from roadloop_models.campaigns.trace import TraceHead, TraceMoment, read_trace, trace_line
from roadloop_models.campaigns.watch import Moment, Watch
from roadloop_models.campaigns.watched import told
from roadloop_models.contract.streams import SIGN_DECISION
from roadloop_models.errors import ConfigError, DataError

NAMES = ("confidence", "class_id", "uncertainty", "Vehicle.Speed")
DAY_S = 86_400.0


@pytest.mark.parametrize(
    ("text", "values", "holds"),
    [
        ("confidence < 0.5", {"confidence": 0.4}, True),
        ("confidence < 0.5", {"confidence": 0.6}, False),
        ("0.2 < confidence <= 0.5 and Vehicle.Speed > 3", {"confidence": 0.5, "Vehicle.Speed": 4.0}, True),
        ("class_id in (14, 17)", {"class_id": 17.0}, True),
        ("class_id not in (14, 17)", {"class_id": 17.0}, False),
        ("not class_id == 14", {}, False),  # what is unknown fires nothing, not even its contrary
        ("class_id == 14 or confidence < 0.5", {"confidence": 0.1}, True),
        ("known(confidence) and not known(class_id)", {"confidence": 0.1}, True),
        ("abs(confidence - 0.5) * 2 < 0.1", {"confidence": 0.52}, True),
        ("max(confidence, class_id) / 0 > 1", {"confidence": 1.0, "class_id": 1.0}, False),
        ("min(confidence, class_id) == -1", {"confidence": 1.0, "class_id": -1.0}, True),
        ("True", {}, True),
    ],
)
def test_a_condition_fires_where_it_is_certainly_true(text: str, values: dict[str, float], holds: bool) -> None:
    assert parse_condition(text, NAMES).holds(values) is holds


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "confidence.__class__ == 1",
        "(lambda: 1)() == 1",
        "[x for x in (1, 2)]",
        "confidence",
        "confidence < 'a'",
        "confidence ** 2 < 1",
        "confidence < 1e400",
        "open(confidence) < 1",
        "confidence if True else class_id",
        "(confidence := 1) < 2",
        "confidence <",
        "min(confidence) < 1",
        "abs(confidence, class_id) < 1",
        "known(confidence, class_id)",
        "confidence is 1",
        "f'{confidence}' < 1",
        "(" * 240 + "confidence" + ")" * 240 + " < 1",
        "-" * 400 + "confidence < 1",
        "confidence < 1 and " * 30 + "True",
    ],
)
def test_what_is_not_of_the_language_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="^when: "):
        parse_condition(text, NAMES)


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="'confidense' is unknown; did you mean 'confidence'"):
        parse_condition("confidense < 1", NAMES)


@given(st.text(max_size=120))
def test_any_text_is_understood_or_refused(text: str) -> None:
    with contextlib.suppress(ConfigError):
        parse_condition(text, NAMES).holds({"confidence": 0.5})


@dataclass(frozen=True)
class Made:
    numbers: tuple[int, ...]
    size_bytes: int = 100


class Sent:
    """An outlet that remembers."""

    def __init__(self) -> None:
        self.items: list[tuple[str, tuple[int, ...]]] = []

    def develop(self, about: int, numbers: Sequence[int]) -> Made | None:
        return Made(tuple(numbers))

    def send(self, campaign: str, item: Made) -> None:
        self.items.append((campaign, item.numbers))

    @property
    def frames(self) -> list[int]:
        return [number for _, numbers in self.items for number in numbers]


def campaign(when: str = "confidence < 0.5", bytes_per_day: int = 1 << 20, **more: object) -> Campaign:
    budget = Budget(bytes_per_day=bytes_per_day, hits_per_day=more.pop("hits_per_day", 1000))  # type: ignore[arg-type]
    return Campaign(name="unsure", task="traffic-sign", when=when, budget=budget, **more)  # type: ignore[arg-type]


def run(confidences: Sequence[float], *campaigns: Campaign, budgets: Budgets | None = None) -> tuple[Watch[Made], Sent]:
    sent = Sent()
    watch = Watch("sign", [understand(one) for one in campaigns], budgets or Budgets({}), sent)
    for number, confidence in enumerate(confidences):
        watch.step(Moment(number, float(number), {"confidence": confidence, "uncertainty": 1 - confidence}))
    watch.end()
    return watch, sent


def test_frames_around_a_hit_are_sent_once_each() -> None:
    around = campaign(keep=Keep(before_frames=2, after_frames=1))
    watch, sent = run([0.9, 0.9, 0.9, 0.1, 0.9, 0.2, 0.9, 0.9, 0.9], around)
    assert sent.frames == [1, 2, 3, 4, 5, 6]
    assert (watch.tallies["unsure"].hits, watch.tallies["unsure"].items) == (2, 6)


def test_two_campaigns_send_a_frame_once() -> None:
    _, sent = run([0.1, 0.9], campaign(), campaign("confidence < 0.2"))
    assert sent.frames == [0]


def test_after_a_hit_a_campaign_rests() -> None:
    _, sent = run([0.1] * 7, campaign(rest_frames=2))
    assert sent.frames == [0, 3, 6]


def test_the_days_bytes_and_hits_end_a_campaign_until_the_next_day() -> None:
    budgets, sent = Budgets({}), Sent()
    watch = Watch("sign", [understand(campaign(bytes_per_day=250))], budgets, sent)
    for number in range(6):
        watch.step(Moment(number, float(number), {"confidence": 0.1}))
    assert sent.frames == [0, 1, 2]  # the third overdraws the 250 bytes
    assert watch.tallies["unsure"].refused == 3
    budgets.tick(0.0, 0.0)
    budgets.tick(DAY_S + 1, DAY_S + 1)
    watch.step(Moment(6, 6.0, {"confidence": 0.1}))
    assert sent.frames[-1] == 6
    assert run([0.1] * 9, campaign(hits_per_day=4))[1].frames == [0, 1, 2, 3]


def test_a_budget_survives_a_kill_and_a_clock_that_jumps() -> None:
    limit = Budget(bytes_per_day=6400, hits_per_day=640)
    budgets = Budgets({})
    budgets.tick(0.0, 1000.0)
    budgets.take_hit("sign/unsure", limit)
    budgets.spend("sign/unsure", 6300)
    assert budgets.is_unsaved
    again = Budgets(budgets.facts({"sign/unsure": limit}))  # the process was killed after this was written
    again.tick(5.0, 1010.0)
    assert not again.has_bytes("sign/unsure", limit)  # 6300 and the reserve of a 64th
    clean = Budgets(budgets.facts({"sign/unsure": limit}, ended=True))
    assert clean.has_bytes("sign/unsure", limit)
    for jump_s in (10 * DAY_S, -10 * DAY_S, 20 * DAY_S):  # the first jump may end a day, no other may
        again.tick(6.0, 1010.0 + jump_s)
        again.spend("sign/unsure", 7000)
        assert not again.has_bytes("sign/unsure", limit)


def test_highlights_are_the_best_share_of_what_came_before() -> None:
    rng = np.random.default_rng(0)
    confidences = rng.uniform(0.0, 1.0, 2000).tolist()
    _, sent = run(confidences, campaign("True", highlight=Highlight(by="uncertainty", share=0.1)))
    assert 0.07 * 2000 < len(sent.frames) < 0.13 * 2000
    assert max(confidences[number] for number in sent.frames[20:]) < 0.2


def test_a_shadow_that_disagrees_late_fires_about_the_frame_that_it_saw() -> None:
    sent = Sent()
    watch = Watch("sign", [understand(campaign("disagreement == 1", keep=Keep(before_frames=1)))], Budgets({}), sent)
    for number in range(8):
        watch.step(Moment(number, float(number), {"confidence": 0.9}))
    watch.hear(5, {"disagreement": 0.0})
    assert sent.frames == []
    watch.hear(4, {"disagreement": 1.0})
    watch.hear(4, {"disagreement": 1.0})
    watch.hear(-3, {"disagreement": 1.0})
    assert sent.frames == [3, 4]


def test_a_clip_of_signals_is_sent_when_its_end_has_passed() -> None:
    jam = Campaign(
        name="jam",
        task="drive-state",
        when="state == 2",
        keep=Keep(before_s=2.0, after_s=1.0),
        budget=Budget(bytes_per_day=1 << 20),
    )
    sent = Sent()
    watch = Watch("drive", [understand(jam)], Budgets({}), sent)
    for number in range(20):
        values = {"state": 2.0 if number in (10, 11, 19) else 1.0} if number % 2 == 0 or number > 9 else None
        watch.step(Moment(number, 0.5 * number, values))
        if number == 12:
            assert sent.items == []
        assert watch.oldest >= number - 8
    assert sent.items == [("jam", (6, 7, 8, 9, 10, 11, 12))]
    watch.end()
    assert sent.items[1] == ("jam", (15, 16, 17, 18, 19))


def test_novelty_is_high_for_what_was_not_seen() -> None:
    rng, novelty = np.random.default_rng(1), Novelty()
    usual = [novelty.score(image_features(rng.integers(100, 120, (32, 32, 3), dtype=np.uint8))) for _ in range(50)]
    night = novelty.score(image_features(np.full((32, 32, 3), 5, dtype=np.uint8)))
    assert max(usual) < night and night > 0.95


def test_what_conditions_see_is_what_the_cloud_will_read() -> None:
    values = told(SIGN_DECISION, [7.0, 14.0, 0.49996, 0.12345, 80.4, 3.0, 1.0, 0.0])
    assert values["confidence"] == 0.5 and values["class_id"] == 14.0
    assert values["uncertainty"] == pytest.approx(1 - (0.5 + 0.123) / 2)


@given(st.floats(-89, 89), st.floats(-180, 180), st.floats(1, 10_000))
def test_a_coarse_position_is_near_and_stays_where_it_is(latitude: float, longitude: float, position_m: float) -> None:
    once = coarse({LATITUDE: latitude, LONGITUDE: longitude, "Vehicle.Speed": 3.0}, position_m)
    again = coarse(once, position_m)
    assert again[LATITUDE] == pytest.approx(once[LATITUDE], abs=1e-9)
    assert again[LONGITUDE] == pytest.approx(once[LONGITUDE], abs=1e-6)
    assert abs(once[LATITUDE] - latitude) * 111_320 <= 0.51 * position_m
    assert once["Vehicle.Speed"] == 3.0


def test_positions_of_one_field_cannot_be_told_apart() -> None:
    places = {(coarse({LATITUDE: 52.51 + d, LONGITUDE: 13.37 + d}, 1000.0)[LATITUDE]) for d in (0.0, 1e-4, 5e-4)}
    assert len(places) == 1
    assert math.isnan(coarse({LONGITUDE: 13.0}, 100.0)[LONGITUDE])
    assert coarse({LATITUDE: 52.5}, 0.0) == {LATITUDE: 52.5}


def test_a_clip_is_an_npz_of_paths() -> None:
    content = pack([(0.0, {"Vehicle.Speed": 1.0}), (0.5, {"Vehicle.Speed": math.nan, LATITUDE: 52.5})])
    with np.load(io.BytesIO(content), allow_pickle=False) as clip:
        assert clip["t"].tolist() == [0.0, 0.5]
        assert clip["Vehicle.Speed"][0] == 1.0 and np.isnan(clip["Vehicle.Speed"][1])
        assert clip[LATITUDE].dtype == np.float64


def test_a_trace_is_read_as_it_was_written_and_damage_is_named(tmp_path: Path) -> None:
    path = tmp_path / "drive.trace"
    lines: list[TraceHead | TraceMoment] = [
        TraceHead(vehicle="van-1", slots={"sign": "traffic-sign"}),
        TraceMoment(slot="sign", t_s=0.0, t_ms=5, values={"confidence": 0.5}, size_bytes=10, sha256="0" * 64),
    ]
    path.write_bytes(b"".join(map(trace_line, lines)))
    assert list(read_trace(path)) == lines
    path.write_bytes(trace_line(lines[0]) + b'{"t_s": 1')
    with pytest.raises(DataError, match="line 2"):
        list(read_trace(path))
    path.write_bytes(trace_line(lines[1]))
    with pytest.raises(DataError, match="line 1: names no vehicle"):
        list(read_trace(path))
    with pytest.raises(DataError, match="no-such"):
        list(read_trace(tmp_path / "no-such"))


def test_the_example_and_the_campaigns_of_the_documentation_are_good(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "campaigns.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```toml\n((?:#[^\n]*\n)?name = .*?)^```", page, flags=re.DOTALL | re.MULTILINE)
    assert EXAMPLE in blocks and len(blocks) >= 3
    for number, block in enumerate(blocks):
        path = tmp_path / f"{number}.toml"
        path.write_text(block)
        read_campaign(path)


FILE = """
name = "unsure-at-speed"
task = "traffic-sign"
when = "confidence < 0.6 and Vehicle.Speed > 5"
rest_frames = 5
[keep]
before_frames = 1
[budget]
bytes_per_day = 2000000
"""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (('task = "traffic-sign"', 'task = "traffic-speed"'), "task: 'traffic-speed' has no campaigns"),
        (("confidence <", "konfidence <"), "when: 'konfidence' is unknown; did you mean 'confidence'"),
        (("before_frames = 1", "before_s = 1.0"), "keep.before_s: traffic-sign is measured in keep.before_frames"),
        (("rest_frames", "rest_frame"), "rest_frame: unknown key; did you mean 'rest_frames'"),
        (("before_frames = 1", "before_frames = 65"), "keep.before_frames"),
        (("bytes_per_day = 2000000", ""), "bytes_per_day"),
    ],
)
def test_a_campaign_file_is_read_or_refused_by_name(tmp_path: Path, change: tuple[str, str], said: str) -> None:
    path = tmp_path / "campaign.toml"
    path.write_text(FILE)
    assert read_campaign(path).rest_frames == 5
    path.write_text(FILE.replace(*change))
    with pytest.raises(ConfigError, match="campaign.toml: ") as refused:
        read_campaign(path)
    assert said in str(refused.value).replace("`", "").replace("$.", "")
