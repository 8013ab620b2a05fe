"""`models import --onnx / --tflite`: the steps from a stranger's file to a bundle that has proved itself."""

import contextlib
import hashlib
import importlib.util
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from roadloop_cloud.importing.agreement import Agreement, compare
from roadloop_cloud.importing.calibration import CalibrationImages, read_calibration
from roadloop_cloud.importing.card import CardFacts, Origin, import_card
from roadloop_cloud.importing.choices import Setting, postprocessing, preprocessing
from roadloop_cloud.importing.inspect import ModelFile, inspect_file, probe
from roadloop_cloud.importing.labels import read_bounded, read_labels
from roadloop_cloud.importing.layouts import Evidence, image_input, recognise_classifier, recognise_detector
from roadloop_cloud.importing.pin import is_open, pin
from roadloop_cloud.importing.quantize import quantize_file
from roadloop_cloud.importing.quicken import SOFTMAX_NOTE, quicken
from roadloop_cloud.importing.request import DETECTOR_TASKS, TASKS, ImportRequest
from roadloop_cloud.training.tolerance import measure_tolerance
from roadloop_models.bundle import Bundle, GoldenSpec, Lineage, Manifest, Postprocess, Variant, write_bundle
from roadloop_models.bundle.golden import check_golden, encode_golden
from roadloop_models.bundle.manifest import MANIFEST_FORMAT
from roadloop_models.detect import ImageLetterbox
from roadloop_models.errors import BundleError, ConfigError
from roadloop_models.runners import FloatArray, open_file, open_runner
from roadloop_models.tasks import get_task

MIN_AGENT_VERSION = "0.1.0"
GOLDEN_SEED = 20261123
GOLDEN_COUNT, GOLDEN_BYTES = 8, 3_000_000
"""So many vectors, fewer (but two) where their outputs are large: every vehicle fetches them."""
GOLDEN_FILE, LABELS_FILE, CARD_FILE, LICENCE_FILE = "golden.npz", "labels.txt", "MODEL_CARD.md", "LICENSE.txt"
Step = Callable[[str], None]


@dataclass(frozen=True)
class Imported:
    """What came of it."""

    bundle: Bundle
    settings: tuple[Setting, ...]
    changes: tuple[str, ...]
    """Sentences on how the file in the bundle differs from the source."""
    agreement: Agreement | None


@dataclass(frozen=True)
class _Understood:
    """How the file is fed and read."""

    letterbox: ImageLetterbox
    postprocess: Postprocess
    settings: tuple[Setting, ...]


def import_model(request: ImportRequest, target: Path, step: Step) -> Imported:
    """Write the bundle `target` from a third-party file.

    Raises ConfigError naming each option that is needed, DataError where the file does not fit the task (with what was
    found and expected), BundleError where `target` exists, RuntimeMissingError where a package is missing.
    """
    if target.exists():
        raise BundleError(f"{target}: exists already; a bundle is never changed, choose a new version or directory")
    if request.task not in TASKS:
        raise ConfigError(f"--task: '{request.task}' cannot be imported from a file; these can: {', '.join(TASKS)}")
    if request.calibrate is not None and request.runtime != "onnx":
        raise ConfigError("--calibrate: only ONNX files are quantized here; quantize a TFLite file before importing it")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".import-", dir=target.parent) as scratch:
        imported = _import(request, Path(scratch), step)
        imported.bundle.directory.rename(target)
    return replace(imported, bundle=Bundle.open(target))


def _import(request: ImportRequest, scratch: Path, step: Step) -> Imported:
    step(f"Reading {request.path.name}")
    labels = read_labels(request.labels, request.task)
    images = None if request.calibrate is None else read_calibration(request.calibrate)
    file = inspect_file(request.path, request.runtime)
    file, changes = _prepared(file, request, scratch, step)
    step("Recognising inputs and outputs")
    understood = _understand(file, labels, request)
    variants = [(file, file.variant())]
    if images is not None:
        if file.precision == "int8":
            raise ConfigError(f"--calibrate: {request.path} is quantized already")
        step(f"Quantizing with {len(images.fit)} images")
        variants.append(_quantized(file, understood.letterbox, images, scratch / "int8.onnx"))
    step("Making golden vectors, writing and checking the bundle")
    draft, contents = _draft(variants, understood, labels, request)
    write_bundle(scratch / "draft", draft, contents | {CARD_FILE: b"draft"})
    agreement = None if images is None else _agreement(Bundle.open(scratch / "draft"), images)
    facts = CardFacts(
        f"{request.task} {request.version}",
        request.command,
        _origin(request, changes),
        understood.settings,
        [(variant, len(contents[variant.file])) for variant in draft.variants],
        agreement,
    )
    metrics = {} if agreement is None else {"onnx-int8/agreement_with_fp32": round(agreement.value, 4)}
    final = msgspec.structs.replace(draft, metrics=metrics)
    bundle = write_bundle(scratch / "bundle", final, contents | {CARD_FILE: import_card(facts).encode()})
    _prove(bundle)
    return Imported(bundle, understood.settings, changes, agreement)


