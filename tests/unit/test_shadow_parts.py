"""What a shadow is made of, without its process: budget, sums, what is another decision, who is in whose shadow."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadloop_agent.drive.shadow import attend, host
from roadloop_agent.drive.shadow.attend import Shadows
from roadloop_agent.drive.shadow.budget import SAVED_S, Budget
from roadloop_agent.drive.shadow.compare import AnyComparison, boxes, drive_state, localization, speed
from roadloop_agent.drive.shadow.host import Installed, Shadow
from roadloop_agent.drive.shadow.sums import PLACES, Sums
from roadloop_agent.ipc import ShadowSums, ShadowWish
from roadloop_agent.onboard import ON_BOARD, load_named
from roadloop_models.contract.messages import LOG_RATIO_MAX, ReleaseRef, ShadowReport
from roadloop_models.contract.shadows import add, add_counts
from roadloop_models.detect import Detections
from tests.unit.test_shadow_machine import CANDIDATE, INCUMBENT, OTHER


def test_every_task_says_what_another_decision_is() -> None:
    for task, on_board in ON_BOARD.items():
        comparison: AnyComparison = load_named(on_board.shadow)
        assert callable(comparison.decide) and callable(comparison.agree), task


# The budget.


@given(st.floats(0.01, 1.0), st.lists(st.floats(0.001, 2.0), min_size=50, max_size=200))
def test_no_more_than_the_share_is_spent(share: float, costs_s: list[float]) -> None:
    budget, now_s, spent_s = Budget(share, 0.0), 0.0, 0.0
    for cost_s in costs_s:
        now_s += 0.1
        if budget.allows(now_s):
            budget.spend(cost_s)
            spent_s += cost_s
        assert spent_s <= share * now_s + max(costs_s), "but for the one frame that overdraws it"


def test_a_pause_saves_no_more_than_a_few_seconds() -> None:
    budget = Budget(0.5, 0.0)
    assert budget.allows(1000.0)
    budget.spend(0.5 * SAVED_S)
    assert not budget.allows(1000.0)
    budget.spend(1.0)
    assert budget.wait_s == pytest.approx(2.0, abs=0.01)
    assert budget.allows(1000.0 + 2.1)


# Sums.


def test_what_was_compared_adds_up() -> None:
    sums = Sums()
    sums.compare(agrees=True, latency_us=200.0, incumbent_latency_us=100.0)
    sums.compare(agrees=False, latency_us=100.0, incumbent_latency_us=100.0)
    sums.compare_confidence(-0.25)
    report = sums.report(CANDIDATE, skipped=3)
    assert (report.frames, report.disagreed, report.skipped, report.confidence_frames) == (2, 1, 3, 1)
    assert report.latency_log_ratio_sum == pytest.approx(math.log(2))
    assert (report.confidence_delta_sum, report.confidence_delta_square_sum) == (-0.25, 0.0625)
    assert report.latency_counts == (0, 0, 0, 0, 0, 0, 1, 1) and sum(report.incumbent_latency_counts) == 2


@given(st.floats(0.0, 1e12), st.floats(0.0, 1e12))
def test_any_latency_has_a_place(latency_us: float, incumbent_us: float) -> None:
    sums = Sums()
    sums.compare(agrees=True, latency_us=latency_us, incumbent_latency_us=incumbent_us)
    assert sum(sums.latency_counts) == 1 and len(sums.latency_counts) <= PLACES
    if 2.0 <= latency_us < 2.0**PLACES:
        place = sums.latency_counts.index(1)
        assert 2.0**place <= latency_us < 2.0 ** (place + 1)
    assert abs(sums.latency_log_ratio_sum) <= LOG_RATIO_MAX


@given(st.lists(st.integers(0, 9)), st.lists(st.integers(0, 9)))
def test_counts_add_up_place_by_place(one: list[int], other: list[int]) -> None:
    total = add_counts(one, other)
    assert sum(total) == sum(one) + sum(other) and len(total) == max(len(one), len(other))
    assert total == add_counts(other, one)


def test_of_two_reports_the_later_one_says_the_state() -> None:
    one = ShadowReport(ref=CANDIDATE, state="running", frames=2, latency_counts=(1,))
    other = ShadowReport(ref=CANDIDATE, state="paused", frames=3, latency_counts=(1, 2))
    both = add(one, other)
    assert (both.frames, both.state, both.latency_counts) == (5, "paused", (2, 2))


# Another decision.


def found(*rows: tuple[float, float, float], labels: tuple[str, ...] = ("car", "bus")) -> boxes.Named:
    """Rows: left edge, score, class; each box is 10 x 10."""
    ordered = sorted(rows, key=lambda row: -row[1])
    return boxes.Named(
        Detections(
            [[left, 0.0, left + 10.0, 10.0] for left, _, _ in ordered],
            [score for _, score, _ in ordered],
            [int(index) for _, _, index in ordered],
        ),
        labels,
    )


@pytest.mark.parametrize(
    ("one", "other", "agree"),
    [
        (found(), found(), True),
        (found((0, 0.9, 0)), found((1, 0.6, 0)), True),
        (found((0, 0.9, 0)), found((1, 0.3, 0)), True),  # an unsure detection may be a partner
        (found((0, 0.9, 0), (50, 0.4, 0)), found((0, 0.9, 0)), True),  # and needs none
        (found((0, 0.9, 0)), found(), False),
        (found(), found((0, 0.9, 0)), False),
        (found((0, 0.9, 0)), found((8, 0.9, 0)), False),
        (found((0, 0.9, 0)), found((0, 0.9, 1)), False),
        (found((0, 0.9, 0)), found((0, 0.9, 1), labels=("bus", "car")), True),  # names decide, not numbers
        (found((0, 0.9, 0), (2, 0.8, 0)), found((1, 0.9, 0)), False),  # one box is one object
    ],
)
def test_detections_agree_where_each_finds_what_the_other_is_sure_of(
    one: boxes.Named, other: boxes.Named, agree: bool
) -> None:
    assert boxes.agree(one, other) is agree and boxes.agree(other, one) is agree


def test_forecasts_states_and_corrections_agree_within_a_tolerance() -> None:
    flat = np.full((207, 12), 60.0, dtype=np.float32)
    assert speed.agree(flat, flat + np.float32(2.9)) and not speed.agree(flat, flat + np.float32(3.1))
    assert drive_state.agree(("jam", 5.0), ("jam", 6.9)) and drive_state.agree(("jam", math.nan), ("jam", math.nan))
    assert not drive_state.agree(("jam", 5.0), ("free", 5.0)) and not drive_state.agree(("jam", 5.0), ("jam", 7.1))
    assert not drive_state.agree(("jam", 5.0), ("jam", math.nan))
    assert localization.agree(0.1, 0.14) and not localization.agree(0.1, 0.16)


# Who is in whose shadow.


@dataclass
class FakeShadow:
    """A shadow without a process."""

    candidate: Installed
    incumbent: Installed
    share: float
    paused: bool = False
    running: bool | None = None

    def start(self) -> None:
        self.running = True

    def stop(self) -> None:
        self.running = False

    def said(self, boot: int) -> ShadowSums:
        report = ShadowReport(ref=self.candidate.ref, state="running")
        return ShadowSums(boot=boot, slot="sign", run="a", incumbent=self.incumbent.ref, report=report)


@dataclass
class FakeSlot:
    """A slot that runs what the test says."""

    incumbent: Installed | None
    shadow: Any = None


@dataclass
class Board:
    """Drive's shadows over one fake slot."""

    slot: FakeSlot
    strained: bool = False
    now_s: float = 0.0
    opened: list[FakeShadow] = field(default_factory=list)
    told: list[ShadowSums] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.shadows = Shadows(
            slots={"sign": self.slot},
            open_shadow=self._open,
            strained=lambda: self.strained,
            say=self.told.append,
            clock=lambda: self.now_s,
            boot=1,
        )

    def _open(self, slot: str, candidate: Installed, incumbent: Installed, share: float) -> Shadow:
        shadow = FakeShadow(candidate, incumbent, share)
        self.opened.append(shadow)
        return shadow  # type: ignore[return-value]

    def want(self, ref: ReleaseRef | None, share: float = 0.2) -> None:
        self.shadows.want(ShadowWish(slot="sign", ref=ref, bundle_dir="/bundle", max_cpu_share=share))


