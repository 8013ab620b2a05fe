"""Bundles: one immutable version of a task's model, with everything that is needed to run and to check it."""

from roadloop_models.bundle.bundle import Bundle, check_file, file_sha256, write_bundle
from roadloop_models.bundle.manifest import (
    MANIFEST_NAME,
    FileEntry,
    GoldenSpec,
    Lineage,
    Manifest,
    Postprocess,
    Preprocess,
    Quantization,
    Sealed,
    Source,
    TensorSpec,
    Variant,
    encode_manifest,
    parse_manifest,
)

__all__ = [
    "MANIFEST_NAME",
    "Bundle",
    "FileEntry",
    "GoldenSpec",
    "Lineage",
    "Manifest",
    "Postprocess",
    "Preprocess",
    "Quantization",
    "Sealed",
    "Source",
    "TensorSpec",
    "Variant",
    "check_file",
    "encode_manifest",
    "file_sha256",
    "parse_manifest",
    "write_bundle",
]
