"""A snapshot: a folder of training rows that never changes, called by the SHA-256 of its manifest.

The manifest has the hash of every file and no time of day, so equal rows give the same snapshot.
"""

import hashlib
import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec

from roadloop_cloud.datasets.origins import RowOrigin, read_origins, write_origins
from roadloop_cloud.datasets.quality import Finding
from roadloop_cloud.datasets.splits import SPLITS, SplitBy
from roadloop_cloud.files import move_tree_durably
from roadloop_models.bundle import FileEntry, check_file, file_sha256
from roadloop_models.bundle.manifest import Name, Sha256
from roadloop_models.errors import BadInputError, BundleError, DataError, NotFoundError
from roadloop_models.typed import from_json

MANIFEST_NAME = "manifest.json"
TEST_FOLDER = "test"
_MAX_MANIFEST_BYTES = 16 * 1024 * 1024


class Gap(msgspec.Struct, frozen=True):
    """Steps first..last (both included) of which no complete row is there."""

    first: int
    last: int


class SplitCount(msgspec.Struct, frozen=True):
    """How much one split holds; which row is where says rows.csv."""

    rows: int
    groups: int


class SnapshotManifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a snapshot holds and where it comes from."""

    format: Annotated[int, msgspec.Meta(ge=1, le=1)] = 1
    task: Name
    rows: int
    """Of train and validation; those of test lie apart, below `test/`."""
    files: tuple[FileEntry, ...]
    sources: dict[str, int]
    """Vehicle -> rows that it gave, or helped to give."""
    excluded: dict[str, int] = {}
    """Reason -> rows or items left out."""
    gaps: tuple[Gap, ...] = ()
    split_by: SplitBy | None = None
    splits: dict[str, SplitCount] = {}
    labels: dict[str, int] = {}
    """Origin of the label -> rows."""
    findings: tuple[Finding, ...] = ()
    """What is odd about rows, by name."""


@dataclass(frozen=True)
class Content:
    """What a builder wrote: everything of the manifest but the files, which are hashed afterwards."""

    rows: int
    sources: dict[str, int]
    excluded: dict[str, int]
    gaps: tuple[Gap, ...] = ()
    split_by: SplitBy | None = None
    origins: Sequence[RowOrigin] = ()
    """One a row, in the order of the files."""
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class Snapshot:
    """A snapshot on disk; `directory` has the layout of a data folder of its task."""

    sha256: Sha256
    directory: Path
    manifest: SnapshotManifest

    def origins(self) -> list[RowOrigin]:
        """Where each row comes from, in the order of the files."""
        return read_origins(self.directory)

    @property
    def test_directory(self) -> Path | None:
        """A data folder whose test rows are this snapshot's own; None where none were set aside."""
        folder = self.directory / TEST_FOLDER
        return folder if folder.is_dir() else None


class Snapshots:
    """The folder of all snapshots."""

    def __init__(self, folder: Path) -> None:
        """`folder` is made when the first snapshot comes."""
        self._folder = folder

    def staging(self) -> Path:
        """A new empty directory to build a snapshot in; give it to `keep` or `discard`."""
        self._folder.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(dir=self._folder, prefix=".building-"))

    def keep(self, staging: Path, task: str, content: Content) -> Snapshot:
        """Hash what is in `staging`, write its manifest and give it its name; equal content is kept once."""
        if content.origins:
            write_origins(staging, content.origins)
        paths = sorted(path for path in staging.rglob("*") if path.is_file())
        files = tuple(
            FileEntry(path.relative_to(staging).as_posix(), file_sha256(path), path.stat().st_size) for path in paths
        )
        manifest = SnapshotManifest(
            task=task,
            rows=content.rows,
            files=files,
            sources=content.sources,
            excluded=content.excluded,
            gaps=content.gaps,
            split_by=content.split_by,
            splits=_split_counts(content.origins),
            labels=dict(sorted(Counter(row.origin for row in content.origins if row.origin).items())),
            findings=content.findings,
        )
        raw = msgspec.json.format(msgspec.json.encode(manifest, order="sorted"), indent=1) + b"\n"
        (staging / MANIFEST_NAME).write_bytes(raw)
        sha256 = hashlib.sha256(raw).hexdigest()
        if (self._folder / sha256).exists():
            self.discard(staging)
        else:
            staging.chmod(0o755)
            move_tree_durably(staging, self._folder / sha256)
        return self.open(sha256)

    @staticmethod
    def discard(staging: Path) -> None:
        """Remove what was begun."""
        shutil.rmtree(staging, ignore_errors=True)

    def open(self, name: str) -> Snapshot:
        """A snapshot by its hash or the beginning of it, checked file by file.

        Raises NotFoundError, BadInputError (several begin so) or DataError (it was changed).
        """
        sha256 = self._find(name)
        directory = self._folder / sha256
        raw = (directory / MANIFEST_NAME).read_bytes()
        if len(raw) > _MAX_MANIFEST_BYTES or hashlib.sha256(raw).hexdigest() != sha256:
            raise DataError(f"{directory / MANIFEST_NAME}: was changed after it was written; build the snapshot anew")
        manifest = from_json(raw, SnapshotManifest)
        for entry in manifest.files:
            try:
                check_file(directory / entry.path, entry)
            except BundleError as error:
                raise DataError(str(error)) from error
        return Snapshot(sha256, directory, manifest)

    def list(self) -> Sequence[Snapshot]:
        """All snapshots, the oldest first."""
        found = sorted(self._folder.glob("[0-9a-f]*"), key=lambda path: (path.stat().st_mtime, path.name))
        return [self.open(path.name) for path in found]

    def _find(self, name: str) -> str:
        if len(name) < 6 or not set(name) <= set("0123456789abcdef"):
            raise BadInputError(f"snapshot {name!r}: give its SHA-256, or at least the first 6 digits of it")
        found = sorted(path.name for path in self._folder.glob(f"{name}*"))
        if not found:
            raise NotFoundError(f"no snapshot {name}; 'roadloop dataset list' shows those there are")
        if len(found) > 1:
            raise BadInputError(f"snapshot {name}: {len(found)} begin so; give more digits")
        return found[0]


def _split_counts(rows: Sequence[RowOrigin]) -> dict[str, SplitCount]:
    groups = {name: [row.group for row in rows if row.split == name] for name in SPLITS}
    return {name: SplitCount(len(found), len(set(found))) for name, found in groups.items() if found}
