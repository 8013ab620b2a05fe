"""How long a stage will still take."""

import pytest

from roadloop_cloud.training.eta import Eta, in_words
from roadloop_cloud.training.spec import TrainingProgress


def _at(eta: Eta, now_s: list[float], stage: str, done: int, at_s: float, resumed: bool = False) -> float | None:
    now_s[0] = at_s
    return eta(TrainingProgress(stage=stage, done=done, total=10, resumed=resumed)).eta_s


def test_the_pace_of_the_last_steps_counts() -> None:
    now_s = [0.0]
    eta = Eta(lambda: now_s[0])
    assert _at(eta, now_s, "train", 0, 0.0) is None
    assert _at(eta, now_s, "train", 1, 4.0) == pytest.approx(9 * 4.0)
    assert _at(eta, now_s, "train", 2, 8.0) == pytest.approx(8 * 4.0)
    assert _at(eta, now_s, "refit", 0, 9.0) is None, "another stage has another pace"
    assert _at(eta, now_s, "refit", 5, 10.0) == pytest.approx(1.0)


def test_a_run_that_goes_on_does_not_count_what_it_found_done() -> None:
    now_s = [0.0]
    eta = Eta(lambda: now_s[0])
    _at(eta, now_s, "train", 0, 0.0)
    assert _at(eta, now_s, "train", 6, 0.1, resumed=True) is None
    assert _at(eta, now_s, "train", 7, 3.1) == pytest.approx(9.0)


def test_people_read_it_in_words() -> None:
    step = TrainingProgress(stage="train", done=3, total=24, message="loss 0.7", eta_s=150.0)
    assert in_words(step) == "train 3/24: loss 0.7; 2.5 min left"
    assert in_words(TrainingProgress(stage="load", done=0, total=1)) == "load"
    checked = TrainingProgress(stage="check", done=3, total=300, eta_s=9.0)
    assert in_words(checked) == "check", "one line in a log, and not three hundred"