def installed(ref: ReleaseRef) -> Installed:
    return Installed(ref, Path("/incumbent"))


@pytest.fixture
def board() -> Board:
    return Board(FakeSlot(installed(INCUMBENT)))


def test_a_candidate_is_started_once_and_told_of_every_second(board: Board) -> None:
    board.want(CANDIDATE)
    board.want(CANDIDATE)
    assert [shadow.running for shadow in board.opened] == [True] and board.slot.shadow is board.opened[0]
    board.now_s = attend.SAY_S
    board.shadows.poll()
    board.shadows.poll()
    assert len(board.told) == 2


def test_it_ends_where_nobody_is_wanted_and_says_its_last_word(board: Board) -> None:
    board.want(CANDIDATE)
    board.told.clear()
    board.want(None)
    assert board.opened[0].running is False and board.slot.shadow is None and len(board.told) == 1


def test_another_incumbent_gets_a_shadow_of_its_own(board: Board) -> None:
    board.want(CANDIDATE)
    board.slot.incumbent = installed(OTHER)
    board.shadows.poll()
    assert [shadow.running for shadow in board.opened] == [False, True]
    assert board.opened[1].incumbent.ref == OTHER


def test_nothing_runs_in_its_own_shadow(board: Board) -> None:
    board.want(CANDIDATE)
    board.slot.incumbent = installed(CANDIDATE)
    board.shadows.poll()
    assert board.opened[0].running is False and board.slot.shadow is None


def test_before_the_slot_runs_anything_there_is_no_shadow() -> None:
    board = Board(FakeSlot(None))
    board.want(CANDIDATE)
    assert board.opened == []
    board.slot.incumbent = installed(INCUMBENT)
    board.shadows.poll()
    assert len(board.opened) == 1


def test_a_vehicle_that_is_too_hot_or_too_busy_pauses_its_shadows(board: Board) -> None:
    board.want(CANDIDATE)
    board.strained = True
    board.shadows.poll()
    assert board.opened[0].paused
    board.strained = False
    board.shadows.poll()
    assert not board.opened[0].paused


def test_nothing_is_loaded_while_a_vehicle_is_too_hot_or_too_busy(board: Board) -> None:
    board.strained = True
    board.want(CANDIDATE)
    assert board.opened == []
    board.strained = False
    board.shadows.poll()
    assert len(board.opened) == 1


def test_a_wish_for_a_slot_that_is_not_there_is_ignored(board: Board) -> None:
    board.shadows.want(ShadowWish(slot="other", ref=CANDIDATE, bundle_dir="/bundle"))
    assert board.opened == []


def test_how_a_process_ended_says_whose_fault_it_was() -> None:
    assert host.ended(-9) == "by SIGKILL"
    for code, word in ((-11, "SIGSEGV"), (1, "exit code 1")):
        with pytest.raises(host.RefusedError, match=word):
            host.ended(code)
