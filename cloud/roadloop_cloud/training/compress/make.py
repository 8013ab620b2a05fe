"""`models compress`: from a bundle to a smaller one. No torch here."""

import shutil
from pathlib import Path

import msgspec

from roadloop_cloud.training.compress.settings import Compression
from roadloop_cloud.training.run import BUNDLE_FOLDER, OnProgress, run_training
from roadloop_cloud.training.spec import DataSource, TrainingResult, TrainingSpec
from roadloop_models.bundle import Bundle
from roadloop_models.errors import BadInputError, BundleError, ConfigError
from roadloop_models.tasks import Part


def compress_bundle(
    parent: Bundle,
    data_dir: Path,
    version: str,
    output: Path,
    settings: Compression,
    *,
    part: Part = "all",
    seed: int = 0,
    epochs: int | None = None,
    qat_above: float | None = None,
    threads: int = 1,
    on_progress: OnProgress | None = None,
) -> TrainingResult:
    """Compress `parent` on training rows below `data_dir` and write the bundle `output`, with an fp32 file.

    It is evaluated on the test rows below `data_dir`. Killed and asked for again, it goes on after the last epoch.
    Raises what `run_training` raises, BundleError where `output` exists, and ConfigError where `version` is that of the
    parent or of a teacher, or the task's network cannot be compressed that way.
    """
    teachers = [Bundle.open(Path(path)).manifest for path in settings.teachers]
    if version in {manifest.version for manifest in (parent.manifest, *teachers)}:
        raise ConfigError(f"{parent.manifest.task}/{version} is the parent or a teacher; choose another version")
    if output.exists():
        raise BundleError(f"{output}: exists already; a bundle is never changed, choose a new version or directory")
    settings = msgspec.structs.replace(
        settings, teachers=tuple(str(Path(teacher).resolve()) for teacher in settings.teachers)
    )
    spec = TrainingSpec(
        task=parent.manifest.task,
        version=version,
        data=DataSource(str(data_dir.resolve()), part),
        parent=str(parent.directory.resolve()),
        seed=seed,
        epochs=epochs,
        with_fp32=True,
        test_data=str(data_dir.resolve()),
        data_name="published",
        threads=threads,
        compress=settings,
        qat_above=qat_above,
    )
    spec = msgspec.structs.replace(spec, command=_command(spec, parent))
    work_dir = output.parent / f".compress-{output.name}"
    work_dir.mkdir(parents=True, exist_ok=True)
    try:
        result = run_training(spec, work_dir, on_progress)
        (work_dir / BUNDLE_FOLDER).rename(output)
    except BadInputError:  # the same command would fail again, so nothing will be gone on with
        shutil.rmtree(work_dir)
        raise
    shutil.rmtree(work_dir)
    return msgspec.structs.replace(result, bundle=str(output))


def _command(spec: TrainingSpec, parent: Bundle) -> str:
    asked = spec.compress
    assert asked is not None
    options = f"--method {asked.method}"
    if asked.method in ("distil", "prune"):
        options += f" --share {asked.share:g}"
    if asked.method != "quantize":
        options += (
            f" --temperature {asked.temperature:g} --soft-share {asked.soft_share:g} --hints {asked.hint_weight:g}"
        )
    for path in asked.teachers:
        taught_by = Bundle.open(Path(path)).manifest
        options += f" --teacher {taught_by.task}/{taught_by.version}"
    options += "" if spec.qat_above is None else f" --qat-above {spec.qat_above:g}"
    options += f" --part {spec.data.part} --seed {spec.seed}"
    options += "" if spec.epochs is None else f" --epochs {spec.epochs}"
    source = f"{parent.manifest.task}/{parent.manifest.version}"
    return f"roadloop models compress {source} --data DIR {options} --version {spec.version} --output BUNDLE"
