"""The factory bundle of vehicle-count: the real clip where it is, changes of it, made clips, and the command line."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from roadloop_agent.cli import main
from roadloop_models.bundle import Bundle
from roadloop_models.packaged import packaged_bundles
from roadloop_models.preprocess import ImageArray
from roadloop_models.runners import open_runner
from roadloop_models.tasks import Evaluation, get_task
from roadloop_models.tasks.clip_data import load_clips, write_clip
from roadloop_models.tasks.made_traffic import MadeClip

TASK = "vehicle-count"
INT8 = ("onnx-int8", "tflite-int8")


@pytest.fixture(scope="module")
def data() -> Path:
    folder = os.environ.get("ROADLOOP_DATA")
    if not folder:
        pytest.skip("ROADLOOP_DATA names no folder of real data")
    return Path(folder)


def factory() -> Path:
    return packaged_bundles()[TASK]


def evaluated(data: Path, key: str) -> Evaluation:
    bundle = Bundle.open(factory(), key)
    variant = bundle.variant_by_key(key)
    return get_task(TASK).evaluate(bundle, variant, open_runner(bundle, variant), data)


def infer(clip: Path, output: Path, *options: str) -> list[dict[str, object]]:
    command = ["infer", "--bundle", str(factory()), "--input", str(clip), "--output", str(output), *options]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in output.read_text().splitlines()]


@pytest.mark.parametrize("key", INT8)
def test_the_files_are_small(key: str) -> None:
    bundle = Bundle.open(factory())
    assert bundle.manifest.file_entry(bundle.variant_by_key(key).file).size_bytes <= 300_000


@pytest.mark.realdata
@pytest.mark.slow
@pytest.mark.parametrize("key", INT8)
def test_the_four_crossings_of_the_real_clip_are_found_and_no_other(data: Path, key: str) -> None:
    metrics = evaluated(data, key).metrics
    assert [metrics[f"crossings_{name}"] for name in ("found", "missed", "extra")] == [4.0, 0.0, 0.0]
    manifest = Bundle.open(factory()).manifest
    for name, value in metrics.items():
        assert value == pytest.approx(manifest.metrics[f"{key}/{name}"], rel=1e-6), name


Change = Callable[[list[ImageArray]], list[ImageArray]]


def _each(change: Callable[[ImageArray], ImageArray]) -> Change:
    return lambda frames: [np.ascontiguousarray(change(frame)) for frame in frames]


@pytest.mark.realdata
@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "directions", "frames"),
    [
        (_each(lambda frame: frame[:, ::-1]), "up down up down", lambda frame: frame),
        (_each(lambda frame: frame[::-1]), "down up down up", lambda frame: frame),
        (lambda frames: frames[::2], "up down up down", lambda frame: frame / 2),
        (lambda frames: [frame for frame in frames for _ in range(2)], "up down up down", lambda frame: 2 * frame),
        (_each(lambda frame: (frame * 0.5).astype(np.uint8)), "up down up down", lambda frame: frame),
        (_each(lambda frame: cv2.resize(frame, (320, 180))), "up down up down", lambda frame: frame),
    ],
    ids=["mirrored", "upside-down", "twice-as-fast", "half-as-fast", "dark", "small"],
)
def test_changes_of_the_clip_that_keep_its_traffic_keep_its_count(
    data: Path, tmp_path: Path, change: Change, directions: str, frames: Callable[[float], float]
) -> None:
    (clip,) = load_clips(data)
    # Losslessly at half the size, which is more than the network looks at.
    small = [cv2.resize(frame, (384, 216), interpolation=cv2.INTER_AREA) for frame in clip.frames()]
    write_clip(tmp_path, "changed", change(small), [])
    told = infer(tmp_path / "video" / "changed.npz", tmp_path / "told.jsonl")
    assert " ".join(str(line["direction"]) for line in told) == directions
    for line, true in zip(told, clip.crossings, strict=True):
        assert abs(float(str(line["frame"])) - frames(true.frame)) <= max(2.0, frames(3.0))


@pytest.mark.realdata
def test_the_command_tells_one_crossing_a_line_of_the_lines_it_is_given(data: Path, tmp_path: Path) -> None:
    clip = data / "video" / "car-detection.mp4"
    lines = ["--line", "low:0,0.7,1,0.7", "--line", "left part:0,0.5,0.36,0.5"]
    told = infer(clip, tmp_path / "told.jsonl", *lines)
    assert all(
        set(line) == {"event", "frame", "t", "track", "line", "direction", "class", "confidence"}
        and (line["event"], line["class"]) == ("crossing", "vehicle")
        for line in told
    )
    assert [line["direction"] for line in told if line["line"] == "low"] == ["up", "up", "down", "down"]
    # The two that drive down keep to the left.
    assert [line["direction"] for line in told if line["line"] == "left part"] == ["down", "down"]
    assert all(float(str(line["t"])) == pytest.approx(float(str(line["frame"])) / 12.5, abs=0.09) for line in told)


def test_a_made_clip_is_counted_from_the_command_line(tmp_path: Path) -> None:
    write_clip(tmp_path, "made", (frame.image for frame in MadeClip(4_000_000, 60, 192, 108)), [])
    told = infer(tmp_path / "video" / "made.npz", tmp_path / "told.jsonl", "--line", "gate:0.5,0,0.5,1")
    assert all(line["line"] == "gate" and 0.0 <= float(str(line["confidence"])) <= 1.0 for line in told)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--line", "mid"], "expected NAME:X1,Y1,X2,Y2"),
        (["--line", "mid:0,0,2,1"], "lines[0]"),
        (["--line", "mid:0.5,0.5,0.5,0.5"], "has no sides"),
        (["--class", "lorry"], "'lorry' is no label"),
    ],
)
def test_what_cannot_be_counted_is_refused(tmp_path: Path, options: list[str], says: str) -> None:
    write_clip(tmp_path, "made", [np.zeros((32, 32, 3), np.uint8)] * 2, [])
    source, output = tmp_path / "video" / "made.npz", tmp_path / "told.jsonl"
    command = ["infer", "--bundle", str(factory()), "--input", str(source), "--output", str(output), *options]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 2
    assert says in result.output + str(result.exception)
    assert not output.exists()
