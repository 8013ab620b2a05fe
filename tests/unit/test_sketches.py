"""Sketches: what they say of the values, that they add up, that liars are not believed, and that link loses little."""

import contextlib
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roadloop_agent.drive.observer import KEPT_ROWS, Observer
from roadloop_agent.drive.pipeline import Model
from roadloop_agent.ipc import FromDrive, Observed
from roadloop_agent.link.batcher import Intake, SealedBatch
from roadloop_agent.link.sketches import SketchBook, SketchMemory
from roadloop_models.contract import channels
from roadloop_models.contract.codec import decode
from roadloop_models.contract.messages import SKETCH_STREAM, ReleaseRef, SignalSketch, Sketch
from roadloop_models.errors import BundleError, MessageError
from roadloop_models.sketches import distance
from roadloop_models.sketches.kll_layout import check_kll
from roadloop_models.sketches.outcomes import FlowOutcomes, SpeedOutcomes
from roadloop_models.sketches.reference import Reference, decode_reference, encode_reference, make_reference
from roadloop_models.sketches.signals import DRIVE_STATE, SIGNALS, Signal
from roadloop_models.sketches.sketch import KLL_K, ValueSketch, decode_kll

REF = ReleaseRef(task="drive-state", release=1, version="1-a", manifest_sha256="5f" * 32)
WATCHED = (Signal("level", "a number", block="drive"),)


def reference(values: np.ndarray, ids: np.ndarray) -> Reference:
    return make_reference("drive-state", values[:, np.newaxis], {"drive": ids}, WATCHED)


def observed(rows: list[list[float]], boot: int = 1) -> Observed:
    return Observed(boot=boot, slot="state", ref=REF, bundle_dir="v", from_ms=1, to_ms=2, rows=rows)


def book(
    known: dict[tuple[int, str], int] | None = None, memory: SketchMemory | None = None, now_s: float = 0.0
) -> SketchBook:
    return SketchBook(
        period_s=60.0,
        known=known or {},
        memory=memory or SketchMemory(),
        reference=lambda directory: None,
        now_s=now_s,
    )


def sent(intake: list[Intake]) -> list[Sketch]:
    batches = [entry for entry in intake if isinstance(entry, SealedBatch)]
    return [decode(channels.SKETCH, batch.payload, Sketch) for batch in batches]


ROW = [30.0, 1.0, 0.9, 0.2, 16.0]


def test_a_sketch_says_where_the_values_are() -> None:
    values = np.random.default_rng(0).normal(50.0, 10.0, 20_000)
    sketch = ValueSketch("level", [40.0, 50.0, 60.0])
    for part in np.array_split(values, 7):
        sketch.add(part)
    sketch.add([math.nan, math.inf, 1e300])
    assert (sketch.rows, sketch.unknown) == (20_000, 3)
    assert sketch.counts.tolist() == np.histogram(values, [-np.inf, 40, 50, 60, np.inf])[0].tolist()
    assert sketch.mean == pytest.approx(values.mean())
    quantiles = sketch.quantiles(21)
    assert quantiles is not None
    ranks = [(values <= quantile).mean() for quantile in quantiles]
    assert np.abs(ranks - np.linspace(0, 1, 21)).max() < 0.03
    assert len(sketch.message().kll) < 2000


@given(st.lists(st.lists(st.floats(-1e6, 1e6), max_size=30), min_size=1, max_size=5))
@settings(deadline=None, max_examples=50)
def test_sketches_add_up(parts: list[list[float]]) -> None:
    merged, whole = ValueSketch("level", [-1.0, 0.0, 5.0]), ValueSketch("level", [-1.0, 0.0, 5.0])
    for part in parts:
        one = ValueSketch("level", [-1.0, 0.0, 5.0])
        one.add(part)
        merged.merge(one.message())
        whole.add(part)
    assert merged.rows == whole.rows
    assert merged.counts.tolist() == whole.counts.tolist()
    assert merged.total == pytest.approx(whole.total, abs=1e-3)


def _valid() -> SignalSketch:
    sketch = ValueSketch("level", [0.0])
    sketch.add(np.linspace(-1, 1, 500))
    return sketch.message()


@pytest.mark.parametrize("rows", [1, 2, 3, 127, 128, 129, 500, 5_000, 300_000])
def test_a_sketch_of_any_size_goes_and_comes(rows: int) -> None:
    sketch, target = ValueSketch("level", [0.0]), ValueSketch("level", [0.0])
    for part in np.array_split(np.random.default_rng(rows).normal(size=rows), min(rows, 3)):
        sketch.add(part)
    for _ in range(2):
        target.merge(sketch.message())
    assert target.message().rows == 2 * rows
    decode_kll(target.message())