def _prepared(file: ModelFile, request: ImportRequest, scratch: Path, step: Step) -> tuple[ModelFile, tuple[str, ...]]:
    """The file as vehicles are to run it, and what was changed, a sentence each."""
    changes = []
    if is_open(file):
        if request.verbatim:
            raise ConfigError(
                f"--verbatim: {file.path}: {file}: open dimensions have to be fixed; export it with fixed ones"
            )
        file = pin(file, request.size, scratch / "pinned.onnx")
        changes.append("Open dimensions of the file were fixed.")
    if request.verbatim or request.runtime != "onnx":
        return file, tuple(changes)
    if importlib.util.find_spec("onnx") is None:
        step("What is slow in it stays so: the onnx package is not installed (roadloop[train])")
    elif (quicker := quicken(file, scratch / "quick.onnx")) is not None:
        file = quicker
        changes.append(SOFTMAX_NOTE)
    return file, tuple(changes)


def _understand(file: ModelFile, labels: tuple[str, ...], request: ImportRequest) -> _Understood:
    image = image_input(file)
    evidence = Evidence(file, image, len(labels), probe(file), request.hints)
    recognise = recognise_detector if request.task in DETECTOR_TASKS else recognise_classifier
    recognised = recognise(evidence)
    letterbox, feeding = preprocessing(file, image, recognised.family, request.choices)
    postprocess, reading = postprocessing(recognised, request.choices)
    return _Understood(letterbox, postprocess, (*feeding, *reading))


def _quantized(
    file: ModelFile, letterbox: ImageLetterbox, images: CalibrationImages, target: Path
) -> tuple[ModelFile, Variant]:
    from roadloop_cloud.training.quantize_onnx import STATIC_SETTINGS

    made = quantize_file(file, [letterbox(image) for image in images.fit], target)
    settings: dict[str, Any] = STATIC_SETTINGS | {"calibration_rows": len(images.fit)}
    return made, msgspec.structs.replace(made.variant(), quantizer="onnxruntime", quantizer_settings=settings)


def _draft(
    files: list[tuple[ModelFile, Variant]], understood: _Understood, labels: tuple[str, ...], request: ImportRequest
) -> tuple[Manifest, dict[str, bytes]]:
    """The manifest and the files of the bundle, but for its card."""
    golden = _golden_spec(files[0][0], understood.letterbox)
    contents: dict[str, bytes] = {LABELS_FILE: "".join(f"{label}\n" for label in labels).encode()}
    outputs: dict[str, FloatArray] = {}
    variants = []
    for file, variant in files:
        with contextlib.closing(open_file(file.path, variant)) as runner:
            tolerance, found = measure_tolerance(golden, variant, runner, file.path)
        outputs |= found
        name = f"model.{variant.precision}.{variant.runtime}"
        contents[name] = file.path.read_bytes()
        variants.append(msgspec.structs.replace(variant, file=name, golden_tolerance=tolerance))
    contents[GOLDEN_FILE] = encode_golden(outputs)
    if request.licence is not None:
        contents[LICENCE_FILE] = read_bounded(request.licence)
    manifest = Manifest(
        format=MANIFEST_FORMAT,
        task=request.task,
        version=request.version,
        min_agent_version=MIN_AGENT_VERSION,
        files=(),
        variants=tuple(variants),
        preprocess=understood.letterbox.spec,
        golden=golden,
        postprocess=understood.postprocess,
        labels=LABELS_FILE,
        model_card=CARD_FILE,
        lineage=Lineage(command=request.command),
    )
    return manifest, contents


def _golden_spec(file: ModelFile, letterbox: ImageLetterbox) -> GoldenSpec:
    low, high = letterbox.input_range
    outputs_bytes = sum(int(np.prod([size or 1 for size in tensor.dims])) * 4 for tensor in file.outputs)
    count = max(2, min(GOLDEN_COUNT, GOLDEN_BYTES // max(1, outputs_bytes)))
    return GoldenSpec(seed=GOLDEN_SEED, count=count, low=(low,), high=(high,), file=GOLDEN_FILE)


def _origin(request: ImportRequest, changes: tuple[str, ...]) -> Origin:
    content = request.path.read_bytes()
    licence = request.licence_name
    if request.licence is not None:
        licence = f"{licence} (`{LICENCE_FILE}`)" if licence else f"`{LICENCE_FILE}`"
    return Origin(
        request.path.name, hashlib.sha256(content).hexdigest(), len(content), request.source, licence, changes
    )


def _agreement(draft: Bundle, images: CalibrationImages) -> Agreement:
    task = get_task(draft.manifest.task)
    preprocess, postprocess = task.preprocessor(draft.manifest), task.postprocessor(draft)
    with contextlib.ExitStack() as stack:
        full, quantized = (
            stack.enter_context(contextlib.closing(open_runner(draft, draft.variant("onnx", precision))))
            for precision in ("fp32", "int8")
        )
        return compare(full, quantized, preprocess, postprocess, images.held_back)


def _prove(bundle: Bundle) -> None:
    """Golden vectors and one image through every variant, with the task's own functions.

    Raises what a vehicle would: GoldenMismatchError, BundleError, FailedError.
    """
    task = get_task(bundle.manifest.task)
    preprocess, postprocess = task.preprocessor(bundle.manifest), task.postprocessor(bundle)
    image = np.random.default_rng(GOLDEN_SEED).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    size = image.shape[:2] if bundle.manifest.task in DETECTOR_TASKS else ()
    for variant in bundle.manifest.variants:
        with contextlib.closing(open_runner(bundle, variant)) as runner:
            check_golden(bundle, variant, runner)
            postprocess(runner.run(preprocess(image)), *size)
