"""The training loop: what a kill may cost, and what its checkpoint is."""

import dataclasses
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from roadloop_cloud.training.checkpoint import Checkpoints, Saved
from roadloop_cloud.training.train import Batch, Fitted, Recipe, fit, rate_share
from roadloop_models.errors import DiskFullError

RECIPE = Recipe(6, 1e-2, 1e-3, 0.9, clip_norm=1.0)
HELD = dataclasses.replace(RECIPE, warmup_share=0.2, held_rate=0.25)


class _Rows:
    """A small regression; batches are drawn and disturbed by the generator, as tasks do it."""

    batches_per_epoch = 5

    def batches(self, generator: torch.Generator) -> Iterator[Batch]:
        for _ in range(self.batches_per_epoch):
            inputs = torch.randn((8, 3, 6, 6), generator=generator)
            yield inputs, inputs.mean((1, 2, 3), keepdim=False).unsqueeze(1)

    def loss(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        loss: torch.Tensor = (model(batch[0]) - batch[1]).square().mean()
        return loss


def _model() -> torch.nn.Module:
    """With all that has a state of its own: batch normalization, dropout, another memory layout."""
    torch.manual_seed(1)
    layers = [torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.Dropout(0.3)]
    model = torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(64, 1))
    return model.to(memory_format=torch.channels_last)


def _score(model: torch.nn.Module) -> float:
    with torch.no_grad():
        rows = torch.linspace(-1, 1, 4 * 108).view(4, 3, 6, 6)
        return float((model(rows) - rows.mean((1, 2, 3)).unsqueeze(1)).abs().mean())


class _KilledError(Exception):
    """Stands for SIGKILL: nothing after it runs."""


def _fit(checkpoints: Checkpoints | None = None, die_after: int | None = None, recipe: Recipe = RECIPE) -> Fitted:
    def watch(epoch: int, epochs: int, message: str) -> None:
        if epoch == die_after:
            raise _KilledError

    return fit(
        _model(),
        _Rows(),
        recipe,
        seed=3,
        on_epoch=watch,
        on_resume=lambda epoch, epochs, message: None,
        score=_score,
        checkpoints=checkpoints,
    )


@pytest.mark.parametrize("recipe", [RECIPE, HELD], ids=["to nothing", "held"])
@pytest.mark.parametrize("die_after", [1, 3, 5])
def test_a_killed_run_ends_with_the_very_weights_of_one_that_was_not(
    tmp_path: Path, die_after: int, recipe: Recipe
) -> None:
    whole = _fit(recipe=recipe)
    with pytest.raises(_KilledError):
        _fit(Checkpoints(tmp_path / "c.npz", "run"), die_after, recipe)
    torch.rand(7)  # another process has drawn other numbers
    told: list[int] = []
    again = fit(
        _model(),
        _Rows(),
        recipe,
        seed=3,
        on_epoch=lambda epoch, epochs, message: told.append(epoch),
        on_resume=lambda epoch, epochs, message: told.append(-epoch),
        score=_score,
        checkpoints=Checkpoints(tmp_path / "c.npz", "run"),
    )
    assert told == [-die_after, *range(die_after + 1, RECIPE.epochs + 1)]
    assert (again.epoch, again.score, again.history) == (whole.epoch, whole.score, whole.history)
    assert again.state.keys() == whole.state.keys()
    assert all(torch.equal(again.state[name], whole.state[name]) for name in whole.state)


def test_the_rate_rises_falls_and_is_held_from_the_middle_on() -> None:
    shares = [rate_share(step / 100, 0.2, 0.25) for step in range(101)]
    assert shares[:21] == sorted(shares[:21]) and shares[20] == max(shares) == 1.0
    assert shares[20:51] == sorted(shares[20:51], reverse=True)
    assert set(shares[50:]) == {0.25}
    rates = [figures.rate / HELD.peak_rate for figures in _fit(recipe=HELD).history]
    assert rates == pytest.approx([rate_share(epoch / 6, 0.2, 0.25) for epoch in range(1, 7)])
    assert _fit().history[-1].rate < 0.01 * RECIPE.peak_rate  # without a held rate: down to nothing


def test_a_run_that_was_finished_is_not_trained_again(tmp_path: Path) -> None:
    first = _fit(Checkpoints(tmp_path / "c.npz", "run"))
    again = _fit(Checkpoints(tmp_path / "c.npz", "run"), die_after=1)
    assert all(torch.equal(again.state[name], first.state[name]) for name in first.state)


def test_another_run_does_not_take_up_what_this_one_left(tmp_path: Path) -> None:
    _fit(Checkpoints(tmp_path / "c.npz", "run"))
    assert Checkpoints(tmp_path / "c.npz", "another seed").load() is None


@pytest.mark.parametrize("spoil", ["cut", "flip", "empty"])
def test_a_spoiled_checkpoint_is_none(tmp_path: Path, spoil: str) -> None:
    path = tmp_path / "c.npz"
    _fit(Checkpoints(path, "run"))
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        at = next(info.header_offset for info in archive.infolist() if info.filename.startswith("model/0.weight"))
    content[at + 300] ^= 0x40
    path.write_bytes({"cut": bytes(content[: len(content) // 2]), "flip": bytes(content), "empty": b""}[spoil])
    assert Checkpoints(path, "run").load() is None


def test_a_checkpoint_with_pickled_objects_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "c.npz"
    np.savez(path, facts=np.array([{"fingerprint": "run"}], dtype=object), allow_pickle=True)
    assert Checkpoints(path, "run").load() is None


def test_the_file_is_whole_at_every_instant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.npz"
    with pytest.raises(_KilledError):
        _fit(Checkpoints(path, "run"), die_after=2)

    def die(*_: object) -> None:
        raise _KilledError

    monkeypatch.setattr(Path, "replace", die)
    with pytest.raises(_KilledError):
        _fit(Checkpoints(path, "run"))
    saved = Checkpoints(path, "run").load()
    assert saved is not None
    assert saved.facts["epoch"] == 2


def test_a_full_disk_is_said_and_leaves_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.npz"
    checkpoints = Checkpoints(path, "run")
    checkpoints.save(lambda: Saved({"a": torch.ones(2)}, {"epoch": 1}), last=False)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("roadloop_cloud.training.checkpoint.write_atomic", full)
    with pytest.raises(DiskFullError, match=r"c\.npz: no room"):
        checkpoints.save(lambda: Saved({"a": torch.zeros(2)}, {"epoch": 2}), last=False)
    saved = Checkpoints(path, "run").load()
    assert saved is not None
    assert saved.facts["epoch"] == 1


def test_short_epochs_do_not_wait_for_the_disk(tmp_path: Path) -> None:
    now_s = [0.0]
    checkpoints = Checkpoints(tmp_path / "c.npz", "run", every_s=2.0, clock=lambda: now_s[0])
    written = []
    for epoch, at_s in enumerate([0.0, 1.0, 1.9, 2.0, 3.0, 3.5]):
        now_s[0] = at_s

        def make(epoch: int = epoch) -> Saved:
            written.append(epoch)
            return Saved({}, {"epoch": epoch})

        checkpoints.save(make, last=epoch == 5)
    assert written == [0, 3, 5]
