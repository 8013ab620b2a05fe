"""What int8 loses on the validation rows, measured on the files and with the vehicle's runners."""

from pathlib import Path

import torch

from roadloop_cloud.training.export import export_variants
from roadloop_cloud.training.subject import Subject
from roadloop_models.runners import Runner, open_file


class RunnerModel(torch.nn.Module):  # type: ignore[misc]
    """A model file in the place of a torch model: batches in, row by row through the runner."""

    def __init__(self, runner: Runner) -> None:
        super().__init__()
        self._runner = runner

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """The first output, of every row."""
        rows = zip(*(tensor.split(1) for tensor in inputs), strict=True)
        answers = [torch.from_numpy(self._runner.run(tuple(part.numpy() for part in row))[0].copy()) for row in rows]
        return torch.cat(answers)


def int8_loss(subject: Subject, model: torch.nn.Module, scratch: Path) -> float:
    """By how much the worse of the two int8 files of `model` scores worse than it does, in the score's own unit."""
    variants = export_variants(
        model, subject.form, subject.calibration(), scratch, with_fp32=False, on_step=lambda done, total: None
    )
    scores = []
    for variant in variants:
        runner = open_file(scratch / variant.file, variant)
        scores.append(subject.score(RunnerModel(runner)))
        runner.close()
    return max(scores) - subject.score(model.eval())
