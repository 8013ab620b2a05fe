"""Several teachers of one student: what the mean of their answers is, and who is no teacher."""

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from roadloop_cloud.cli import main
from roadloop_models.packaged import packaged_bundles
from roadloop_models.tasks import get_task

torch: Any = pytest.importorskip("torch")
torch.set_num_threads(1)


class Rows:
    """A learner of one batch whose labels count for nothing."""

    batches_per_epoch = 1

    def batches(self, generator: Any) -> Any:
        """No labels: the inputs alone."""
        yield (torch.randn(4, 3, generator=generator),)

    def inputs(self, batch: Any) -> Any:
        return batch

    def loss_of(self, answer: Any, batch: Any) -> Any:
        return answer.new_zeros(())

    def loss(self, model: Any, batch: Any) -> Any:
        return self.loss_of(model(*batch), batch)


def test_a_student_learns_the_mean_of_what_its_teachers_answer() -> None:
    from roadloop_cloud.training.compress.distil import DistilLearner, Teaching

    torch.manual_seed(1)
    teachers = [torch.nn.Linear(3, 2) for _ in range(3)]
    mean = torch.nn.Linear(3, 2)
    with torch.no_grad():
        mean.weight.copy_(torch.stack([teacher.weight for teacher in teachers]).mean(dim=0))
        mean.bias.copy_(torch.stack([teacher.bias for teacher in teachers]).mean(dim=0))
    answers = Teaching(classes=False, hints=(), temperature=1.0, soft_share=1.0, hint_weight=0.0)
    learner = DistilLearner(Rows(), teachers[0], answers, teachers[1:])
    batch = next(iter(learner.batches(torch.Generator().manual_seed(2))))
    assert learner.loss(mean, batch).item() == pytest.approx(0.0, abs=1e-6)
    assert all(learner.loss(teacher, batch).item() > 1e-3 for teacher in teachers)


@pytest.mark.parametrize(
    ("method", "teacher", "says"),
    [
        ("prune", "traffic-speed", "is a bundle of traffic-speed, asked for is traffic-sign"),
        ("qat", "traffic-sign", "qat takes no more teachers; distil and prune do"),
    ],
)
def test_who_is_no_teacher_is_refused(tmp_path: Path, method: str, teacher: str, says: str) -> None:
    get_task("traffic-sign").write_made_data(tmp_path / "data", seed=3)
    bundles = packaged_bundles("starter")
    command = ["models", "compress", str(bundles["traffic-sign"]), "--data", str(tmp_path / "data"), "--method", method]
    command += ["--teacher", str(bundles[teacher]), "--version", "v-1", "--output", str(tmp_path / "v-1")]
    found = CliRunner().invoke(main, command)
    assert found.exit_code == 2 and says in found.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]
