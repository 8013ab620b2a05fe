"""`models train`: the one command that factory and starter bundles, and any other, are made with."""

import tempfile
from pathlib import Path

import msgspec

from roadloop_cloud.training.run import BUNDLE_FOLDER, OnProgress, run_training
from roadloop_cloud.training.spec import DataSource, TrainingResult, TrainingSpec
from roadloop_models.errors import BundleError
from roadloop_models.tasks import Part, get_task


def train_bundle(
    task: str,
    data_dir: Path,
    version: str,
    output: Path,
    *,
    part: Part = "all",
    seed: int = 0,
    epochs: int | None = None,
    form: str | None = None,
    with_fp32: bool = False,
    made: bool = False,
    threads: int = 1,
    on_progress: OnProgress | None = None,
) -> TrainingResult:
    """Train `task` from nothing on one part of the training rows below `data_dir` and write the bundle `output`.

    It is evaluated on the test rows below `data_dir`; manifest and model card carry the figures. Raises what
    `run_training` raises, and BundleError where `output` exists.
    """
    get_task(task)
    if output.exists():
        raise BundleError(f"{output}: exists already; a bundle is never changed, choose a new version or directory")
    spec = TrainingSpec(
        task=task,
        version=version,
        data=DataSource(str(data_dir.resolve()), part),
        seed=seed,
        epochs=epochs,
        form=form,
        with_fp32=with_fp32,
        test_data=str(data_dir.resolve()),
        data_name="made" if made else "published",
        threads=threads,
    )
    spec = msgspec.structs.replace(spec, command=_command(spec))
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".train-", dir=output.parent) as work_dir:
        result = run_training(spec, Path(work_dir), on_progress)
        (Path(work_dir) / BUNDLE_FOLDER).rename(output)
    return msgspec.structs.replace(result, bundle=str(output))


def _command(spec: TrainingSpec) -> str:
    options = f"--part {spec.data.part} --seed {spec.seed}"
    options += "" if spec.epochs is None else f" --epochs {spec.epochs}"
    options += "" if spec.form is None else f" --form {spec.form}"
    options += " --with-fp32" if spec.with_fp32 else ""
    return f"roadloop models train --task {spec.task} --data DIR {options} --version {spec.version} --output BUNDLE"
