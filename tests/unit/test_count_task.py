"""vehicle-count as a task: counted clips, made clips and their truth, the protocol."""

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from roadloop_models.bundle import Preprocess
from roadloop_models.counting.counter import Crossing
from roadloop_models.counting.lines import MIDDLE
from roadloop_models.errors import BundleError, DataError
from roadloop_models.tasks import get_task
from roadloop_models.tasks import vehicle_count as protocol
from roadloop_models.tasks.clip_data import TrueCrossing, load_clips, write_clip
from roadloop_models.tasks.made_traffic import MadeClip, MadeVehicle
from roadloop_models.tasks.made_truth import MadeTruth, made_truth
from roadloop_models.tasks.vehicle_count import VehicleCount, matched
from tests.fakes.foreground_model import ThresholdModel


def crossing(frame: int, direction: Any = "up", track: int = 1) -> Crossing:
    return Crossing(frame, track, "mid", direction, 0, 0.9)


def test_equal_seeds_draw_equal_clips_and_others_draw_others() -> None:
    first, again, other = (list(MadeClip(seed, 3, 96, 54)) for seed in (5, 5, 6))
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.image, two.image)
        np.testing.assert_array_equal(one.empty(), two.empty())
        assert one.vehicles == two.vehicles
    assert any((one.image != two.image).any() for one, two in zip(first, other, strict=True))


def test_where_the_truth_sees_no_vehicle_the_picture_is_that_of_the_empty_road() -> None:
    for seed in range(8):
        clip = MadeClip(seed, 4, 192, 108)
        for frame in clip:
            differs = np.abs(frame.image.astype(int) - frame.empty()).max(axis=2) > 100
            for vehicle in frame.vehicles:
                x1, y1, x2, y2 = vehicle.box
                assert 0 <= x1 < x2 <= 192 and 0 <= y1 < y2 <= 108
                differs[max(0, int(y1) - 4) : int(y2) + 5, max(0, int(x1) - 4) : int(x2) + 5] = False
            # What is left are shadows and noise, which are far less than a vehicle.
            assert differs.mean() < 0.01, seed


def _driving(step: float, frames: int, clear: bool = True, number: int = 0) -> list[tuple[MadeVehicle, ...]]:
    return [(MadeVehicle(number, (40, step * n, 60, step * n + 10), clear),) for n in range(frames)]


def test_the_truth_of_a_made_clip_is_where_a_middle_changes_sides() -> None:
    truth = made_truth(_driving(5.0, 20), MIDDLE, 100, 100)
    # The middle is at 5 n + 5: on the line at frame 9, beyond it at 10.
    assert truth == MadeTruth((TrueCrossing(10, "down"),), ())
    assert made_truth(_driving(5.0, 9), MIDDLE, 100, 100) == MadeTruth((), ())


@pytest.mark.parametrize(("frames", "clear"), [(12, True), (20, False)])
def test_what_ends_just_after_the_line_or_can_hardly_be_seen_is_doubtful(frames: int, clear: bool) -> None:
    truth = made_truth(_driving(5.0, frames, clear), MIDDLE, 100, 100)
    assert truth == MadeTruth((), (TrueCrossing(10, "down"),))
    assert truth.judged([crossing(12, "down")]) == []
    assert truth.judged([crossing(12, "up")]) == [crossing(12, "up")]


def test_a_told_crossing_is_right_for_one_true_one_of_its_direction_near_by() -> None:
    truth = [TrueCrossing(10, "up"), TrueCrossing(12, "up"), TrueCrossing(40, "down")]
    told = [crossing(11), crossing(12, track=2), crossing(13, track=3), crossing(43, "down"), crossing(40, "up")]
    near = matched(told, truth, 2)
    assert sorted((one.frame, other.frame) for one, other in near) == [(11, 10), (12, 12)]


