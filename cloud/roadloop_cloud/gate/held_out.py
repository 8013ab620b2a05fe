"""Whether neither model was trained on a row that judges them: by the rows themselves, along both lineages."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from roadloop_cloud.gate.figures import GateResult
from roadloop_models.bundle import Manifest
from roadloop_models.errors import BundleError, DataError, NotFoundError
from roadloop_models.tasks import Part, RowKeys, Task

GATE = "held-out"
_PUBLISHED = ("published", "made")
"""What a lineage says of a model that was trained on the training split of a data folder."""
_LONGEST_LINEAGE = 1000

Side = Literal["incumbent", "candidate"]


@dataclass(frozen=True)
class TrainedOn:
    """Rows that a version, or one that it descends from, was trained on; without a directory they are not here."""

    side: Side
    what: str
    directory: Path | None
    part: Part = "snapshot"


def trained_on(
    manifest: Manifest,
    side: Side,
    data_dir: Path,
    find_parent: Callable[[str], Manifest],
    find_snapshot: Callable[[str], Path],
) -> Iterator[TrainedOn]:
    """All that a version was trained on, back to the first of its lineage.

    `find_parent` and `find_snapshot` raise what a registry raises where there is no such version or snapshot.
    """
    for _ in range(_LONGEST_LINEAGE):
        lineage = manifest.lineage
        if lineage.snapshot_sha256 is not None:
            what = f"snapshot {lineage.snapshot_sha256[:12]} of {manifest.version}"
            try:
                yield TrainedOn(side, what, find_snapshot(lineage.snapshot_sha256))
            except (NotFoundError, DataError):
                yield TrainedOn(side, what, None)
        elif lineage.data in _PUBLISHED:
            yield TrainedOn(side, f"the training split that {manifest.version} began with", data_dir, "all")
        else:
            yield TrainedOn(side, f"whatever {manifest.version} was trained on", None)
        if lineage.parent_version is None:
            return
        try:
            manifest = find_parent(lineage.parent_version)
        except (NotFoundError, BundleError):
            yield TrainedOn(side, f"whatever {lineage.parent_version} was trained on", None)
            return


def judge_held_out(task: Task, data_dir: Path, sources: Sequence[TrainedOn]) -> GateResult:
    """Refused where a test row was trained on, and where nobody can tell what the candidate was trained on.

    An incumbent of unknown rows passes: had it seen the test rows, that would only be to its advantage.
    Raises DataError naming file and field.
    """
    if not isinstance(task, RowKeys):
        return GateResult(gate=GATE, passed=False, detail=f"{task.name} does not tell its rows apart")
    tested = task.row_keys(data_dir, "test")
    known: dict[tuple[Path, Part], frozenset[bytes]] = {}
    unknown = [source for source in sources if source.directory is None]
    for source in sources:
        if source.directory is None:
            continue
        place = (source.directory, source.part)
        if place not in known:
            known[place] = task.row_keys(*place)
        if shared := len(tested & known[place]):
            detail = f"{shared} of {len(tested)} test rows are in {source.what}, which trained the {source.side}"
            return GateResult(gate=GATE, passed=False, detail=detail)
    unproven = [source.what for source in unknown if source.side == "candidate"]
    if unproven:
        detail = f"nothing here tells the candidate's rows: {'; '.join(unproven)}"
        return GateResult(gate=GATE, passed=False, detail=detail)
    detail = f"none of {len(tested)} test rows is among {sum(map(len, known.values()))} trained on"
    if unknown:
        detail += f"; not known of the incumbent: {'; '.join(source.what for source in unknown)}"
    return GateResult(gate=GATE, passed=True, detail=detail)
