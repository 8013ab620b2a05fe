"""Figures of the two forecasts that ship, by the published protocols on the int8 files; `full`: of three seeds."""

import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path

from roadloop_models.bundle import Bundle
from roadloop_models.packaged import Collection, packaged_bundles
from roadloop_models.runners import open_runner
from roadloop_models.tasks import get_task
from tests.bench.figures import Figure, Result, Skipped
from tests.bench.learning.context import Context
from tests.bench.learning.trained import once, training_folder

INT8 = ("onnx-int8", "tflite-int8")
SEEDS = (0, 1, 2)
_figure = partial(Figure, command="scripts/bench learning")


@dataclass(frozen=True)
class Forecast:
    """A model that ships, and what it has to stay below: figure -> (bar, unit)."""

    name: str
    task: str
    collection: Collection
    bars: Mapping[str, tuple[float, str]]
    form: str | None = None
    merged: bool = False
    """Whether what ships is two networks of different seeds in one."""


def _rmse(*bars_mph: float) -> dict[str, tuple[float, str]]:
    return {f"rmse_mph_{minutes}min": (bar, "mph") for minutes, bar in zip((15, 30, 45, 60), bars_mph, strict=True)}


FORECASTS = (
    # Published: LSTM 7.21 and 9.90, stacked autoencoders 7.06 and 9.60.
    Forecast("flow", "traffic-flow", "factory", {"mae_veh": (7.06, "vehicles"), "rmse_veh": (9.60, "vehicles")}),
    Forecast("speed", "traffic-speed", "factory", _rmse(4.90, 5.65, 6.15, 6.55), merged=True),
    # T-GCN, which has no clock either.
    Forecast(
        "speeds_alone", "traffic-speed", "speeds-alone", _rmse(5.126, 6.060, 6.707, 7.268), "speeds-alone", merged=True
    ),
)


def figures(context: Context) -> Iterator[Result]:
    """What ships; and with `full` the same of models trained anew from three seeds: each of them, and their means."""
    if context.data is None:
        yield Skipped("errors of the forecasts", "ROADLOOP_DATA names no data")
        return
    for forecast in FORECASTS:
        bundle = Bundle.open(packaged_bundles(forecast.collection)[forecast.task])
        yield from _figures(forecast, forecast.name, _int8_metrics(bundle, context.data))
        yield from _loss_by_int8(forecast, bundle, context.data)
        if context.full:
            yield from _of_three_seeds(forecast, context, context.data)


def _figures(forecast: Forecast, name: str, metrics: Mapping[str, Mapping[str, float]]) -> Iterator[Figure]:
    for key, found in metrics.items():
        for metric, (bar, unit) in forecast.bars.items():
            yield _figure(f"{name}_{metric}_{key}", found[metric], unit, bar=bar)


def _loss_by_int8(forecast: Forecast, bundle: Bundle, data: Path) -> Iterator[Figure]:
    whole = metrics_of(bundle, "onnx-fp32", data)
    int8 = _int8_metrics(bundle, data).values()
    loss = max(found[metric] / whole[metric] - 1 for found in int8 for metric in forecast.bars)
    yield _figure(f"{forecast.name}_int8_loss", 100 * loss, "%", bar=0.5)


def _of_three_seeds(forecast: Forecast, context: Context, data: Path) -> Iterator[Figure]:
    from roadloop_cloud.training.make import train_bundle
    from roadloop_cloud.training.merging import merge_bundles

    def train(target: Path, seed: int) -> None:
        train_bundle(forecast.task, data, target.name, target, seed=seed, form=forecast.form)

    def merge(bundles: list[Bundle], target: Path) -> None:
        merge_bundles(bundles, data, target.name, target)

    with training_folder(context) as folder:
        bundles = [once(folder / f"{forecast.name}-seed-{seed}", partial(train, seed=seed)) for seed in SEEDS]
        yield from _each_and_mean(
            forecast, "seed", {str(seed): one for seed, one in zip(SEEDS, bundles, strict=True)}, data
        )
        if forecast.merged:
            pairs = {}
            for first, second in combinations(SEEDS, 2):
                target = folder / f"{forecast.name}-merged-{first}-{second}"
                pairs[f"{first}{second}"] = once(target, partial(merge, [bundles[first], bundles[second]]))
            yield from _each_and_mean(forecast, "merged", pairs, data)


def _each_and_mean(forecast: Forecast, what: str, bundles: Mapping[str, Bundle], data: Path) -> Iterator[Figure]:
    found = {name: _int8_metrics(bundle, data) for name, bundle in bundles.items()}
    for name, metrics in found.items():
        yield from _figures(forecast, f"{forecast.name}_{what}{name}", metrics)
    means = {
        key: {metric: statistics.mean(one[key][metric] for one in found.values()) for metric in forecast.bars}
        for key in INT8
    }
    yield from _figures(forecast, f"{forecast.name}_{what}_mean_of_{len(found)}", means)


def _int8_metrics(bundle: Bundle, data: Path) -> dict[str, dict[str, float]]:
    return {key: metrics_of(bundle, key, data) for key in INT8}


def metrics_of(bundle: Bundle, key: str, data: Path) -> dict[str, float]:
    """What the task's protocol finds of one variant."""
    variant = bundle.variant_by_key(key)
    runner = open_runner(bundle, variant)
    try:
        return get_task(bundle.manifest.task).evaluate(bundle, variant, runner, data).metrics
    finally:
        runner.close()
