"""Compression: what its parts compute, and whole runs from a bundle to a smaller one."""

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from roadloop_cloud.cli import main
from roadloop_cloud.training.compress.compare import Recorder, compare, difference, learned_parameters
from roadloop_models.bundle import Bundle
from roadloop_models.packaged import packaged_bundles
from roadloop_models.tasks.made_signs import made_signs
from roadloop_models.tasks.made_speeds import made_speeds
from roadloop_models.tasks.sign_data import FOLDER, TEST_FILE, TRAIN_FILE, write_signs
from roadloop_models.tasks.speed_data import write_speeds

torch: Any = pytest.importorskip("torch")
torch.set_num_threads(1)

CHANNELS = (8, 8, 16, 16, 24, 24, 24)


def _network(seed: int = 0, channels: tuple[int, ...] = CHANNELS):  # type: ignore[no-untyped-def]
    from roadloop_models.zoo.sign_cnn import SignCnn

    torch.manual_seed(seed)
    model = SignCnn(channels=channels)
    for block in model.blocks:  # statistics as training leaves them, so that every channel matters
        torch.nn.init.uniform_(block[1].weight, 0.5, 1.5)
        torch.nn.init.uniform_(block[1].bias, 0.1, 0.5)
    return model.eval()


def _images(count: int = 6) -> Any:
    return torch.rand(count, 32, 32, 3, generator=torch.Generator().manual_seed(5)) * 4 - 2


def test_a_network_is_narrowed_to_a_share_of_its_parameters() -> None:
    from roadloop_models.zoo.sign_cnn import CHANNELS as FULL
    from roadloop_models.zoo.sign_cnn import SignCnn, narrowed, parameter_count

    for share in (1.0, 0.5, 0.25, 0.1):
        channels = narrowed(FULL, share)
        learned = sum(parameter.numel() for parameter in SignCnn(channels=channels).parameters())
        assert learned == parameter_count(channels) <= share * parameter_count(FULL)
        less_head = narrowed(FULL, share, last_share=0.5)
        assert parameter_count(less_head) <= share * parameter_count(FULL)
        assert share == 1.0 or less_head[-1] < less_head[-2]
        assert all(less >= width for less, width in zip(less_head[:-1], channels[:-1], strict=True))
    assert narrowed(FULL, 1.0) == narrowed(FULL, 1.0, last_share=0.5) == FULL
    with pytest.raises(ValueError, match="no network"):
        narrowed(FULL, 0.001)


def test_channels_that_nobody_hears_are_pruned_and_the_answers_stay() -> None:
    from roadloop_cloud.training.compress.prune import channel_importance, prune_channels

    model, images = _network(), _images()
    for block in model.blocks:
        with torch.no_grad():
            block[1].weight[::4], block[1].bias[::4] = 0.0, -1.0  # behind the ReLU: nothing
    importance = channel_importance(model, images)
    assert all((counts[::4] == 0).all() and counts.max() > 0 for counts in importance)
    channels = tuple(3 * count // 4 for count in CHANNELS)
    pruned = prune_channels(model, channels, images).eval()
    assert pruned.channels == channels
    with torch.no_grad():
        torch.testing.assert_close(pruned(images), model(images), atol=1e-5, rtol=1e-4)


def test_pruning_takes_the_channels_that_count_least() -> None:
    from roadloop_cloud.training.compress.prune import channel_importance, prune_channels

    model, images = _network(), _images()
    least = int(channel_importance(model, images)[0].argmin())
    pruned = prune_channels(model, (7, *CHANNELS[1:]), images)
    kept = [index for index in range(8) if index != least]
    torch.testing.assert_close(pruned.blocks[0][0].weight, model.blocks[0][0].weight[kept])


def test_a_student_that_answers_as_its_teacher_has_nothing_to_learn_from_it() -> None:
    from roadloop_cloud.training.compress.distil import attention_distance, soft_loss

    answer = torch.randn(4, 43, generator=torch.Generator().manual_seed(1))
    assert soft_loss(answer, answer + 3.0, 4.0) == pytest.approx(0.0, abs=1e-5)
    assert soft_loss(answer, -answer, 4.0) > 0.1
    activation = torch.rand(4, 8, 5, 5, generator=torch.Generator().manual_seed(2))
    doubled = torch.cat([activation, activation], dim=1) * 3.0
    assert attention_distance(doubled, activation) == pytest.approx(0.0, abs=1e-6)
    assert attention_distance(activation, activation.flip(3)) > 0.01


def test_hints_reach_the_student_and_leave_the_teacher_alone() -> None:
    from roadloop_cloud.training.compress.distil import DistilLearner, Teaching
    from roadloop_cloud.training.sign import SignLearner
    from roadloop_models.zoo.sign_cnn import STAGES

    teacher, student = _network(1), _network(2, (8, 8, 8, 8, 16, 16, 16)).train()
    only_hints = Teaching(classes=True, hints=STAGES, temperature=4.0, soft_share=1.0, hint_weight=1.0)
    learner = DistilLearner(SignLearner(made_signs(1, 1, seed=3), 16), teacher, only_hints)
    batch = next(iter(learner.batches(torch.Generator().manual_seed(1))))
    learner.loss(student, batch).backward()
    assert all(parameter.grad is not None for parameter in student.parameters())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert not teacher._forward_hooks and not student.get_submodule(STAGES[0])._forward_hooks


def test_rounding_is_that_of_int8_while_it_lasts_and_gradients_pass() -> None:
    from roadloop_cloud.training.compress.qat import round_weight, rounded

    weight = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(3))
    steps = round_weight(weight).flatten(1) / (weight.flatten(1).abs().amax(dim=1, keepdim=True) / 63)
    torch.testing.assert_close(steps, steps.round(), atol=1e-3, rtol=0.0)
    assert steps.abs().max() <= 63 + 1e-3

    model, images, largest = _network().train(), _images(), {}  # type: ignore[var-annotated]
    before = model.eval()(images)
    model.train()
    with rounded(model, largest):
        model(images).square().sum().backward()
    assert len(largest) == 7 and all(value > 0 for value in largest.values())
    assert all(float(block[0].weight.grad.abs().sum()) > 0 for block in model.blocks)
    model.eval()
    with rounded(model, largest), torch.no_grad():
        inside = model(images)
    assert not torch.equal(inside, model(images))
    assert float((inside - model(images).detach()).abs().max()) < 0.2 * float(inside.abs().max())
    assert "forward" not in vars(model.blocks[0][0])
    assert before.shape == inside.shape