@given(st.integers(0, 60), st.sampled_from([0, 1, 2, 5, 127, 128, 255]), st.integers(1, 8))
@settings(deadline=None, max_examples=500)
def test_a_damaged_beginning_never_reaches_the_library(at: int, value: int, length: int) -> None:
    valid = _valid()
    raw = bytearray(valid.kll)
    raw[at : at + length] = bytes([value] * length)
    with contextlib.suppress(ValueError):
        check_kll(bytes(raw), KLL_K, valid.rows)
        assert bytes(raw)[:7] in (valid.kll[:7], valid.kll[:3] + bytes([raw[3]]) + valid.kll[4:7])
        assert bytes(raw)[8:19] == valid.kll[8:19]


@given(st.integers(0, 2000), st.binary(min_size=1, max_size=8), st.integers(0, 40))
@settings(deadline=None, max_examples=300)
def test_damaged_bytes_are_refused_or_harmless(at: int, junk: bytes, cut: int) -> None:
    valid = _valid()
    raw = bytearray(valid.kll)
    raw[at % len(raw) : at % len(raw) + len(junk)] = junk
    damaged = SignalSketch(
        name="level", rows=valid.rows, total=valid.total, counts=valid.counts, kll=bytes(raw[: len(raw) - cut])
    )
    target = ValueSketch("level", [0.0])
    try:
        target.merge(damaged)
    except MessageError:
        return
    assert target.rows == valid.rows


@pytest.mark.parametrize(
    "lie",
    [
        {"rows": 499},
        {"counts": (500, 500)},
        {"total": 1e6},
        {"total": math.nan},
        {"kll": b""},
        {"counts": (100, 100, 300)},
    ],
)
def test_a_sketch_that_contradicts_itself_is_not_believed(lie: dict[str, object]) -> None:
    valid = _valid()
    fields = {name: getattr(valid, name) for name in ("name", "rows", "unknown", "total", "counts", "kll")}
    with pytest.raises(MessageError):
        ValueSketch("level", [0.0]).merge(SignalSketch(**{**fields, **lie}))