def test_a_clip_and_its_truth_come_back_as_they_were_written(tmp_path: Path) -> None:
    frames = [frame.image for frame in MadeClip(1, 4, 48, 32)]
    crossings = (TrueCrossing(3, "up"), TrueCrossing(3, "left"))
    write_clip(tmp_path, "gate", frames, crossings)
    (clip,) = load_clips(tmp_path)
    assert clip.crossings == crossings
    np.testing.assert_array_equal(np.stack(list(clip.frames())), np.stack(frames))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.truth.csv", "vehicle,frame\n1,2\n", "expected columns"),
        ("a.truth.csv", "# only a comment\n", "expected columns"),
        ("a.truth.csv", "vehicle,frame,direction\n1,2,sideways\n", "data row 1"),
        ("a.truth.csv", "vehicle,frame,direction\n1,2,up\n2,x,up\n", "data row 2"),
        ("b.truth.csv", "vehicle,frame,direction\n", "0 clips named 'b'"),
    ],
)
def test_broken_truth_is_refused_by_file_and_row(tmp_path: Path, name: str, content: str, says: str) -> None:
    (tmp_path / "video").mkdir()
    (tmp_path / "video" / "a.mp4").write_bytes(b"not read here")
    (tmp_path / "video" / name).write_text(content)
    with pytest.raises(DataError, match=says):
        load_clips(tmp_path)


def test_clips_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no \*.truth.csv"):
        load_clips(tmp_path)
    write_clip(tmp_path, "a", [np.zeros((8, 8, 3), np.uint8)], [])
    (tmp_path / "video" / "a.npz").write_bytes(b"no npz")
    with pytest.raises(DataError, match="not an npz"):
        list(load_clips(tmp_path)[0].frames())
    (tmp_path / "video" / "a.npz").rename(tmp_path / "video" / "a.mp4")
    with pytest.raises(DataError, match="not a video"):
        list(load_clips(tmp_path)[0].frames())


class _Threshold(VehicleCount):
    """The protocol around the model that is a threshold, so that no bundle is needed."""

    model = ThresholdModel()

    def preprocessor(self, manifest: Any) -> Any:
        return self.model.preprocess

    def postprocessor(self, bundle: Any) -> Any:
        return self.model.postprocess


class _Nothing:
    manifest = None


def test_the_protocol_tells_found_missed_and_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "MADE_CLIPS", 1)
    monkeypatch.setattr(protocol, "MADE_FRAMES", 30)
    road = np.full((48, 96, 3), 90, np.uint8)
    frames = [road] * 3
    for top in range(-12, 48, 3):
        frame = road.copy()
        frame[max(0, top) : max(0, top + 12), 10:22] = 240
        frames.append(frame)
    # The middle is at -6 in frame 3 and 3 further in each: beyond 24 at frame 14.
    write_clip(tmp_path, "one", frames, [TrueCrossing(14, "down"), TrueCrossing(5, "up")])
    write_clip(tmp_path, "two", frames, [])
    task = _Threshold()
    found = task.evaluate(cast(Any, _Nothing()), cast(Any, None), cast(Any, task.model), tmp_path)
    metrics = found.metrics
    assert [metrics[f"crossings_{name}"] for name in ("found", "missed", "extra")] == [1.0, 1.0, 1.0]
    assert metrics["crossings_f1"] == pytest.approx(0.5)
    assert metrics["frame_error_mean"] <= 1.0
    assert 0.0 <= metrics["made_recall"] <= 1.0


def test_a_manifest_for_another_kind_of_input_is_refused() -> None:
    class Manifest:
        task, version, preprocess = "vehicle-count", "odd-1", Preprocess("image-standardize")

    with pytest.raises(BundleError, match="expected 'foreground-pair' or 'image-letterbox'"):
        VehicleCount().preprocessor(cast(Any, Manifest()))


def test_no_rows_are_taken_from_data_for_training(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="drawn from the run's seed"):
        get_task("vehicle-count").write_part(tmp_path, "all", tmp_path)


def test_made_data_can_be_evaluated_on(tmp_path: Path) -> None:
    get_task("vehicle-count").write_made_data(tmp_path, seed=4)
    clips = load_clips(tmp_path)
    assert len(clips) == 2
    assert next(clips[0].frames()).shape == (108, 192, 3)
