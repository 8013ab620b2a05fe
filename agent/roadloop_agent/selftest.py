"""Golden vectors on this machine: does a bundle compute here what it computed when it was built?"""

from dataclasses import dataclass
from pathlib import Path

from roadloop_models.bundle import Bundle
from roadloop_models.bundle.golden import check_golden
from roadloop_models.runners import open_runner
from roadloop_models.sealed import KeyStore


@dataclass(frozen=True)
class SelfTest:
    """The outcome for one variant; `worst_ratio` is the largest deviation in units of what is allowed."""

    task: str
    version: str
    variant: str
    vectors: int
    worst_ratio: float


def self_test(directory: Path, variant_key: str, keys: KeyStore | None = None) -> SelfTest:
    """Run the golden vectors of one variant; `keys` opens what is sealed.

    Raises GoldenMismatchError, BundleError, VariantMissingError, RuntimeMissingError.
    """
    bundle = Bundle.open(directory, variant_key, keys)
    variant = bundle.variant_by_key(variant_key)
    runner = open_runner(bundle, variant)
    try:
        report = check_golden(bundle, variant, runner)
    finally:
        runner.close()
    return SelfTest(bundle.manifest.task, bundle.manifest.version, variant_key, report.vectors, report.worst_ratio)