def test_the_design_effect_is_what_blocks_are_worth() -> None:
    generator = np.random.default_rng(1)
    independent = reference(generator.normal(size=6000), np.arange(6000) // 30).signals["level"]
    assert independent.design_effect == pytest.approx(1.0, abs=0.3)
    tracks = np.repeat(generator.normal(size=200), 30)  # thirty equal frames are worth one
    assert reference(tracks, np.arange(6000) // 30).signals["level"].design_effect == pytest.approx(30.0, rel=0.1)


def test_a_reference_survives_its_file_and_a_changed_one_is_refused() -> None:
    made = reference(np.random.default_rng(2).normal(size=500), np.arange(500) // 10)
    assert decode_reference(encode_reference(made)) == made
    broken = encode_reference(made).replace(b'"counts": [', b'"counts": [\n1,', 1)
    with pytest.raises(BundleError, match="counts"):
        decode_reference(broken)


def test_values_that_repeat_fall_into_the_same_bins_as_in_a_sketch() -> None:
    """3.6 times a whole number is no float32: rounded on one side only, all its rows would seem to have moved."""
    speeds_kmh = 3.6 * np.random.default_rng(5).integers(1, 30, 4000)
    made = reference(speeds_kmh, np.arange(4000) // 10).signals["level"]
    sketch = ValueSketch("level", made.edges)
    sketch.add(speeds_kmh)
    assert tuple(sketch.counts.tolist()) == made.counts


def test_too_few_blocks_make_no_reference() -> None:
    assert reference(np.arange(300.0), np.arange(300) // 100).signals == {}


def test_distances() -> None:
    even, moved = [10, 10, 10, 10], [0, 0, 20, 20]
    assert distance.ks(even, even) == 0 == distance.psi(even, even)
    assert distance.ks(even, moved) == 0.5
    assert distance.psi(even, moved) > 0.25
    assert distance.wasserstein([0.0, 1.0, 2.0], [3.0, 4.0, 5.0]) == pytest.approx(3.0)
    assert distance.ks_bound(1e9, 200.0, 0.05) == pytest.approx(0.096, abs=1e-3)
    assert distance.ks_bound(0.0, 10.0, 0.05) == math.inf


def test_the_bound_holds_over_independent_samples() -> None:
    """Exceeded by fewer samples than alpha says: the bound is one for all sizes."""
    generator = np.random.default_rng(3)
    base, edges, exceeded = generator.normal(size=4000), np.linspace(-2, 2, 31), 0
    counts = np.bincount(np.searchsorted(edges, base), minlength=32)
    bound = distance.ks_bound(4000, 300, 0.05)
    for _ in range(400):
        window = np.bincount(np.searchsorted(edges, generator.normal(size=300)), minlength=32)
        exceeded += distance.ks(counts, window) > bound
    assert exceeded <= 0.05 * 400 + 10


def test_forecasts_are_measured_when_the_outcome_arrives() -> None:
    outcomes = SpeedOutcomes()
    for step in range(30):
        errors = outcomes.observe(step, np.full(4, 50.0, dtype=np.float32))
        assert math.isfinite(errors.rmse_15min) == (step >= 3)
        assert math.isfinite(errors.rmse_60min) == (step >= 12)
        forecast_mph = np.full((4, 12), 50.0, dtype=np.float32)
        forecast_mph[:, 2], forecast_mph[:, 11] = 52.0, 47.0
        outcomes.forecast(step, forecast_mph)
    assert errors.rmse_15min == pytest.approx(2.0)
    assert errors.median_15min == pytest.approx(2.0)
    assert errors.rmse_60min == pytest.approx(3.0)
    assert errors.bias_60min == pytest.approx(-3.0)
    assert math.isnan(outcomes.observe(5, np.full(4, 50.0, dtype=np.float32)).rmse_15min)  # the source began anew


def test_a_forecast_of_flow_is_about_the_next_step_alone() -> None:
    outcomes = FlowOutcomes()
    outcomes.forecast(7, 100.0)
    assert outcomes.observe(8, 90.0) == 10.0
    assert math.isnan(outcomes.observe(9, 90.0))


def test_link_sends_a_sketch_a_period() -> None:
    one = book()
    one.add(observed([ROW] * 5))
    one.add(observed([[*ROW[:2], math.nan, *ROW[3:]]]))
    assert one.due(59.0) == []
    (sketch,) = sent(one.due(60.0))
    assert (sketch.seq, sketch.decisions, sketch.ref) == (1, 6, REF)
    assert {signal.name: signal.rows for signal in sketch.signals} == {
        signal.name: 5 if signal.name == "confidence" else 6 for signal in DRIVE_STATE
    }
    assert one.due(120.0) == []
    one.add(observed([ROW]))
    assert [sketch.seq for sketch in sent(one.due(181.0))] == [2]


def test_nothing_is_numbered_before_drive_is_heard() -> None:
    first = book()
    first.add(observed([ROW] * 3))
    again = book(memory=first.memory(30.0))
    assert again.due(500.0) == []
    again.add(observed([ROW], boot=2))
    (sketch,) = sent(again.due(500.0))
    assert (sketch.boot, sketch.decisions) == (2, 4)


def test_a_killed_link_loses_only_what_came_since_it_was_remembered() -> None:
    first = book()
    first.add(observed([ROW] * 40))
    memory = first.memory(50.0)
    first.add(observed([ROW] * 2))  # of the minute that is lost
    again = book(memory=memory, now_s=1000.0)
    again.add(observed([ROW]))
    assert again.due(1009.0) == []  # the period goes on where it was
    (sketch,) = sent(again.due(1010.0))
    assert sketch.decisions == 41


def test_what_the_spool_has_is_not_sent_again_by_the_next_link() -> None:
    first = book()
    first.add(observed([ROW] * 40))
    memory = first.memory(59.0)
    assert len(first.due(60.0)) == 1  # it reaches the spool, and then link is killed
    again = book({(1, SKETCH_STREAM): 1}, memory)
    again.add(observed([ROW]))
    (sketch,) = sent(again.due(200.0))
    assert (sketch.seq, sketch.decisions) == (2, 1)


def test_rows_of_another_form_are_refused() -> None:
    with pytest.raises(MessageError, match="signals"):
        book().add(observed([[1.0]]))


class _Model:
    ref = REF

    class bundle:
        directory = "v"


def test_drive_keeps_signals_while_link_is_away_up_to_a_bound() -> None:
    taken: list[FromDrive] = []
    room = False

    def send(message: FromDrive) -> bool:
        if room:
            taken.append(message)
        return room

    observer = Observer(1, send, lambda: 0.0)
    model: Model = _Model()  # type: ignore[assignment]
    for number in range(KEPT_ROWS + 10):
        observer.add("state", model, number, ROW)
    observer.flush()
    assert observer.dropped == 10
    room = True
    observer.flush()
    rows = [len(message.rows) for message in taken if isinstance(message, Observed)]
    assert sum(rows) == KEPT_ROWS
    observer.flush(ended=True)
    assert len(taken) == len(rows)


def test_every_task_has_a_block_for_each_signal() -> None:
    for task, signals in SIGNALS.items():
        assert all(signal.block for signal in signals), task
        assert len({signal.name for signal in signals}) == len(signals)
