"""How long training goes on: to the epoch that validation likes best, or to the end of a recipe that is settled."""

from collections.abc import Iterator
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")


class _Line:
    """Two batches an epoch of a line through the origin."""

    batches_per_epoch = 2

    def batches(self, generator: Any) -> Iterator[tuple[Any, ...]]:
        for _ in range(2):
            values = torch.rand(4, 1, generator=generator)
            yield values, 2 * values

    def loss(self, model: Any, batch: tuple[Any, ...]) -> Any:
        return (model(batch[0]) - batch[1]).square().mean()


@pytest.mark.parametrize(("whole_length", "kept"), [(False, 2), (True, 5)])
def test_the_last_epoch_is_kept_where_the_length_is_settled(whole_length: bool, kept: int) -> None:
    from roadloop_cloud.training.train import Recipe, fit

    scores = iter([5.0, 4.0, 1.0, 2.0, 3.0, 4.0])  # before the first epoch, then after each
    fitted = fit(
        torch.nn.Linear(1, 1),
        _Line(),
        Recipe(5, 1e-2, 0.0, 0.9, whole_length=whole_length),
        seed=1,
        on_epoch=lambda epoch, epochs, message: None,
        score=lambda model: next(scores),
    )
    assert fitted.epoch == kept and fitted.score == (4.0 if whole_length else 1.0)