def test_disagreement_is_a_share_of_rows_or_of_the_answers_size() -> None:
    found = [np.array([[1.0, 2.0]], np.float32), np.array([[3.0, 1.0]], np.float32)]
    wanted = [np.array([[1.0, 5.0]], np.float32), np.array([[1.0, 3.0]], np.float32)]
    assert difference(found, wanted, classes=True) == 0.5
    assert difference(wanted, wanted, classes=False) == 0.0
    assert difference([np.full((1, 2), 1.1, np.float32)], [np.ones((1, 2), np.float32)], classes=False) == (
        pytest.approx(0.1, rel=1e-5)
    )
    with pytest.raises(ValueError, match="longer"):
        difference(found[:1], wanted, classes=True)


def test_a_comparison_names_what_every_file_costs_and_achieves(tmp_path: Path) -> None:
    bundle = Bundle.open(packaged_bundles()["traffic-sign"])
    write_signs(tmp_path / FOLDER / TEST_FILE, made_signs(2, 1, seed=4), with_tracks=False)
    rows = compare([bundle], tmp_path)
    assert [row.key for row in rows] == ["onnx-int8", "tflite-int8", "onnx-fp32"]
    assert {row.parameters for row in rows} == {learned_parameters(bundle)}
    fp32 = rows[2]
    assert fp32.differs == 0.0 and fp32.differs_from_first == 0.0
    for row in rows[:2]:
        assert row.size_bytes < fp32.size_bytes / 3 and row.latency_us < fp32.latency_us
        assert row.differs is not None and row.differs < 0.2 and row.differs == row.differs_from_first
        assert row.metrics["accuracy"] == pytest.approx(fp32.metrics["accuracy"], abs=0.1)


