"""Sources as files, and `infer` over them, by the command line."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from roadloop_agent.cli import main
from roadloop_agent.config import (
    ImagesSource,
    MadeSignsSource,
    MadeSpeedsSource,
    NpzSource,
    SpeedsCsvSource,
    VideoSource,
)
from roadloop_agent.drive.frames import Item
from roadloop_agent.drive.sources import open_source
from roadloop_agent.drive.sources.images import encode_png
from roadloop_models.errors import DataError
from roadloop_models.preprocess import ImageArray
from tests.fakes.bundles import tiny_bundle
from tests.fakes.speed_bundle import speed_bundle

COUNT = 12


def images(count: int = COUNT) -> list[ImageArray]:
    random = np.random.default_rng(3)
    return [random.integers(0, 255, (32, 32, 3), dtype=np.uint8) for _ in range(count)]


def write_npz(path: Path, tracks: list[int] | None = None) -> Path:
    pngs = [encode_png(image) for image in images()]
    offset = np.cumsum([0, *map(len, pngs)])
    arrays = {"png": np.frombuffer(b"".join(pngs), dtype=np.uint8), "offset": offset, "label": np.arange(COUNT)}
    if tracks is not None:
        arrays["track"] = np.array(tracks)
    np.savez(path, allow_pickle=False, **arrays)
    return path


def write_video(path: Path) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for level in range(5):
        writer.write(np.full((48, 64, 3), 40 * level, dtype=np.uint8))
    writer.release()
    return path


def write_speeds(path: Path, steps: int = 20) -> Path:
    speeds = 20 + np.random.default_rng(1).uniform(0, 50, size=(steps, 207)).round(2)
    np.savetxt(path, speeds, fmt="%.2f", delimiter=",", header=",".join(map(str, range(207))), comments="")
    return path


def numbers(items: "list[Item]") -> list[int]:
    return [item.number for item in items]


def test_npz_rows_are_numbered_and_selected(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "signs.npz", tracks=[index // 2 for index in range(COUNT)])
    everything = list(open_source(NpzSource(path=""), path))
    assert numbers(everything) == list(range(COUNT))
    assert all((item.data == image).all() for item, image in zip(everything, images(), strict=True))
    assert numbers(list(open_source(NpzSource(path="", first_row=3, last_row=5), path))) == [3, 4, 5]
    assert numbers(list(open_source(NpzSource(path="", tracks=(0, 5)), path))) == [0, 1, 10, 11]
    parts = [numbers(list(open_source(NpzSource(path="", select=f"{part}/3"), path))) for part in range(3)]
    assert parts[1] == [2, 3, 8, 9]  # whole tracks: frames of one sign are nearly the same picture
    assert sorted(row for part in parts for row in part) == list(range(COUNT))
    without = write_npz(tmp_path / "rows.npz")
    assert numbers(list(open_source(NpzSource(path="", select="1/4"), without))) == [1, 5, 9]


def test_speeds_come_with_the_window_before_them(tmp_path: Path) -> None:
    path = write_speeds(tmp_path / "speed.csv")
    items = list(open_source(SpeedsCsvSource(path=""), path))
    assert numbers(items) == list(range(20))
    assert [item.number for item in items if item.data.window is not None] == list(range(11, 20))
    last = items[-1].data
    assert last.window.step == 20 and last.window.speeds_mph.shape == (12, 207)
    assert (last.window.speeds_mph[-1] == last.observed_mph).all()
    parts = [numbers(list(open_source(SpeedsCsvSource(path="", select=f"{part}/3"), path))) for part in range(3)]
    assert [row for part in parts for row in part] == list(range(20)) and all(6 <= len(part) <= 7 for part in parts)


def test_absolute_steps_beside_the_speeds_are_taken_and_gaps_break_the_window(tmp_path: Path) -> None:
    path = write_speeds(tmp_path / "speed.csv")
    steps = [*range(100, 113), *range(200, 207)]
    (tmp_path / "los_step.csv").write_text("step\n" + "\n".join(map(str, steps)) + "\n")
    items = list(open_source(SpeedsCsvSource(path=""), path))
    assert numbers(items) == steps
    assert [item.number for item in items if item.data.window is not None] == [111, 112]
    (tmp_path / "los_step.csv").write_text("step\n1\n")
    with pytest.raises(DataError, match=r"los_step\.csv: expected one column 'step'"):
        open_source(SpeedsCsvSource(path=""), path)


def test_images_and_video_are_rgb_in_order(tmp_path: Path) -> None:
    red = np.zeros((8, 8, 3), dtype=np.uint8)
    red[..., 0] = 255
    for name in ("b.png", "a.png"):
        (tmp_path / name).write_bytes(encode_png(red))
    (tmp_path / "notes.txt").write_text("no image")
    items = list(open_source(ImagesSource(path=""), tmp_path))
    assert [Path(item.name).name for item in items] == ["a.png", "b.png"]
    assert (items[0].data == red).all()
    frames = list(open_source(VideoSource(path=""), write_video(tmp_path / "clip.avi")))
    assert numbers(frames) == [0, 1, 2, 3, 4] and frames[0].data.shape == (48, 64, 3)
    means = [float(item.data.mean()) for item in frames]
    assert means == sorted(means)


def test_made_sources_are_the_same_for_the_same_seed() -> None:
    one, two, other = (
        [item.data for item in open_source(MadeSignsSource(seed=seed, count=5), None)] for seed in (1, 1, 2)
    )
    assert all((a == b).all() for a, b in zip(one, two, strict=True))
    assert not all((a == b).all() for a, b in zip(one, other, strict=True))
    speeds = list(open_source(MadeSpeedsSource(days=1), None))
    assert len(speeds) == 288 and speeds[0].data.observed_mph.shape == (207,)


@pytest.mark.parametrize(
    ("source", "name", "content", "says"),
    [
        (NpzSource(path=""), "a.npz", None, "No such file"),
        (NpzSource(path=""), "a.npz", b"PK\x03\x04rubbish", "truncated or not an npz"),
        (NpzSource(path="", first_row=99), "good.npz", b"", "none of its 12 rows is selected"),
        (VideoSource(path=""), "a.mp4", b"not a video", "not a video that OpenCV reads"),
        (VideoSource(path=""), "a.mp4", None, "no such video"),
        (ImagesSource(path=""), "a.png", b"\x89PNG\r\n", "not an image that OpenCV reads"),
        (ImagesSource(path=""), "a.png", None, "no such image or folder"),
        (SpeedsCsvSource(path=""), "a.csv", b"1,2\n3,x\n", "not a table of numbers"),
        (SpeedsCsvSource(path=""), "a.csv", b"1,2\n3,900\n", "expected 0 to 200 mph"),
        (SpeedsCsvSource(path="", first_row=9), "a.csv", b"1,2\n3,4\n", "none of its 1 rows is selected"),
    ],
)
def test_broken_sources_are_named(
    tmp_path: Path, source: NpzSource | VideoSource | ImagesSource, name: str, content: bytes | None, says: str
) -> None:
    path = tmp_path / name
    if name == "good.npz":
        write_npz(path)
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=says) as caught:
        list(open_source(source, path))
    assert name in str(caught.value)


def infer(bundle: Path, path: Path, output: Path, *more: str) -> Result:
    return CliRunner().invoke(main, ["infer", "--bundle", str(bundle), "--input", str(path), "-o", str(output), *more])


def read_lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_infer_gives_a_line_for_every_image_of_any_input(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "bundle").directory
    folder = tmp_path / "folder"
    folder.mkdir()
    for index, image in enumerate(images()):
        (folder / f"{index:02}.png").write_bytes(encode_png(image))
    inputs = [(write_npz(tmp_path / "a.npz"), COUNT), (folder, COUNT), (folder / "00.png", 1)]
    answers = []
    for path, count in [*inputs, (write_video(tmp_path / "clip.avi"), 5)]:
        done = infer(bundle, path, tmp_path / "out.jsonl")
        assert done.exit_code == 0, done.output
        lines = read_lines(tmp_path / "out.jsonl")
        assert len(lines) == count
        assert all(list(line) == ["input", "class_id", "label", "confidence"] for line in lines)
        assert all(line["label"] == f"class {line['class_id']}" for line in lines)
        answers.append([line["class_id"] for line in lines])
    assert answers[0] == answers[1] and answers[2] == answers[1][:1]
    assert len(set(map(str, answers[0]))) > 1


def test_infer_gives_a_forecast_for_every_step_with_a_window(tmp_path: Path) -> None:
    bundle = speed_bundle(tmp_path / "bundle").directory
    path = write_speeds(tmp_path / "speed.csv")
    done = infer(bundle, path, tmp_path / "out.jsonl", "--runtime", "onnx", "--precision", "int8", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)["lines"] == 9
    lines = read_lines(tmp_path / "out.jsonl")
    assert [line["step"] for line in lines] == list(range(12, 21))
    speeds = np.loadtxt(path, delimiter=",", skiprows=1)
    forecast = np.array(lines[0]["forecast"])
    assert forecast.shape == (207, 12)
    assert forecast[:, 0] == pytest.approx(speeds[11], abs=1e-2)  # this bundle repeats the last value


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--runtime", "tflite"], "no variant tflite-any; this bundle has onnx-int8"),
        (["--precision", "fp32"], "no variant any-fp32; this bundle has onnx-int8"),
        (["--input", "nowhere.png"], "nowhere.png: no such"),
        (["--input", "speed.csv"], "a CSV has no images"),
        (["--bundle", "nowhere"], "manifest.json: No such file"),
        (["--output", "nowhere/out.jsonl"], "nowhere/out.jsonl: No such file"),
    ],
)
def test_infer_refuses_bad_input_in_one_line(tmp_path: Path, arguments: list[str], says: str) -> None:
    bundle = tiny_bundle(tmp_path / "bundle").directory
    done = infer(bundle, write_npz(tmp_path / "a.npz"), tmp_path / "out.jsonl", *arguments)
    assert done.exit_code == 2
    assert done.output.startswith("error: ") and says in done.output and done.output.count("\n") == 1
    assert not (tmp_path / "out.jsonl").exists()


def test_infer_refuses_a_tampered_and_a_truncated_bundle(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "bundle").directory
    path = write_npz(tmp_path / "a.npz")
    weights = (bundle / "onnx-int8.onnx").read_bytes()
    for damaged, says in (
        (weights[:-1], "truncated or changed"),
        (weights[:-1] + b"!", "changed after it was written"),
    ):
        (bundle / "onnx-int8.onnx").write_bytes(damaged)
        done = infer(bundle, path, tmp_path / "out.jsonl")
        assert (done.exit_code, says in done.output) == (2, True)


def test_a_broken_image_in_the_middle_leaves_no_output(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "bundle").directory
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "a.png").write_bytes(encode_png(images()[0]))
    (tmp_path / "f" / "b.png").write_bytes(b"rubbish")
    done = infer(bundle, tmp_path / "f", tmp_path / "out.jsonl")
    assert (done.exit_code, "b.png" in done.output) == (2, True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "f"]


def test_selftest_passes_a_sound_bundle_and_fails_a_wrong_one(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "bundle").directory
    done = CliRunner().invoke(main, ["selftest", "--bundle", str(bundle), "--json"])
    assert done.exit_code == 0, done.output
    (result,) = json.loads(done.output)
    assert (result["variant"], result["vectors"]) == ("onnx-int8", 4) and result["worst_ratio"] <= 1
    done = CliRunner().invoke(main, ["selftest", "--bundle", str(tmp_path)])
    assert done.exit_code == 2


def test_every_command_has_help_with_an_example() -> None:
    for name in ("run", "validate", "infer", "selftest", "status"):
        done = CliRunner().invoke(main, [name, "--help"])
        assert done.exit_code == 0 and "Example: roadloop-agent " + name in done.output


def test_status_of_a_vehicle_that_never_ran_is_bad_input(tmp_path: Path) -> None:
    config = Path(__file__).parents[1] / "vectors" / "config" / "vehicle-good.toml"
    done = CliRunner().invoke(main, ["status", "--config", str(config)])
    assert done.exit_code == 2 and "has the agent ever run here?" in done.output


def test_an_option_that_means_nothing_to_the_task_is_refused(tmp_path: Path) -> None:
    bundle, image = tiny_bundle(tmp_path / "b").directory, tmp_path / "a.png"
    image.write_bytes(encode_png(images(1)[0]))
    for more, says in (
        (["--outage", "600,60"], "--outage: means nothing to traffic-sign"),
        (["--annotate", str(tmp_path / "a.mp4")], "--annotate: means nothing to traffic-sign"),
        (["--line", "mid:0,0.5,1,0.5"], "options for traffic-sign: lines: unknown key"),
    ):
        command = ["infer", "--bundle", str(bundle), "--input", str(image), "-o", str(tmp_path / "out"), *more]
        result = CliRunner().invoke(main, command)
        assert result.exit_code == 2 and says in result.output
