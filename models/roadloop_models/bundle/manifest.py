"""The manifest: what one immutable version of a task's model consists of.

A bundle is a directory holding `manifest.json` and the files it lists. The manifest is the only file that needs a
signature: it carries the SHA-256 and size of every other one.
"""

import re
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

import msgspec

from roadloop_models.errors import BundleError
from roadloop_models.typed import from_json

MANIFEST_NAME = "manifest.json"
MANIFEST_FORMAT = 1
MAX_MANIFEST_BYTES = 256 * 1024
MAX_FILE_BYTES = 512 * 1024 * 1024
MAX_FILES = 64
MAX_SOURCES = 64

Runtime = Literal["onnx", "tflite"]
CPU_PROVIDERS: tuple[str, ...] = ("CPUExecutionProvider",)
"""The execution provider of ONNX Runtime that is always there."""
Precision = Literal["int8", "fp32"]
DType = Literal["float32", "int8", "uint8", "int32", "int64"]
Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}\\Z")]
Name = Annotated[str, msgspec.Meta(pattern="^[a-z0-9][a-z0-9.-]{0,39}\\Z")]
Dimension = Annotated[int, msgspec.Meta(ge=1, le=1 << 20)]


class Quantization(msgspec.Struct, frozen=True):
    """Per-tensor affine quantization: real = scale * (stored - zero_point)."""

    scale: Annotated[float, msgspec.Meta(gt=0)]
    zero_point: int


class TensorSpec(msgspec.Struct, frozen=True):
    """One input or output of a model file, with the shape and dtype that the file itself has."""

    name: str
    shape: tuple[Dimension, ...]
    dtype: DType
    quantization: Quantization | None = None


class FileEntry(msgspec.Struct, frozen=True):
    """One file of the bundle; `path` is relative, with forward slashes."""

    path: str
    sha256: Sha256
    size_bytes: Annotated[int, msgspec.Meta(ge=1, le=MAX_FILE_BYTES)]


class Variant(msgspec.Struct, frozen=True):
    """The weights for one runtime and precision."""

    runtime: Runtime
    precision: Precision
    file: str
    inputs: Annotated[tuple[TensorSpec, ...], msgspec.Meta(min_length=1, max_length=8)]
    outputs: Annotated[tuple[TensorSpec, ...], msgspec.Meta(min_length=1, max_length=8)]
    golden_tolerance: Annotated[float, msgspec.Meta(ge=0)]
    """Largest absolute difference from the golden output, in real units, that differing kernels may cause."""
    quantizer: str | None = None
    quantizer_settings: dict[str, Any] = {}

    @property
    def key(self) -> str:
        """`onnx-int8`, for example: names the variant in file names, tables and messages."""
        return f"{self.runtime}-{self.precision}"


class GoldenSpec(msgspec.Struct, frozen=True):
    """How the golden inputs are made (see golden.py) and which file has the outputs expected of them."""

    seed: int
    count: Annotated[int, msgspec.Meta(ge=1, le=256)]
    low: tuple[float, ...]
    high: tuple[float, ...]
    file: str


class Preprocess(msgspec.Struct, frozen=True):
    """Which function of preprocess.py makes the input tensors, and its parameters."""

    name: Name
    params: dict[str, float | int | str | list[float]] = {}


class Postprocess(msgspec.Struct, frozen=True):
    """Which function makes detections of the output tensors (see detect/), and its parameters."""

    name: Name
    params: dict[str, float | int | str | list[float]] = {}


class Sealed(msgspec.Struct, frozen=True):
    """Which files are ciphertext, and how; the sizes and hashes under `files` are those of the ciphertext."""

    alg: Literal["A256GCM"]
    release: Annotated[int, msgspec.Meta(ge=1)]
    """Has a content key of its own (see sealed.py)."""
    files: Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=MAX_FILES)]


class TrainingRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What has to be known to train the same weights again, beside the rows."""

    seed: int
    recipe: dict[str, Any]
    best_epoch: int
    refitted: bool
    """Whether it was trained again on all rows, validation rows too."""
    replay_share: float | None = None
    executor: str
    workers: int
    threads: int
    code_version: str
    code_sha256: Sha256
    """Over the Python files that make a model of rows."""
    python: str
    platform: str
    packages: dict[str, str]


class Source(msgspec.Struct, frozen=True):
    """A version that taught another one, or became a part of it, and what that version itself was trained on."""

    version: Name
    snapshot_sha256: Sha256 | None = None
    parent_version: Name | None = None
    data: str | None = None


class Lineage(msgspec.Struct, frozen=True):
    """Where this version comes from."""

    snapshot_sha256: Sha256 | None = None
    parent_version: Name | None = None
    command: str | None = None
    data: str | None = None
    training: TrainingRecord | None = None
    """None where it was not trained here, but imported."""
    sources: Annotated[tuple[Source, ...], msgspec.Meta(max_length=MAX_SOURCES)] = ()
    """Teachers and parts, and theirs: what they saw it has seen through them, whether a registry has them or not."""


class Manifest(msgspec.Struct, frozen=True):
    """One immutable version of a task's model. Unknown fields are tolerated: a newer cloud may add some."""

    format: Annotated[int, msgspec.Meta(ge=1, le=MANIFEST_FORMAT)]
    task: Name
    version: Name
    min_agent_version: str
    files: Annotated[tuple[FileEntry, ...], msgspec.Meta(min_length=1, max_length=MAX_FILES)]
    variants: Annotated[tuple[Variant, ...], msgspec.Meta(min_length=1, max_length=8)]
    preprocess: Preprocess
    golden: GoldenSpec
    postprocess: Postprocess | None = None
    """None where the task knows by itself what the outputs mean."""
    labels: str | None = None
    """Path of the label file (one label a line), where outputs are classes."""
    model_card: str | None = None
    training_weights: str | None = None
    """Path of the float weights that retraining starts from; vehicles do not fetch it."""
    reference: str | None = None
    """Path of how its signals were distributed where it was made: what drift is seen against (sketches/)."""
    metrics: dict[str, float] = {}
    lineage: Lineage = Lineage()
    sealed: Sealed | None = None
    """None: all files are in clear."""

    def file_entry(self, path: str) -> FileEntry:
        """The entry of one file. Raises BundleError where the manifest lists no such file."""
        for entry in self.files:
            if entry.path == path:
                return entry
        raise BundleError(f"manifest of {self.task} {self.version}: '{path}' is used but not listed under files")

    def files_for(self, variant: Variant) -> tuple[FileEntry, ...]:
        """What a vehicle needs on disk to run one variant: its weights, golden outputs, labels, card and reference."""
        wanted = [variant.file, self.golden.file, self.labels, self.model_card, self.reference]
        return tuple(self.file_entry(path) for path in wanted if path is not None)


_SAFE_PART = re.compile(r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,79}\Z")


def parse_manifest(raw: bytes) -> Manifest:
    """Decode and check a manifest.

    Raises BundleError naming the field where it is oversize, malformed, inconsistent or names an unsafe path.
    """
    if len(raw) > MAX_MANIFEST_BYTES:
        raise BundleError(f"{MANIFEST_NAME}: {len(raw)} bytes, at most {MAX_MANIFEST_BYTES} are read")
    try:
        manifest = from_json(raw, Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BundleError(f"{MANIFEST_NAME}: {error}") from error
    _check(manifest)
    return manifest


def encode_manifest(manifest: Manifest) -> bytes:
    """The canonical bytes of a manifest, ending in a newline. Raises BundleError where it is inconsistent."""
    _check(manifest)
    return msgspec.json.format(msgspec.json.encode(manifest, order="deterministic"), indent=1) + b"\n"


def _check(manifest: Manifest) -> None:
    paths = [entry.path for entry in manifest.files]
    for path in paths:
        parts = PurePosixPath(path).parts
        if not parts or path != "/".join(parts) or not all(_SAFE_PART.match(part) for part in parts):
            raise BundleError(f"{MANIFEST_NAME}: files: unsafe path {path!r}")
        if path == MANIFEST_NAME:
            raise BundleError(f"{MANIFEST_NAME}: files: the manifest cannot list itself")
    if len(set(paths)) != len(paths):
        raise BundleError(f"{MANIFEST_NAME}: files: a path is listed twice")
    keys = [variant.key for variant in manifest.variants]
    if len(set(keys)) != len(keys):
        raise BundleError(f"{MANIFEST_NAME}: variants: {', '.join(keys)}: one is listed twice")
    for variant in manifest.variants:
        manifest.files_for(variant)
        if not len(manifest.golden.low) == len(manifest.golden.high) == len(variant.inputs):
            raise BundleError(
                f"{MANIFEST_NAME}: golden: low and high need one value for each of the {len(variant.inputs)} "
                f"inputs of {variant.key}"
            )
        for spec in (*variant.inputs, *variant.outputs):
            if spec.dtype in ("int8", "uint8") and spec.quantization is None:
                raise BundleError(
                    f"{MANIFEST_NAME}: {variant.key}: tensor '{spec.name}' is {spec.dtype} without quantization"
                )
    if manifest.training_weights is not None:
        manifest.file_entry(manifest.training_weights)
    for path in manifest.sealed.files if manifest.sealed is not None else ():
        manifest.file_entry(path)
