"""How much of a file a vehicle receives where it holds the version before: the factory's sign CNN, fine-tuned.

Trained, exported and quantized by the cloud's own code, on drawn signs (seeded), with the same calibration images for
both versions. One fine-tune has the length that retraining has.
"""

import tempfile
from functools import partial
from pathlib import Path

import numpy as np

from roadloop_models.bundle import Bundle
from roadloop_models.bundle.delta import KINDS, apply_patch, make_patch
from roadloop_models.packaged import packaged_bundles
from tests.bench.figures import Figure, Result

LEARNING_RATE = 1e-5
EPOCHS = 2
TRACKS, FRAMES, SEED = 5, 10, 20261123
_figure = partial(Figure, command="scripts/bench delivery", unit="of the file")


def figures(_data: Path | None) -> list[Result]:
    """Of the whole network fine-tuned by Adam, and of its head alone."""
    found: list[Result] = []
    with tempfile.TemporaryDirectory() as folder:
        before = _quantized(Path(folder) / "before.onnx", None)
        for name, frozen, bar in (("finetune", (), 0.20), ("head", ("features",), 0.01)):
            after = _quantized(Path(folder) / f"{name}.onnx", frozen)
            sizes = {}
            for kind in KINDS:
                patch = make_patch(kind, before, after)
                assert apply_patch(kind, before, patch, len(after)) == after
                sizes[kind] = len(patch) / len(after)
            found.append(_figure(f"delta_{name}_ratio", min(sizes.values()), bar=bar))
            found += [_figure(f"delta_{name}_ratio_{kind}", ratio) for kind, ratio in sizes.items()]
    return found


def _quantized(path: Path, frozen: tuple[str, ...] | None) -> bytes:
    """The int8 ONNX file of the factory's weights (None), or of those fine-tuned with these parts frozen."""
    import torch

    from roadloop_cloud.training.quantize_onnx import Calibration, export_onnx, quantize_conv_net
    from roadloop_cloud.training.sign import CALIBRATION_IMAGES, CLIP, FINE_TUNE_IMAGES, SignLearner
    from roadloop_cloud.training.train import Recipe, fit
    from roadloop_cloud.training.weights import decode_weights, halve, load_state
    from roadloop_models.preprocess import ImageStandardize
    from roadloop_models.tasks.made_signs import made_signs
    from roadloop_models.zoo.sign_cnn import SignCnn

    factory = Bundle.open(packaged_bundles()["traffic-sign"])
    assert factory.manifest.training_weights is not None
    model = SignCnn()
    load_state(model, decode_weights(factory.path(factory.manifest.training_weights)), "factory")
    rows = made_signs(TRACKS, FRAMES, SEED)
    if frozen is not None:
        torch.set_num_threads(1)
        recipe = Recipe(EPOCHS, LEARNING_RATE, weight_decay=0.0, ema_decay=0.98, frozen=frozen)
        learner = SignLearner(rows, FINE_TUNE_IMAGES)
        fitted = fit(model, learner, recipe, seed=SEED, on_epoch=lambda *_: None, score=None)
        load_state(model, halve(fitted.state), "fine-tuned")
    preprocess = ImageStandardize(clip=CLIP)
    chosen = np.linspace(0, len(rows) - 1, CALIBRATION_IMAGES).astype(int)
    calibration: Calibration = [preprocess(rows.images[index]) for index in chosen]
    model.eval()
    source = path.with_suffix(".fp32.onnx")
    export_onnx(model, (torch.from_numpy(calibration[0][0]),), ["image"], ["logits"], source)
    quantize_conv_net(source, path, calibration, ["image"])
    return path.read_bytes()
