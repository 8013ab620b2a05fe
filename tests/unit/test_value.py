"""What telemetry is worth: surer, more usual, more frequent is worth less; the rest is bounded arithmetic."""

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadloop_agent.link.value import NEUTRAL, Appraiser, Memory
from roadloop_models.contract.streams import Field, Stream

SEEN = Stream("seen", (Field("id", 1), Field("kind", 1, "class"), Field("sure", 0.001, "confidence")))
MEASURED = Stream("measured", (Field("speed", 0.01, "numeric"), Field("count", 1)))
SILENT = Stream("silent", (Field("anything", 1),))
VITAL = Stream("vital", (Field("any", 1),), keep="health")
SHORT = Stream("short", (Field("any", 1),), keep="summary")
STREAMS = {stream.name: stream for stream in (SEEN, MEASURED, SILENT, VITAL, SHORT)}
NAN = math.nan


def make(share: float = 0.1) -> Appraiser:
    return Appraiser(Memory(), share, STREAMS)


def seen(kind: int, sure: float, count: int = 10) -> list[list[float]]:
    return [[float(index), float(kind), sure] for index in range(count)]


def test_what_a_stream_cannot_say_is_neutral() -> None:
    assert make().batch("silent", [[1.0], [2.0]]) == (NEUTRAL**3, False)


def test_health_is_worth_more_than_any_bulk_and_a_summary_more_than_that() -> None:
    health, summary = make().batch("vital", [[1.0]]), make().batch("short", [[1.0]])
    assert 1 < health.value < 2 < summary.value
    assert summary.highlight and not health.highlight


def test_the_less_sure_the_more_it_is_worth() -> None:
    values = [make().batch("seen", seen(1, sure))[0] for sure in (1.0, 0.9, 0.5, 0.1)]
    assert values == sorted(values) and values[0] < values[1]


def test_a_rare_class_is_worth_more_than_a_frequent_one() -> None:
    appraiser = make()
    for _ in range(20):
        appraiser.batch("seen", seen(1, 0.9))
    appraiser.batch("seen", seen(2, 0.9))
    rare, _ = appraiser.item("seen", [0.0, 2.0, 0.9])
    frequent, _ = appraiser.item("seen", [0.0, 1.0, 0.9])
    assert rare > 1.5 * frequent


def test_of_several_class_fields_each_is_counted_by_itself() -> None:
    stream = Stream("crossed", (Field("direction", 1, "class"), Field("kind", 1, "class")))
    appraiser = Appraiser(Memory(), 0.1, {"crossed": stream})
    for _ in range(20):
        appraiser.batch("crossed", [[0.0, 1.0]] * 10)
    appraiser.batch("crossed", [[1.0, 1.0], [0.0, 0.0]])
    rare = [appraiser.item("crossed", row).value for row in ([1.0, 0.0], [1.0, 1.0], [0.0, 0.0], [0.0, 1.0])]
    assert rare[0] > rare[1] == rare[2] > rare[3]


def test_what_is_far_from_all_before_is_worth_more() -> None:
    appraiser, random = make(), np.random.default_rng(1)
    usual = [appraiser.batch("measured", (random.normal(20, 2, (50, 1)) * [1, 0]).tolist())[0] for _ in range(50)]
    unusual, _ = appraiser.batch("measured", [[60.0, 0.0]] * 50)
    assert unusual > 1.5 * float(np.mean(usual[10:]))
    again = [appraiser.batch("measured", [[60.0, 0.0]] * 50)[0] for _ in range(200)]
    assert again[-1] < unusual / 2  # what stays is no news


def test_an_item_is_worth_what_its_decision_is_worth() -> None:
    appraiser = make()
    for _ in range(20):
        appraiser.batch("seen", seen(1, 0.99))
    unsure, _ = appraiser.item("seen", [0.0, 1.0, 0.2])
    sure, _ = appraiser.item("seen", [0.0, 1.0, 0.99])
    assert unsure > 10 * sure
    assert appraiser.item("nowhere", [1.0])[0] == appraiser.item("seen", [1.0])[0] == NEUTRAL**3


def test_highlights_are_about_the_share_asked_for_and_the_most_valuable() -> None:
    appraiser, random = make(0.1), np.random.default_rng(2)
    found = [appraiser.batch("seen", seen(1, float(sure))) for sure in random.uniform(0.3, 1.0, 2000)]
    best = [value for value, highlight in found if highlight]
    assert 0.07 < len(best) / len(found) < 0.13
    assert min(best[20:]) > np.quantile([value for value, _ in found], 0.8)
    assert not any(highlight for _, highlight in found[:9])
    assert not any(make(0.0).batch("seen", seen(1, float(sure)))[1] for sure in random.uniform(0, 1, 100))


def test_what_is_remembered_survives_a_restart() -> None:
    appraiser = make()
    for index in range(20):
        appraiser.batch("seen", seen(index % 3, 0.5 + index / 100))
    kept = msgspec.json.decode(msgspec.json.encode(appraiser.memory))
    again = Appraiser(msgspec.convert(kept, Memory, str_keys=True), 0.1, STREAMS)
    assert again.batch("seen", seen(1, 0.3)) == appraiser.batch("seen", seen(1, 0.3))


def test_a_stream_that_has_got_more_fields_is_learnt_anew() -> None:
    appraiser = make()
    for _ in range(20):
        appraiser.batch("measured", [[1.0, 0.0]])
    wider = Stream("measured", (Field("speed", 0.01, "numeric"), Field("count", 1, "numeric")))
    value, _ = Appraiser(appraiser.memory, 0.1, {"measured": wider}).batch("measured", [[1.0, 0.0]])
    assert value == NEUTRAL**3


@pytest.mark.parametrize("odd", [NAN, 1e300, -1e300, math.inf])
def test_values_that_cannot_be_do_no_lasting_harm(odd: float) -> None:
    appraiser = make()
    for index in range(30):
        appraiser.batch("measured", [[20.0 + index % 5, 0.0]])
        appraiser.batch("seen", seen(1, 0.9))
    value, _ = appraiser.batch("measured", [[odd, odd]])
    assert 0 <= value <= 1
    value, _ = appraiser.batch("seen", [[odd, odd, odd]])
    assert 0 <= value <= 1
    assert appraiser.batch("measured", [[22.0, 0.0]])[0] < 0.05


@given(st.lists(st.lists(st.tuples(st.integers(-3, 9), st.floats(0, 1)), min_size=1, max_size=5), max_size=30))
def test_a_value_is_between_0_and_1(batches: list[list[tuple[int, float]]]) -> None:
    appraiser = make()
    for rows in batches:
        value, _ = appraiser.batch("seen", [[0.0, float(kind), sure] for kind, sure in rows])
        assert 0 < value <= 1
