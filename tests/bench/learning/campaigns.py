"""What a campaign is worth: with how many bytes its highlights teach as much as a random sample does.

The starter of traffic-sign meets the rows that it was not trained on, track by track. Once a campaign decides which
frames are sent, once a coin; the starter is trained on with what came and with its own rows, and measured on the test
rows. Both train the same number of images, so that only what was sent differs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import numpy.typing as npt

from roadloop_models.bundle import Bundle
from roadloop_models.campaigns.budgets import Budgets
from roadloop_models.campaigns.campaign import Budget, Campaign, Highlight, understand
from roadloop_models.campaigns.watch import Moment, Watch
from roadloop_models.campaigns.watched import told
from roadloop_models.contract.streams import SIGN_DECISION
from roadloop_models.packaged import packaged_bundles
from roadloop_models.preprocess import ImageArray
from roadloop_models.runners import open_runner
from roadloop_models.tasks import get_task
from roadloop_models.tasks.sign_data import SignRows, load_test_signs, load_training_signs
from tests.bench.figures import Figure, Result, Skipped
from tests.bench.learning.context import Context

TASK = "traffic-sign"
COMMAND = "scripts/bench learning --full"
SEEDS = (0, 1, 2)
RANDOM_SHARE = 0.18
"""Of the frames, by a coin."""
CAMPAIGN = Campaign(
    name="unsure",
    task=TASK,
    rest_frames=1,
    highlight=Highlight(by="uncertainty", share=0.12),
    budget=Budget(bytes_per_day=1 << 30, hits_per_day=1 << 30),
)
IMAGES = 20_000
"""So many are trained on in each run, with repetitions."""

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Sample:
    """What was sent of the rows that the fleet saw."""

    rows: BoolArray
    size_bytes: int


def figures(context: Context) -> Iterator[Result]:
    """Bytes and accuracies; training takes minutes for each seed, so only with `--full`."""
    name = "campaign highlights against a random sample"
    if context.data is None:
        yield Skipped(name, "ROADLOOP_DATA names no data")
        return
    starter = Bundle.open(packaged_bundles("starter")[TASK])
    seen = load_training_signs(context.data, "rest")
    sizes = image_sizes(seen.images)
    chosen = highlights(starter, seen, sizes)
    drawn = [at_random(sizes, seed) for seed in SEEDS]
    share = chosen.size_bytes / fmean(sample.size_bytes for sample in drawn)
    yield Figure("campaign_bytes_by_random_bytes", share, "", COMMAND, bar=0.5)
    if not context.full:
        yield Skipped(f"accuracy: {name}", "--full trains them")
        return
    accuracies = [
        (
            accuracy_after(starter, context.data, seen.take(chosen.rows), seed),
            accuracy_after(starter, context.data, seen.take(sample.rows), seed),
        )
        for seed, sample in zip(SEEDS, drawn, strict=True)
    ]
    ours, theirs = (100 * fmean(column) for column in zip(*accuracies, strict=True))
    yield Figure("campaign_accuracy", ours, "%", COMMAND)
    yield Figure("random_accuracy", theirs, "%", COMMAND)
    yield Figure("campaign_accuracy_above_random", ours - theirs, "points", COMMAND, bar=0.0, direction="at least")


def image_sizes(images: ImageArray) -> list[int]:
    """Bytes of each as it leaves a vehicle."""
    from roadloop_agent.drive.sources.images import encode_png

    return [len(encode_png(image)) for image in images]


def at_random(sizes: Sequence[int], seed: int) -> Sample:
    """A coin for each frame."""
    rows = np.random.default_rng(seed).random(len(sizes)) < RANDOM_SHARE
    return Sample(rows, int(np.asarray(sizes)[rows].sum()))


def highlights(bundle: Bundle, seen: SignRows, sizes: Sequence[int], campaign: Campaign = CAMPAIGN) -> Sample:
    """What the campaign sends of the frames in their order, decided about by the int8 file that vehicles run."""
    task = get_task(TASK)
    preprocess, postprocess = task.preprocessor(bundle.manifest), task.postprocessor(bundle)
    runner = open_runner(bundle, bundle.variant_by_key("onnx-int8"))
    outlet = _Outlet(sizes)
    watch: Watch[_Size] = Watch("sign", [understand(campaign)], Budgets({}), outlet)
    try:
        for number, image in enumerate(seen.images):
            sign = postprocess(runner.run(preprocess(image)))
            row = [float(number), float(sign.class_id), sign.confidence, sign.margin, 0.0, 1.0, 0.0, 0.0]
            watch.step(Moment(number, float(number), told(SIGN_DECISION, row)))
    finally:
        runner.close()
    rows = np.zeros(len(seen), dtype=bool)
    rows[outlet.sent] = True
    return Sample(rows, int(np.asarray(sizes)[rows].sum()))


@dataclass(frozen=True)
class _Size:
    size_bytes: int


class _Outlet:
    """Remembers what was sent."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self._sizes = sizes
        self.sent: list[int] = []

    def develop(self, about: int, numbers: Sequence[int]) -> _Size:
        self.sent.append(about)
        return _Size(self._sizes[about])

    def send(self, campaign: str, item: _Size) -> None:
        pass


def accuracy_after(bundle: Bundle, data: Path, sent: SignRows, seed: int, images: int = IMAGES) -> float:
    """Share of the test rows that the starter gets right after it was trained on with what was sent, in fp32."""
    import torch

    from roadloop_cloud.training.augment import standardize
    from roadloop_cloud.training.sign import CLIP, SignLearner
    from roadloop_cloud.training.train import Recipe, fit
    from roadloop_cloud.training.weights import decode_weights, load_state
    from roadloop_models.zoo.sign_cnn import SignCnn, channels_of

    torch.set_num_threads(1)
    weights = bundle.manifest.training_weights
    assert weights is not None
    state = decode_weights(bundle.path(weights))
    model = SignCnn(len(bundle.labels() or ()), channels=channels_of(state)).to(memory_format=torch.channels_last)
    load_state(model, state, "the starter")
    rows = joined(load_training_signs(data, "starter"), sent)
    recipe = Recipe(max(1, round(images / len(rows))), 1.5e-3, 0.02, 0.98, whole_length=True)
    fitted = fit(model, SignLearner(rows, None), recipe, seed=seed, on_epoch=lambda *_: None, score=None)
    load_state(model, fitted.state, "what was trained")
    model.eval()
    test = load_test_signs(data)
    right = 0
    with torch.no_grad():
        for start in range(0, len(test), 256):
            part = torch.from_numpy(test.images[start : start + 256].transpose(0, 3, 1, 2).copy())
            values: Any = standardize(part.float(), CLIP).permute(0, 2, 3, 1).contiguous()
            right += int((model(values).argmax(1).numpy() == test.labels[start : start + 256]).sum())
    return right / len(test)


def joined(first: SignRows, second: SignRows) -> SignRows:
    """Rows of both; tracks keep apart."""
    tracks = np.concatenate([first.tracks, second.tracks + first.tracks.max() + 1])
    images, labels = (
        np.concatenate([getattr(part, name) for part in (first, second)]) for name in ("images", "labels")
    )
    return SignRows(images, labels, tracks)
