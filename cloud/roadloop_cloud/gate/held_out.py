"""Whether neither model was trained on a row that judges them: by the rows themselves, along both lineages."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from roadloop_cloud.gate.figures import GateResult
from roadloop_models.bundle import Lineage, Manifest, Source
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
    """All that a version was trained on, itself and through its teachers and parts, back to the first of its lineage.

    What teachers and parts were trained on is recorded in its manifest, for no registry need have them. `find_parent`
    and `find_snapshot` raise what a registry raises where there is no such version or snapshot.
    """
    waiting: deque[tuple[str, Lineage | Source]] = deque([(manifest.version, manifest.lineage)])
    recorded: dict[str, Source] = {}
    met = {manifest.version}
    while waiting and len(met) <= _LONGEST_LINEAGE:
        version, known = waiting.popleft()
        yield _rows_of(version, known, side, data_dir, find_snapshot)
        own = {source.version: source for source in known.sources} if isinstance(known, Lineage) else {}
        recorded |= own
        for name in (known.parent_version, *own):
            if name is None or name in met:
                continue
            met.add(name)
            try:
                waiting.append((name, recorded[name] if name in recorded else find_parent(name).lineage))
            except (NotFoundError, BundleError):
                yield TrainedOn(side, f"whatever {name} was trained on", None)


def _rows_of(
    version: str, known: Lineage | Source, side: Side, data_dir: Path, find_snapshot: Callable[[str], Path]
) -> TrainedOn:
    if known.snapshot_sha256 is not None:
        what = f"snapshot {known.snapshot_sha256[:12]} of {version}"
        try:
            return TrainedOn(side, what, find_snapshot(known.snapshot_sha256))
        except (NotFoundError, DataError):
            return TrainedOn(side, what, None)
    if known.data in _PUBLISHED:
        return TrainedOn(side, f"the training split that {version} began with", data_dir, "all")
    return TrainedOn(side, f"whatever {version} was trained on", None)


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
