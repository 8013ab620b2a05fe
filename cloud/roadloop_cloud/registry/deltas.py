"""Patches for a new release: vehicles that hold an earlier one receive only what changed.

For every file that changed since a release that vehicles have, all kinds of patches are made, in a process of its own
with bounded time and memory. Each is proved there by the code that vehicles apply it with. The smallest is published
where it saves enough; as a target it is signed like any other file.
"""

import logging
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import select
from sqlalchemy.orm import Session

from roadloop_cloud.store.ingest_tables import Vehicle
from roadloop_models.bundle import Bundle, FileEntry
from roadloop_models.bundle.delta import KINDS, MAX_PATCHED_BYTES, PatchKind, patch_name
from roadloop_models.contract.messages import ReportedSlot
from roadloop_models.typed import from_builtins

if TYPE_CHECKING:
    from tuf.api.metadata import TargetFile

_log = logging.getLogger(__name__)
MAX_BASES = 4
"""Releases that patches are made from: those that most vehicles run."""
PAYS_BELOW = 0.6
"""Share of the whole file up to which a patch is worth being published."""
MIN_FILE_BYTES = 4096
"""What is smaller comes whole: its metadata would cost as much."""
MAX_TARGET_PATH = 200 - len("targets/") - 65
"""Of a target's name: what a vehicle may ask for is bounded, and the SHA-256 comes before it."""

OnStep = Callable[[str, float | None], None]


@dataclass(frozen=True)
class Pair:
    """A file of a release, and an earlier one that vehicles hold in its place."""

    entry: FileEntry
    base_sha256: str
    base: Path
    target: Path


@dataclass(frozen=True)
class MadePatch:
    """A proved patch, still outside of the repository."""

    pair: Pair
    kind: PatchKind
    file: Path
    size_bytes: int

    @property
    def path(self) -> str:
        """Its name within the release."""
        return patch_name(self.pair.entry.path, self.pair.base_sha256)

    @property
    def custom(self) -> dict[str, Any]:
        """What is signed with it."""
        return {"patch": self.kind, "from": self.pair.base_sha256, "to": self.pair.entry.sha256}


@dataclass(frozen=True)
class SignedPatch:
    """A patch that is published with a release."""

    path: str
    """Of the file that it makes."""
    base_sha256: str
    kind: str
    size_bytes: int
    whole_bytes: int


def signed_patches(targets: "Mapping[str, TargetFile]", prefix: str) -> list[SignedPatch]:
    """The patches of the release whose targets' names begin with `prefix`, by file and size."""
    found = []
    for name, target in targets.items():
        custom = target.custom or {}
        whole = targets.get(name.rpartition(".from-")[0])
        if name.startswith(f"{prefix}/") and "patch" in custom and whole is not None:
            path = whole.path.removeprefix(f"{prefix}/")
            found.append(SignedPatch(path, custom["from"], custom["patch"], target.length, whole.length))
    return sorted(found, key=lambda patch: (patch.path, patch.size_bytes))


def running_releases(session: Session, task: str) -> list[int]:
    """The releases of a task that vehicles say they run, those of most vehicles first."""
    counts: Counter[int] = Counter()
    for reported in session.scalars(select(Vehicle.reported).where(Vehicle.reported.is_not(None))):
        slots = from_builtins(cast(dict[str, Any], reported)["slots"], dict[str, ReportedSlot])
        counts.update({slot.running.release for slot in slots.values() if slot.task == task and slot.running})
    return [release for release, _ in counts.most_common()]


def pairs(bundle: Bundle, bases: Sequence[Bundle], prefix: str, signed: Container[str]) -> list[Pair]:
    """What to patch: the files that a vehicle fetches and that differ, but for those whose patch is signed already.

    `prefix` is that of the release's targets, `signed` the names of all targets.
    """
    found: dict[str, Pair] = {}
    fetched = {entry for variant in bundle.manifest.variants for entry in bundle.manifest.files_for(variant)}
    for entry in sorted(fetched, key=lambda entry: entry.path):
        for base in bases:
            old = next((file for file in base.manifest.files if file.path == entry.path), None)
            if old is None or old.sha256 == entry.sha256:
                continue
            if not all(MIN_FILE_BYTES <= file.size_bytes <= MAX_PATCHED_BYTES for file in (old, entry)):
                continue
            name = f"{prefix}/{patch_name(entry.path, old.sha256)}"
            if name not in signed and len(name) <= MAX_TARGET_PATH:
                pair = Pair(entry, old.sha256, base.directory / old.path, bundle.directory / entry.path)
                found.setdefault(name, pair)
    return list(found.values())


def make_patches(wanted: Sequence[Pair], folder: Path, step: OnStep) -> list[MadePatch]:
    """The patches that pay, made below `folder`; `step` is told which file is being worked on and how much is done."""
    made = []
    for number, pair in enumerate(wanted):
        step(f"patch for {pair.entry.path}", number / len(wanted))
        place = folder / str(number)
        place.mkdir()
        smallest = min(_try_all(pair, place), key=lambda patch: patch.size_bytes, default=None)
        if smallest is not None and smallest.size_bytes < PAYS_BELOW * pair.entry.size_bytes:
            made.append(smallest)
    return made


def _try_all(pair: Pair, place: Path) -> list[MadePatch]:
    command = [sys.executable, "-m", "roadloop_cloud.registry.patch_process"]
    command += [str(path) for path in (pair.base, pair.target, place)]
    # A kind that needs too much memory or time is left out; the release is published without it.
    done = subprocess.run(command, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        why = done.stderr.strip().splitlines()[-1:] or [f"ended with {done.returncode}"]
        _log.warning("%s: not all kinds of patches could be made: %s", pair.entry.path, why[0])
    files = [(kind, place / kind) for kind in KINDS]
    return [MadePatch(pair, kind, file, file.stat().st_size) for kind, file in files if file.exists()]