def test_a_recorder_answers_as_its_runner(tmp_path: Path) -> None:
    class Doubles:
        inputs = outputs = ()
        providers = ("here",)

        def run(self, inputs):  # type: ignore[no-untyped-def]
            return (inputs[0] * 2,)

        def close(self) -> None:
            pass

    recorder = Recorder(Doubles())
    assert recorder.run((np.ones(1, np.float32),))[0][0] == 2.0
    assert [float(answer[0]) for answer in recorder.answers] == [2.0] and recorder.providers == ("here",)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few made signs, and two days of made speeds, test rows included."""
    directory = tmp_path_factory.mktemp("made")
    write_signs(directory / FOLDER / TRAIN_FILE, made_signs(3, 2, seed=11))
    write_signs(directory / FOLDER / TEST_FILE, made_signs(2, 1, seed=12), with_tracks=False)
    rows, adjacency = made_speeds(2, seed=11)
    write_speeds(directory, rows, adjacency, with_steps=False)
    return directory


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("method", ["distil", "prune", "qat", "quantize"])
def test_a_bundle_becomes_a_smaller_one_with_a_report(made: Path, tmp_path: Path, method: str) -> None:
    parent = packaged_bundles()["traffic-sign"]
    command = ["models", "compress", str(parent), "--data", str(made), "--method", method, "--share", "0.3"]
    command += ["--epochs", "1", "--version", "small-1", "--output", str(tmp_path / "small")]
    command += ["--report", str(tmp_path / "report.json"), "--json"]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "report.json").read_text())
    assert report == json.loads(done.stdout)
    small = Bundle.open(tmp_path / "small")
    assert small.manifest.lineage.parent_version == Bundle.open(parent).manifest.version
    assert f"--method {method}" in str(small.manifest.lineage.command)
    by_key = {(row["version"], row["key"]): row for row in report["variants"]}
    assert len(by_key) == 6
    whole, less = learned_parameters(Bundle.open(parent)), learned_parameters(small)
    assert whole is not None and less is not None
    assert less <= 0.3 * whole if method in ("distil", "prune") else less == whole
    fp32 = by_key["small-1", "onnx-fp32"]
    assert fp32["differs"] == 0.0
    if method == "quantize":
        assert fp32["differs_from_first"] == 0.0


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_forecaster_teaches_a_smaller_one(made: Path, tmp_path: Path) -> None:
    parent = packaged_bundles()["traffic-speed"]
    command = ["models", "compress", str(parent), "--data", str(made), "--method", "distil", "--share", "0.5"]
    command += ["--epochs", "1", "--version", "small-1", "--output", str(tmp_path / "small"), "--json"]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    whole, less = learned_parameters(Bundle.open(parent)), learned_parameters(Bundle.open(tmp_path / "small"))
    assert whole is not None and less is not None and 0.3 * whole < less <= 0.5 * whole
    again = ["models", "compress", str(tmp_path / "small"), *command[3:-1]]
    again[again.index("--output") + 1] = str(tmp_path / "smaller")
    refused = CliRunner().invoke(main, again)
    assert refused.exit_code == 2 and "traffic-speed/small-1 is the parent or a teacher" in refused.output
    again[again.index("--version") + 1] = "small-2"
    assert CliRunner().invoke(main, again).exit_code == 0  # a student can be a teacher
    lineage = Bundle.open(tmp_path / "smaller").manifest.lineage
    assert [source.version for source in lineage.sources] == ["small-1", Bundle.open(parent).manifest.version]
    smaller = learned_parameters(Bundle.open(tmp_path / "smaller"))
    assert smaller is not None and smaller <= 0.5 * less


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_training_goes_on_rounded_where_int8_loses_more_than_allowed(made: Path, tmp_path: Path) -> None:
    from roadloop_cloud.training.compress.settings import Compression
    from roadloop_cloud.training.run import run_training
    from roadloop_cloud.training.spec import DataSource, TrainingProgress, TrainingSpec

    parent = packaged_bundles()["traffic-sign"]
    told: dict[float, list[TrainingProgress]] = {}
    weights = []
    for bound in (0.0, 1.0):
        spec = TrainingSpec(
            task="traffic-sign",
            version="rounded-1",
            data=DataSource(str(made), "all"),
            parent=str(parent),
            compress=Compression(method="quantize"),
            qat_above=bound,
        )
        result = run_training(spec, tmp_path / str(bound), told.setdefault(bound, []).append)
        weights.append((Path(result.bundle) / "weights.npz").read_bytes())
    rounds = {bound: [step for step in steps if step.stage == "round"] for bound, steps in told.items()}
    assert rounds[1.0][-1].message.startswith("int8 loses") and weights[1] == (parent / "weights.npz").read_bytes()
    lost = float(rounds[0.0][1].message.rpartition(" ")[2])
    assert ("loss" in rounds[0.0][-1].message) == (lost > 0.0)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_training_that_has_its_end_is_trained_on_rounded_from_there(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from roadloop_cloud.training import build
    from roadloop_cloud.training.run import run_training
    from roadloop_cloud.training.spec import DataSource, Rounding, TrainingProgress, TrainingSpec

    spec = TrainingSpec(
        task="traffic-sign",
        version="next-1",
        data=DataSource(str(made), "all"),
        parent=str(packaged_bundles()["traffic-sign"]),
        epochs=2,
        checkpoint_every_s=0.0,
    )
    assert run_training(spec, tmp_path).rounding is None
    (tmp_path / "bundle").rename(tmp_path / "first")
    told: list[TrainingProgress] = []
    monkeypatch.setattr(build, "int8_loss", lambda *_: 0.5)
    rounding = msgspec.structs.replace(spec, qat_above=0.4)
    result = build.Trainer(rounding, told.append).run(tmp_path / "bundle")
    assert result is not None and result.rounding == Rounding(lost=0.5, trained_on=True)
    trained = [step for step in told if step.stage == "train" and step.message and not step.resumed]
    assert trained == [], "what was trained is not trained again"
    assert any("loss" in step.message for step in told if step.stage == "round")
    weights = [(tmp_path / name / "weights.npz").read_bytes() for name in ("first", "bundle")]
    assert weights[0] != weights[1]


def test_the_tasks_that_can_be_trained_rounded_are_those_whose_subject_can() -> None:
    from roadloop_cloud.training.build import _SUBJECTS
    from roadloop_cloud.training.compress.settings import ROUNDABLE

    assert {task for task, subject in _SUBJECTS.items() if hasattr(subject, "rounded_recipe")} == set(ROUNDABLE)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_a_network_cannot_is_refused_before_anything_is_trained(made: Path, tmp_path: Path) -> None:
    parent = packaged_bundles()["traffic-speed"]
    command = ["models", "compress", str(parent), "--data", str(made), "--method", "prune"]
    command += ["--version", "small-1", "--output", str(tmp_path / "small")]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 2 and "prune" in done.output
    assert not (tmp_path / "small").exists()
