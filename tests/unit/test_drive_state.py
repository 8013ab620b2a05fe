"""What drive-state computes around its model: the minute of signals, its statistics, decisions, faults and figures."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadloop_models.drive_state.decision import STATES, Answers, ReadAnswers, decide
from roadloop_models.drive_state.faults import FAULTS, Fault, inject
from roadloop_models.drive_state.judging import (
    FaultWindow,
    SpeedRows,
    fault_figures,
    fault_windows,
    roc_auc,
    speed_figures,
    speed_rows,
    state_figures,
    window_ends,
)
from roadloop_models.drive_state.rolling import HOLD_ROWS, RollingWindow
from roadloop_models.drive_state.signals import CLIP, COUNT, NAMES, SIGNALS, SPEED
from roadloop_models.drive_state.window import FEATURES, ROWS, STEP_ROWS, ObdWindow, scale_rows, statistics
from roadloop_models.errors import FailedError, ModelInputError
from roadloop_models.signals import VSS

MAP = NAMES.index("MAP")


def _rows(count: int, seed: int = 0) -> np.ndarray:
    """Values near their centres, all known."""
    random = np.random.default_rng(seed)
    centres, scales = (np.array([getattr(signal, name) for signal in SIGNALS]) for name in ("centre", "scale"))
    return (centres + 0.3 * scales * random.standard_normal((count, COUNT))).astype(np.float32)


def test_every_signal_is_in_the_catalogue_and_its_range_fits_the_scale() -> None:
    assert len(set(NAMES)) == COUNT
    for signal in SIGNALS:
        assert VSS[signal.path].low <= signal.centre <= VSS[signal.path].high


def test_an_unknown_value_becomes_the_centre_and_is_told() -> None:
    values = _rows(ROWS)
    values[5, MAP] = math.nan
    scaled, known = scale_rows(values)
    assert (scaled[5, MAP], known[5, MAP]) == (0.0, 0.0)
    assert known.sum() == ROWS * COUNT - 1
    assert np.abs(scaled).max() <= CLIP


def test_the_features_of_a_step_are_its_mean_its_share_and_its_differences() -> None:
    values = _rows(ROWS)
    values[STEP_ROWS, MAP] = math.nan
    (steps,) = ObdWindow()(values)
    assert steps.shape == (1, ROWS // STEP_ROWS, FEATURES * COUNT)
    by_feature = steps[0, 1].reshape(FEATURES, COUNT)
    scaled, _ = scale_rows(values)
    assert by_feature[0] == pytest.approx(scaled[STEP_ROWS : 2 * STEP_ROWS].mean(axis=0), abs=1e-6)
    assert by_feature[1, MAP] == pytest.approx(1 - 1 / STEP_ROWS)
    assert (by_feature[2:4, MAP] == 0).all()
    expected = np.clip(8.0 * np.diff(scaled[: STEP_ROWS + 1, SPEED])[-1], -CLIP, CLIP)
    assert by_feature[2, SPEED] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("values", [_rows(ROWS - 1), _rows(ROWS).astype(np.float64), _rows(ROWS)[:, 1:]])
def test_a_window_of_another_form_is_refused(values: np.ndarray) -> None:
    with pytest.raises(ModelInputError, match="window of OBD signals"):
        ObdWindow()(values)


def test_a_frozen_signal_moves_less_and_a_noisy_one_more() -> None:
    sound = _rows(ROWS)
    frozen, noisy = sound.copy(), sound.copy()
    frozen[:, MAP] = frozen[0, MAP]
    noisy[:, MAP] += SIGNALS[MAP].scale * np.random.default_rng(1).standard_normal(ROWS)
    still, usual, restless = (statistics(*scale_rows(rows)).values[MAP, 1] for rows in (frozen, sound, noisy))
    assert still < usual < restless


def test_a_statistic_needs_half_of_its_rows() -> None:
    values = _rows(ROWS)
    values[-11:, MAP] = math.nan
    assert statistics(*scale_rows(values)).seen[MAP].tolist() == [False, True]
    values[-40:, MAP] = math.nan
    assert statistics(*scale_rows(values)).seen[MAP].tolist() == [False, False]
    assert statistics(*scale_rows(values)).seen[SPEED].all()


# The rolling window


@given(st.integers(ROWS, ROWS + 40), st.floats(-1e6, 1e6))
def test_rows_half_a_second_apart_are_the_window(count: int, start_s: float) -> None:
    rows = _rows(count)
    window = RollingWindow()
    for index, row in enumerate(rows):
        assert window.add(start_s + index / 2, row)
        assert window.full == (index >= ROWS - 1)
    assert np.array_equal(window.values, rows[-ROWS:])


@given(st.integers(3, 40))
def test_a_faster_source_gives_a_row_every_half_second(rate_hz: int) -> None:
    rows = _rows(rate_hz * 3)
    window = RollingWindow()
    began = [index for index, row in enumerate(rows) if window.add(index / rate_hz, row)]
    assert began == sorted({math.ceil(row * rate_hz / 2) for row in range(6)})
    assert np.array_equal(window.values[-len(began) :], rows[began])


@given(st.integers(2, 60))
def test_a_gap_is_held_for_two_seconds_and_unknown_after_that(gap: int) -> None:
    before, after = _rows(2)
    window = RollingWindow()
    window.add(0.0, before)
    assert window.add(gap / 2, after)
    held = min(HOLD_ROWS, gap - 1)
    assert (window.values[-gap - 1 : -gap + held] == before).all()
    assert np.isnan(window.values[ROWS - gap + held : -1]).all()
    assert (window.values[-1] == after).all()


@pytest.mark.parametrize("jump_s", [-0.6, -1e9, 60.6, 3e8])
def test_a_jump_of_time_begins_anew(jump_s: float) -> None:
    window = RollingWindow()
    rows = _rows(ROWS + 1)
    for index in range(ROWS):
        window.add(index / 2, rows[index])
    assert window.full
    assert window.add(59.5 + jump_s, rows[ROWS])
    assert not window.full
    assert np.isnan(window.values[:-1]).all()


# Decisions


def _answers(**changes: object) -> Answers:
    answers: dict[str, object] = {
        "probabilities": (0.2, 0.3, 0.5),
        "speed_change_mps": 2.0,
        "expected": np.zeros((COUNT, 2), np.float32),
        "limit": np.full((COUNT, 2), 10.0, np.float32),
    }
    return Answers(**(answers | changes))  # type: ignore[arg-type]


def test_a_decision_says_the_speed_the_state_and_which_signal_is_odd() -> None:
    values = _rows(ROWS)
    observed = statistics(*scale_rows(values)).values
    expected = observed.copy()
    expected[MAP, 0] -= 30.0
    state = decide(values, _answers(expected=expected))
    assert state.speed_10s_mps == pytest.approx(values[-1, SPEED] + 2.0)
    assert (state.state, state.confidence) == ("jam", 0.5)
    assert state.anomaly_signal == "MAP"
    assert state.anomaly == pytest.approx(3.0)
    assert state.oddness[SPEED] == 0.0


def test_a_car_does_not_drive_backwards_in_ten_seconds() -> None:
    assert decide(_rows(ROWS), _answers(speed_change_mps=-500.0)).speed_10s_mps == 0.0


def test_what_is_unknown_is_not_judged() -> None:
    values = _rows(ROWS)
    values[-1, SPEED] = math.nan
    values[:, MAP] = math.nan
    state = decide(values, _answers(expected=np.full((COUNT, 2), 99.0, np.float32)))
    assert math.isnan(state.speed_10s_mps)
    assert math.isnan(state.oddness[MAP])
    assert state.anomaly_signal is not None
    assert state.anomaly_signal != "MAP"


def test_without_any_signal_there_is_no_anomaly() -> None:
    state = decide(np.full((ROWS, COUNT), math.nan, np.float32), _answers())
    assert math.isnan(state.anomaly)
    assert state.anomaly_signal is None


def _outputs() -> list[np.ndarray]:
    shapes = ((1, 3), (1, 1), (1, 2 * COUNT), (1, 2 * COUNT))
    return [np.zeros(shape, np.float32) for shape in shapes]


def test_answers_are_read_from_the_outputs() -> None:
    outputs = _outputs()
    outputs[0][0] = (0.0, math.log(3.0), 0.0)
    outputs[1][0, 0] = 0.5
    outputs[3][0, 2 * MAP + 1] = math.log(4.0)
    answers = ReadAnswers()(tuple(outputs))
    assert answers.probabilities == pytest.approx((0.2, 0.6, 0.2))
    assert answers.speed_change_mps == pytest.approx(0.5 * SIGNALS[SPEED].scale)
    assert answers.limit[MAP, 1] == pytest.approx(4.0)


def test_answers_of_another_form_or_not_finite_are_refused() -> None:
    with pytest.raises(ModelInputError, match="drive-state reads"):
        ReadAnswers()(tuple(_outputs()[:3]))
    outputs = _outputs()
    outputs[2][0, 3] = math.nan
    with pytest.raises(FailedError, match="not finite"):
        ReadAnswers()(tuple(outputs))


# Faults and figures


@given(st.sampled_from(FAULTS), st.integers(0, COUNT - 1), st.integers(1, ROWS - 2), st.integers(0, 1000))
def test_a_fault_changes_one_signal_from_its_start_on(fault: Fault, signal: int, start: int, seed: int) -> None:
    sound = _rows(ROWS)
    faulty, change = inject(sound, signal, start, fault, np.random.default_rng(seed))
    others = [index for index in range(COUNT) if index != signal]
    assert np.array_equal(faulty[:, others], sound[:, others])
    assert np.array_equal(faulty[:start], sound[:start])
    assert change > 0
    if fault in ("frozen", "stuck"):
        assert np.ptp(faulty[start:, signal]) == 0


def test_what_was_unknown_stays_unknown_under_a_fault() -> None:
    sound = _rows(ROWS)
    sound[70:80, MAP] = math.nan
    for fault in FAULTS:
        faulty, _ = inject(sound, MAP, 50, fault, np.random.default_rng(0))
        assert np.array_equal(np.isnan(faulty), np.isnan(sound))


@given(st.lists(st.integers(0, 5), min_size=1, max_size=20), st.lists(st.integers(0, 5), min_size=1, max_size=20))
def test_the_area_under_the_curve_counts_pairs(negative: list[int], positive: list[int]) -> None:
    pairs = [(high > low) + 0.5 * (high == low) for low in negative for high in positive]
    found = roc_auc(np.array(negative, np.float32), np.array(positive, np.float32))
    assert found == pytest.approx(sum(pairs) / len(pairs))


def test_faults_that_change_nothing_are_left_out() -> None:
    windows = list(fault_windows([np.tile(_rows(1), (400, 1))], 10, seed=1))
    assert "frozen" not in {window.fault for window in windows}
    assert {"", "stuck", "offset"} <= {window.fault or "" for window in windows}
    again = list(fault_windows([np.tile(_rows(1), (400, 1))], 10, seed=1))
    assert all(np.array_equal(one.values, other.values) for one, other in zip(windows, again, strict=True))


def test_fault_figures_count_what_is_above_the_alarm_of_sound_windows() -> None:
    values = _rows(ROWS)
    windows = [FaultWindow(values)] * 100 + [FaultWindow(values, "stuck", MAP)] * 4
    scores = np.concatenate([np.linspace(0, 1, 100), [0.5, 2.0, 3.0, 4.0]]).astype(np.float32)
    figures = fault_figures(windows, scores, [None] * 101 + ["MAP", "MAP", "Speed"])
    assert figures["anomaly_alarm_level"] == pytest.approx(0.99, abs=0.01)
    assert figures["found_stuck"] == 0.75
    assert figures["named_stuck"] == pytest.approx(2 / 3)
    assert figures["share_left_out_stuck"] == pytest.approx(0.96)
    assert figures["auc_stuck"] == pytest.approx(0.875)


def test_speed_figures_compare_on_the_same_rows() -> None:
    rows = SpeedRows(np.tile(np.arange(ROWS, dtype=np.float32), (3, 1)), np.full(3, 129.0, np.float32))
    figures = speed_figures(rows, np.full(3, 124.0, np.float32), rows)
    assert figures["mae_kmh_10s"] == pytest.approx(18.0)
    assert figures["mae_kmh_10s_last_value"] == pytest.approx(36.0)
    assert figures["mae_kmh_10s_last_5s_mean"] == pytest.approx(52.2)
    assert figures["mae_kmh_10s_linear"] == pytest.approx(0.0, abs=1e-2)
    assert figures["better_than_last_value"] == pytest.approx(0.5)


def test_windows_with_an_unknown_speed_are_not_compared() -> None:
    values = _rows(300)
    values[150, SPEED] = math.nan
    rows, known = speed_rows([values], 10)
    assert len(known) == len(window_ends(300, 10))
    assert len(rows.truth) == known.sum() < len(known)


def test_state_figures_are_of_windows_and_of_drives() -> None:
    truth = np.array([1, 1, 1, 2, 2])
    called = np.array([1, 1, 2, 2, 1])
    probabilities = np.full((5, 3), 0.2, np.float32)
    probabilities[np.arange(5), called] = 0.6
    probabilities[3, 2] = 0.7
    figures = state_figures(truth, probabilities, np.array([0, 0, 0, 1, 1]))
    assert figures["state_accuracy"] == pytest.approx(0.6)
    assert figures["state_accuracy_majority"] == pytest.approx(0.6)
    assert figures["state_balanced_accuracy"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert figures["drives_called_right"] == 1.0
    assert figures["windows_normal_as_jam"] == 1.0
    assert sum(figures[f"windows_{row}_as_{column}"] for row in STATES for column in STATES) == 5
