"""Bundles: what is truncated, tampered with or inconsistent is refused by name; what is whole opens."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from roadloop_models.bundle import MANIFEST_NAME, Bundle, encode_manifest, parse_manifest, write_bundle
from roadloop_models.bundle.manifest import MAX_MANIFEST_BYTES
from roadloop_models.errors import BundleError, VariantMissingError
from tests.fakes.bundles import WEIGHTS, tiny_bundle

VECTORS = Path(__file__).parents[1] / "vectors" / "manifests"


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return tiny_bundle(tmp_path / "bundle")


def test_equal_seeds_give_equal_bundles(tmp_path: Path, bundle: Bundle) -> None:
    assert tiny_bundle(tmp_path / "again").manifest_sha256 == bundle.manifest_sha256
    assert tiny_bundle(tmp_path / "other", seed=1).manifest_sha256 != bundle.manifest_sha256


def test_a_whole_bundle_opens(bundle: Bundle) -> None:
    opened = Bundle.open(bundle.directory)
    assert opened.manifest == bundle.manifest
    assert opened.manifest_sha256 == bundle.manifest_sha256
    assert opened.variant("onnx").key == "onnx-int8"
    labels = opened.labels()
    assert labels is not None and len(labels) == 43


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", [WEIGHTS, "golden.npz", "labels.txt"])
@pytest.mark.parametrize(
    ("damage", "says"), [(_truncate, "truncated"), (_flip_a_bit, "SHA-256"), (Path.unlink, "lists it")]
)
def test_a_damaged_file_is_refused_by_name(
    bundle: Bundle, name: str, damage: Callable[[Path], None], says: str
) -> None:
    damage(bundle.directory / name)
    with pytest.raises(BundleError, match=says) as caught:
        Bundle.open(bundle.directory)
    assert name in str(caught.value)


def test_a_missing_variant_says_what_there_is(bundle: Bundle) -> None:
    for runtime, precision in (("tflite", None), (None, "fp32")):
        with pytest.raises(VariantMissingError, match="this bundle has onnx-int8"):
            bundle.variant(runtime, precision)
    with pytest.raises(VariantMissingError, match="this bundle has onnx-int8"):
        bundle.variant_by_key("tflite-int8")


def test_a_vehicle_needs_only_the_files_of_its_variant(bundle: Bundle, tmp_path: Path) -> None:
    files = {entry.path: (bundle.directory / entry.path).read_bytes() for entry in bundle.manifest.files}
    manifest = msgspec.structs.replace(bundle.manifest, training_weights="weights.npz", version="tiny-2")
    other = write_bundle(tmp_path / "with-weights", manifest, files | {"weights.npz": b"w"})
    (other.directory / "weights.npz").unlink()
    Bundle.open(other.directory, "onnx-int8")
    with pytest.raises(BundleError, match="weights.npz"):
        Bundle.open(other.directory)


def test_a_bundle_is_never_overwritten(bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="exists already"):
        tiny_bundle(bundle.directory)


def test_a_directory_without_a_manifest_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=MANIFEST_NAME):
        Bundle.open(tmp_path)


def test_an_oversize_manifest_is_refused_unread(bundle: Bundle) -> None:
    (bundle.directory / MANIFEST_NAME).write_bytes(b" " * (MAX_MANIFEST_BYTES + 1))
    with pytest.raises(BundleError, match="at most"):
        Bundle.open(bundle.directory)


def test_a_newer_cloud_may_add_fields(bundle: Bundle) -> None:
    fields = json.loads(encode_manifest(bundle.manifest))
    fields["of_next_year"] = 1
    assert parse_manifest(json.dumps(fields).encode()) == bundle.manifest


BREAKS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "unknown dtype": (lambda m: m["variants"][0]["inputs"][0].update(dtype="float16"), "dtype"),
    "unknown runtime": (lambda m: m["variants"][0].update(runtime="tensorrt"), "runtime"),
    "negative dimension": (lambda m: m["variants"][0]["inputs"][0].update(shape=[1, -3]), "shape"),
    "path outside": (lambda m: m["files"][0].update(path="../golden.npz"), "unsafe path"),
    "absolute path": (lambda m: m["files"][0].update(path="/etc/passwd"), "unsafe path"),
    "path twice": (lambda m: m["files"].append(m["files"][0]), "twice"),
    "itself": (lambda m: m["files"][0].update(path=MANIFEST_NAME), "itself"),
    "variant twice": (lambda m: m["variants"].append(m["variants"][0]), "twice"),
    "file not listed": (lambda m: m["variants"][0].update(file="other.onnx"), "other.onnx"),
    "labels not listed": (lambda m: m.update(labels="other.txt"), "other.txt"),
    "bad sha256": (lambda m: m["files"][0].update(sha256="00"), "sha256"),
    "no variants": (lambda m: m.update(variants=[]), "variants"),
    "golden for another model": (lambda m: m["golden"].update(low=[0.0, 0.0]), "golden"),
    "int8 without quantization": (lambda m: m["variants"][0]["inputs"][0].update(dtype="int8"), "quantization"),
    "format of next year": (lambda m: m.update(format=2), "format"),
    "task is a path": (lambda m: m.update(task="../up"), "task"),
    "newline in version": (lambda m: m.update(version="a\n"), "version"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_manifest_is_refused_naming_the_field(bundle: Bundle, name: str) -> None:
    break_it, says = BREAKS[name]
    fields = json.loads(encode_manifest(bundle.manifest))
    break_it(fields)
    with pytest.raises(BundleError, match=says):
        parse_manifest(json.dumps(fields).encode())


@pytest.mark.parametrize("path", sorted(VECTORS.glob("*.json")), ids=lambda path: path.stem)
def test_a_broken_manifest_file_is_refused(path: Path) -> None:
    with pytest.raises(BundleError, match=MANIFEST_NAME):
        parse_manifest(path.read_bytes())
