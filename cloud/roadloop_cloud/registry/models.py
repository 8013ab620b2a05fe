"""The registry: which versions of a task's model there are, and what is known about each."""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import select

from roadloop_cloud.files import copy_tree_durably
from roadloop_cloud.store.database import Database, now_utc
from roadloop_cloud.store.fleet_tables import Model
from roadloop_models.bundle import MANIFEST_NAME, Bundle
from roadloop_models.bundle.archive import unpack
from roadloop_models.errors import ConflictError, NotFoundError

DRAFT, EVALUATED, PUBLISHED = "draft", "evaluated", "published"


class ModelRegistry:
    """Application service on the model table and the folder models/<task>/<version>/."""

    def __init__(self, database: Database, folder: Path) -> None:
        """`folder` is made when the first model comes."""
        self._database = database
        self._folder = folder

    def register(self, directory: Path) -> Model:
        """Copy a bundle into the workspace, checked file by file. Repeatable.

        Raises BundleError where it is not whole, ConflictError where the version exists with other content.
        """
        bundle = Bundle.open(directory)
        manifest = bundle.manifest
        target = self.directory(manifest.task, manifest.version)
        if not target.exists():
            copy_tree_durably(directory, target, [MANIFEST_NAME, *(entry.path for entry in manifest.files)])
        kept = Bundle.open(target)
        if kept.manifest_sha256 != bundle.manifest_sha256:
            raise ConflictError(
                f"{manifest.task} {manifest.version}: exists with other content; choose another version"
            )
        with self._database.transaction() as session:
            row = session.get(Model, (manifest.task, manifest.version))
            if row is None:
                row = Model(
                    task=manifest.task,
                    version=manifest.version,
                    manifest_sha256=bundle.manifest_sha256,
                    state=DRAFT,
                    evaluation=None,
                    lineage=msgspec.to_builtins(manifest.lineage),
                    created=now_utc(),
                )
                session.add(row)
        return row

    def import_from(self, source: Path) -> Model:
        """Register a bundle directory, or an archive that `pack` made. Raises as `register`."""
        if source.is_dir():
            return self.register(source)
        with tempfile.TemporaryDirectory(dir=_made(self._folder), prefix=".import-") as staging:
            return self.register(unpack(source, Path(staging) / "bundle").directory)

    def list(self, task: str | None = None) -> Sequence[Model]:
        """Models by task and age; with `task` only that one's."""
        query = select(Model).order_by(Model.task, Model.created, Model.version)
        with self._database.reading() as session:
            return session.scalars(query if task is None else query.where(Model.task == task)).all()

    def get(self, task: str, version: str) -> Model:
        """One model. Raises NotFoundError with what there is."""
        with self._database.reading() as session:
            row = session.get(Model, (task, version))
            if row is None:
                known = session.scalars(select(Model.version).where(Model.task == task)).all()
                there = f"there are {', '.join(known)}" if known else "that task has none"
                raise NotFoundError(f"no model {task} {version}; {there}")
        return row

    def bundle(self, task: str, version: str) -> Bundle:
        """A registered bundle, checked anew. Raises NotFoundError, BundleError where a file changed."""
        self.get(task, version)
        return Bundle.open(self.directory(task, version))

    def record_evaluation(self, task: str, version: str, evaluation: dict[str, Any]) -> None:
        """Keep what the task's protocol found. Raises NotFoundError."""
        self.get(task, version)
        with self._database.transaction() as session:
            row = session.get_one(Model, (task, version))
            row.evaluation = evaluation
            row.state = EVALUATED if row.state == DRAFT else row.state

    def directory(self, task: str, version: str) -> Path:
        """Where a version's bundle lies, or would."""
        return self._folder / task / version

    def discard_partial(self) -> None:
        """Remove what imports and copies that were killed left behind."""
        for path in self._folder.glob("**/.*"):
            shutil.rmtree(path, ignore_errors=True)


def _made(directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    return directory
