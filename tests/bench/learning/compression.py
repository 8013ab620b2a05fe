"""What compression leaves: a student, a pruned network, and int8 of both kinds of network, against fp32.

The files that ship are compared; with `--full` the student and the pruned network are first made again from the teacher
that ships.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from roadloop_cloud.training.compress.compare import VariantReport, compare
from roadloop_cloud.training.compress.make import compress_bundle
from roadloop_cloud.training.compress.settings import Compression, Method
from roadloop_models.bundle import Bundle
from roadloop_models.errors import NotFoundError
from roadloop_models.packaged import Collection, packaged_bundles
from tests.bench.figures import Figure, Result, Skipped
from tests.bench.learning.context import Context
from tests.bench.learning.trained import THREADS, once, training_folder

SIGN, SPEED = "traffic-sign", "traffic-speed"
INT8 = ("onnx-int8", "tflite-int8")
FP32 = "onnx-fp32"
MADE: dict[Collection, tuple[Method, float]] = {"student": ("distil", 0.25), "pruned": ("prune", 0.5)}
"""Which bundle -> how it is made of the teacher: method, share of its parameters."""

Reports = dict[str, VariantReport]
"""By variant key."""


def figures(context: Context) -> Iterator[Result]:
    """Points of accuracy, sizes and latencies relative to the teacher's, and how often answers differ."""
    if context.data is None:
        yield Skipped("compression", "ROADLOOP_DATA names no data")
        return
    figure = partial(Figure, command=f"scripts/bench learning{' --full' if context.full else ''}")
    names = [name for name in MADE if context.full or _ships(name)]
    yield from (Skipped(f"compression_{name}", "none ships: --full makes one") for name in MADE if name not in names)
    with training_folder(context) as folder:
        teacher = Bundle.open(packaged_bundles()[SIGN])
        made = [_small(name, teacher, context, folder) for name in names]
        whole, *others = _by_bundle([teacher, *made], context.data)
    reports: dict[str, Reports] = dict(zip(names, others, strict=True))
    if "student" in reports:
        yield from _student(whole, reports["student"], figure)
    if "pruned" in reports:
        yield from _pruned(whole, reports["pruned"], figure)
    for name, report in {"teacher": whole, **reports}.items():
        for key, row in report.items():
            yield figure(f"{name}_{key}_latency", row.latency_us, "us")
            yield figure(f"{name}_{key}_accuracy", 100 * _accuracy(row), "% of test_a")
            yield figure(f"{name}_{key}_differs", 100 * (row.differs_from_first or 0.0), "% of rows from fp32 teacher")
    (speeds,) = _by_bundle([Bundle.open(packaged_bundles()[SPEED])], context.data)
    for key in INT8:
        differs = speeds[key].differs
        if differs is not None:
            yield figure(f"lstm_{key}_differs", 100 * differs, "% of the size of fp32's answers")
        yield figure(f"lstm_{key}_latency", speeds[key].latency_us, "us")


def _student(whole: Reports, student: Reports, figure: Callable[..., Figure]) -> Iterator[Figure]:
    share = (student[FP32].parameters or 0) / (whole[FP32].parameters or 1)
    yield figure("student_parameters_share", share, "of the teacher's", bar=0.25)
    lost = max(100 * (_accuracy(whole[key]) - _accuracy(student[key])) for key in INT8)
    yield figure("student_accuracy_loss", lost, "points", bar=0.3)


def _pruned(whole: Reports, pruned: Reports, figure: Callable[..., Figure]) -> Iterator[Figure]:
    smaller = min(whole[FP32].size_bytes / pruned[key].size_bytes for key in INT8)
    yield figure("pruned_int8_smaller", smaller, "times", bar=3.0, direction="at least")
    faster = whole[FP32].latency_us / pruned["onnx-int8"].latency_us
    yield figure("pruned_int8_faster", faster, "times", bar=2.0, direction="at least")
    lost = max(100 * (_accuracy(whole[FP32]) - _accuracy(pruned[key])) for key in INT8)
    yield figure("pruned_int8_accuracy_loss", lost, "points of fp32", bar=0.3)


def _ships(name: Collection) -> bool:
    try:
        return SIGN in packaged_bundles(name)
    except NotFoundError:
        return False


def _small(name: Collection, teacher: Bundle, context: Context, folder: Path) -> Bundle:
    """The bundle that ships, or with `--full` the same made again."""
    if not context.full:
        return Bundle.open(packaged_bundles(name)[SIGN])
    data = context.data
    assert data is not None
    method, share = MADE[name]

    def make(target: Path) -> None:
        compress_bundle(teacher, data, name, target, Compression(method=method, share=share), threads=THREADS)

    return once(folder / name, make)


def _by_bundle(bundles: list[Bundle], data: Path) -> list[Reports]:
    rows = iter(compare(bundles, data))
    return [{variant.key: next(rows) for variant in bundle.manifest.variants} for bundle in bundles]


def _accuracy(row: VariantReport) -> float:
    return row.metrics["accuracy"]
