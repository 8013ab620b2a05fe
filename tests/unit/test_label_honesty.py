"""Labels far outside a cohort: who is odd, and when nobody can say."""

from pathlib import Path

import numpy as np
import pytest

from roadloop_cloud.captures import Captured, Decision
from roadloop_cloud.drift.decide import Rules
from roadloop_cloud.labels.honesty import CONTRADICTED, Heard, contradicted, liars, measured
from roadloop_cloud.labels.words import ClassValue, MeasuredValue, Verdict, Word, sample_item

ERROR = "error_60min_mph"


def fleet(count: int = 6, rows: int = 60, lies: dict[str, float] | None = None, *, blocks: int = 60) -> list[Heard]:
    """Errors of 3 mph or so; liars' are so much larger. So many blocks are what the rows of each are worth."""
    heard = []
    for number in range(count):
        vehicle = f"car-{number}"
        values = np.random.default_rng(number).normal((lies or {}).get(vehicle, 0.0), 3.0, rows)
        heard += [Heard(vehicle, ERROR, float(value), (1, row % blocks)) for row, value in enumerate(values)]
    return heard


def hardware(count: int = 6, odd: str = "") -> dict[str, str]:
    return {f"car-{number}": "another" if f"car-{number}" == odd else "board" for number in range(count)}


def test_who_lies_is_named_and_by_how_much() -> None:
    (liar,) = liars(fleet(lies={"car-2": 30.0}), hardware(), Rules(), 0.5)
    assert (liar.vehicle, liar.hardware, liar.quantity) == ("car-2", "board", ERROR)
    assert liar.ks == pytest.approx(1.0) and liar.others_ks < 0.3
    assert liar.mean == pytest.approx(30.0, abs=2.0) and liar.others_mean == pytest.approx(0.0, abs=2.0)


@pytest.mark.parametrize(
    ("heard", "of"),
    [
        (fleet(), hardware()),
        (fleet(lies={"car-2": 2.0}), hardware()),  # odd, but not far out
        (fleet(3, lies={"car-2": 30.0}), hardware(3)),  # too few to tell
        (fleet(lies={"car-1": 30.0, "car-2": 30.0, "car-3": 30.0}), hardware()),  # it is the cohort that changed
        (fleet(lies={"car-2": 30.0}, blocks=4), hardware()),  # four hours are four things, however many rows
        (fleet(lies={"car-2": 30.0}), hardware(odd="car-2")),  # alone with its hardware
        (fleet(lies={"car-2": 30.0}), {}),  # nobody knows them
        ([], hardware()),
    ],
)
def test_where_nobody_can_say_nobody_is_named(heard: list[Heard], of: dict[str, str]) -> None:
    assert liars(heard, of, Rules(), 0.5) == []


def test_a_liar_does_not_move_the_others_by_talking_more() -> None:
    loud = [
        Heard("car-0", ERROR, value, (2, row))
        for row, value in enumerate(np.random.default_rng(9).normal(40.0, 3.0, 20_000).tolist())
    ]
    heard = [one for one in fleet() if one.vehicle != "car-0"] + loud
    assert [liar.vehicle for liar in liars(heard, hardware(), Rules(), 0.5)] == ["car-0"]


def test_measured_labels_say_whose_they_are_and_an_hour_is_one_block() -> None:
    words = []
    for seq in (11, 12, 13):
        item, about = sample_item("speed-decision", "car-7", 3, seq)
        values = {ERROR: float(seq), "last_seq": 9.0}
        words.append(Word("traffic-speed", item, MeasuredValue(values), "outcome", "speed-decision", about=about))
    heard = list(measured(Verdict(word) for word in words))
    assert {(one.vehicle, one.quantity) for one in heard} == {("car-7", ERROR)}
    assert [one.value for one in heard] == [11.0, 12.0, 13.0]
    assert len({one.block for one in heard}) == 2


def test_decisions_are_held_against_labels() -> None:
    items = [Captured(str(n), "car-1", 1, "sign-decision", n, "image/png", n, Path()) for n in range(4)]
    verdicts = {str(n): Verdict(Word("traffic-sign", str(n), ClassValue("stop"), "person", "anna")) for n in range(3)}
    decisions = {"0": Decision(1, 0.9), "1": Decision(0, 0.9), "2": Decision(7, 0.9), "3": Decision(0, 0.9)}
    heard = list(contradicted(items, verdicts, decisions, ("yield", "stop")))
    assert [(one.quantity, one.value) for one in heard] == [
        (CONTRADICTED, 0.0),
        (CONTRADICTED, 1.0),
        (CONTRADICTED, 1.0),
    ]
    assert {one.block for one in heard} == {(1, "stop")}
