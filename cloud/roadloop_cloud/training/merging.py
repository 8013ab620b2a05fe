"""`models merge`: from bundles of one task to one whose answer is the mean of theirs. No torch here."""

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from roadloop_cloud.training.run import BUNDLE_FOLDER, OnProgress, run_training
from roadloop_cloud.training.spec import DataSource, TrainingResult, TrainingSpec
from roadloop_models.bundle import Bundle
from roadloop_models.errors import BadInputError, BundleError


def merge_bundles(
    bundles: Sequence[Bundle], data_dir: Path, version: str, output: Path, *, on_progress: OnProgress | None = None
) -> TrainingResult:
    """Merge networks of traffic-speed that were trained on the same sensors, and write the bundle `output`.

    It is quantized with training rows below `data_dir` and evaluated on the test rows there. Raises BundleError where
    the bundles do not fit each other or `output` exists, BadInputError for another task, what `run_training` raises.
    """
    if output.exists():
        raise BundleError(f"{output}: exists already; a bundle is never changed, choose a new version or directory")
    if len(bundles) < 2 or {bundle.manifest.task for bundle in bundles} != {"traffic-speed"}:
        raise BadInputError("two bundles or more of traffic-speed can be merged, and of no other task")
    data = str(data_dir.resolve())
    spec = TrainingSpec(
        task="traffic-speed",
        version=version,
        data=DataSource(data, "all"),
        merge=tuple(str(bundle.directory.resolve()) for bundle in bundles),
        with_fp32=True,
        test_data=data,
        data_name="published",
        command=_command(bundles, version),
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".merge-", dir=output.parent) as folder:
        result = run_training(spec, Path(folder), on_progress)
        (Path(folder) / BUNDLE_FOLDER).rename(output)
    return msgspec.structs.replace(result, bundle=str(output))


def _command(bundles: Sequence[Bundle], version: str) -> str:
    """All of it: the commands that made the networks too, where their bundles say them."""
    lines = []
    for number, bundle in enumerate(bundles, 1):
        made = bundle.manifest.lineage.command
        if made is not None:
            lines.append(
                re.sub(r"--version \S+ --output BUNDLE", f"--version part-{number} --output PART-{number}", made)
            )
    parts = " ".join(f"PART-{number}" for number in range(1, len(bundles) + 1))
    return "\n".join([*lines, f"roadloop models merge {parts} --data DIR --version {version} --output BUNDLE"])
