"""Builds snapshots from the telemetry and the captured items of a workspace."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from roadloop_cloud.captures import Captures
from roadloop_cloud.datasets import flows, odometers, signs, speeds
from roadloop_cloud.datasets.compare import Difference, compare
from roadloop_cloud.datasets.snapshot import TEST_FOLDER, Content, Snapshot, Snapshots
from roadloop_cloud.datasets.splits import Shares, SplitBy
from roadloop_cloud.labels.exchange import get_format
from roadloop_cloud.labels.labelling import Labelling
from roadloop_cloud.labels.service import Labels
from roadloop_cloud.labels.words import TEACHER_ABOVE
from roadloop_models.bundle import Bundle
from roadloop_models.contract.streams import FLOW_FORECAST, POSITION, ROAD_SPEED
from roadloop_models.errors import ConfigError, DataError, NotFoundError
from roadloop_models.preprocess import ImageArray
from roadloop_models.tasks import flow_data, localization_data, sign_data, speed_data

TEST_SHARE = 0.2
"""What a snapshot sets aside for testing, where it is asked to: the share of the protocol of traffic-speed."""
_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
_END = datetime(9999, 1, 1, tzinfo=UTC)
_SAMPLE = ("vehicle", "boot", "seq")


@dataclass(frozen=True)
class Selection:
    """What goes into a snapshot."""

    task: str
    labels: Path | None = None
    """A CSV of labels that is imported first."""
    held_out: Path | None = None
    """A data folder; what its test rows have is left out, so that candidates can be judged by them."""
    since: datetime = _BEGINNING
    until: datetime = _END
    """By the vehicles' wall clocks."""
    split_by: SplitBy | None = None
    """None: what the task's rows are split by best."""
    with_test: bool = False
    """Whether a fifth is set aside for testing, below `test/`."""
    teacher_above: float = TEACHER_ABOVE
    """A teacher's labels count where it is surer than this; 1: never."""
    vehicle: str | None = None
    """Only what this vehicle sent."""

    @property
    def span_ms(self) -> tuple[int, int]:
        """`since` and `until` in milliseconds since the epoch."""
        return int(self.since.timestamp() * 1000), int(self.until.timestamp() * 1000)


@dataclass(frozen=True)
class Splitting:
    """How rows are split."""

    by: SplitBy
    shares: Shares


@dataclass(frozen=True)
class _Recipe:
    split_by: tuple[SplitBy, ...]
    """What its rows can be split by; the first is taken where nobody says."""
    build: Callable[[Selection, Splitting, Path], Content]
    validation: float = 0.1
    """The share that training holds out, where nobody says otherwise."""
    labelled: bool = False
    own_test: bool = True


class Datasets:
    """Application service on the snapshots."""

    def __init__(  # noqa: PLR0917 - the sources of rows, each a service of its own
        self,
        snapshots: Snapshots,
        read_stream: Callable[[str], pa.Table],
        captures: Captures,
        labels: Labels,
        labelling: Labelling,
        incumbent: Callable[[str], Bundle],
        quarantined: Callable[[], Collection[str]],
        hardware: Callable[[], Mapping[str, str]],
    ) -> None:
        """`incumbent`: the bundle that the fleet runs for a task; it says which sensors there are. `quarantined`:
        vehicles whose rows are left out. `hardware`: vehicle -> what it last reported to be."""
        self._snapshots = snapshots
        self._read_stream = read_stream
        self._captures = captures
        self._labels = labels
        self._labelling = labelling
        self._incumbent = incumbent
        self._quarantined = quarantined
        self._hardware = hardware
        self._recipes = {
            "traffic-sign": _Recipe(("track", "drive", "vehicle", "time"), self._signs, labelled=True),
            "traffic-speed": _Recipe(("time",), self._speeds, validation=0.25),
            "traffic-flow": _Recipe(("time",), self._flows, validation=0.25),
            "localization": _Recipe(("drive", "vehicle", "time"), self._odometers, own_test=False),
        }

    def build(self, selection: Selection) -> Snapshot:
        """Write a snapshot; the same rows give the same one. Raises DataError, ConfigError, NotFoundError."""
        recipe = self._recipes.get(selection.task)
        if recipe is None:
            raise NotFoundError(
                f"no data sets of '{selection.task}' are made from what the fleet sends; there are those of "
                f"{', '.join(self._recipes)}"
            )
        split_by = selection.split_by or recipe.split_by[0]
        if split_by not in recipe.split_by:
            raise ConfigError(f"--split-by {split_by}: rows of {selection.task} know {', '.join(recipe.split_by)}")
        if selection.with_test and not recipe.own_test:
            raise ConfigError(f"--with-test: {selection.task} is judged on recorded drives, not on rows of the fleet")
        if selection.labels is not None:
            if not recipe.labelled:
                raise ConfigError(f"--labels: rows of {selection.task} need none; what happened next is the label")
            by = selection.labels.name[:80]
            self._labelling.hear(selection.task, get_format("csv"), selection.labels, by)
        splitting = Splitting(split_by, Shares(recipe.validation, TEST_SHARE if selection.with_test else 0.0))
        staging = self._snapshots.staging()
        try:
            return self._snapshots.keep(staging, selection.task, recipe.build(selection, splitting, staging))
        finally:
            self._snapshots.discard(staging)

    def list(self) -> Sequence[Snapshot]:
        """All snapshots, the oldest first."""
        return self._snapshots.list()

    def show(self, name: str) -> Snapshot:
        """One snapshot by its hash or the beginning of it. Raises NotFoundError, DataError where it was changed."""
        return self._snapshots.open(name)

    def last_two(self, task: str) -> tuple[str, str]:
        """Names of a task's last snapshot but one, and of its last. Raises NotFoundError where there are no two."""
        names = [snapshot.sha256 for snapshot in self.list() if snapshot.manifest.task == task]
        if len(names) < 2:
            raise NotFoundError(f"{task} has {len(names)} snapshots; 'roadloop dataset build' makes them")
        return names[-2], names[-1]

    def diff(self, before: str, after: str) -> Difference:
        """What changed from one snapshot to another. Raises as `show`; ConfigError where they are of two tasks."""
        first, second = self.show(before), self.show(after)
        if first.manifest.task != second.manifest.task:
            raise ConfigError(f"{before} is for {first.manifest.task}, {after} for {second.manifest.task}")
        for snapshot in (first, second):
            if not snapshot.manifest.splits:
                raise ConfigError(f"snapshot {snapshot.sha256[:12]} does not say where its rows come from")
        return compare(first.origins(), second.origins())

    def _speeds(self, selection: Selection, splitting: Splitting, staging: Path) -> Content:
        table, excluded = self._samples(ROAD_SPEED.name, selection)
        sensors = self._incumbent(selection.task).manifest.preprocess.params.get("sensors")
        if not isinstance(sensors, int):
            raise DataError(f"the incumbent of {selection.task} does not say how many sensors it takes")
        held_out = [] if selection.held_out is None else speed_data.load_test_speeds(selection.held_out).steps.tolist()
        observed = speeds.Observations.from_table(table)
        rows, content = speeds.assemble(observed, sensors, held_out, splitting.shares)
        kept = _train_rows(content)
        speed_data.write_speeds(staging, rows.span(0, kept))
        if kept < len(rows):  # the protocol's test rows are the last fifth of a record: all of it lies there
            speed_data.write_speeds(staging / TEST_FOLDER, rows)
        return _with(content, excluded, kept)

    def _flows(self, selection: Selection, splitting: Splitting, staging: Path) -> Content:
        table, excluded = self._samples(FLOW_FORECAST.name, selection)
        held_out = [] if selection.held_out is None else flow_data.load_test_flow(selection.held_out).steps.tolist()
        rows, content = flows.assemble(table, selection.vehicle, held_out, splitting.shares)
        kept = _train_rows(content)
        flow_data.write_flow(staging / flow_data.FOLDER / flow_data.TRAIN_FILE, rows.span(0, kept))
        if kept < len(rows):
            target = staging / TEST_FOLDER / flow_data.FOLDER / flow_data.TEST_FILE
            flow_data.write_flow(target, rows.span(kept, len(rows)))
        return _with(content, excluded, kept)

    def _odometers(self, selection: Selection, splitting: Splitting, staging: Path) -> Content:
        table, excluded = self._samples(POSITION.name, selection)
        rows, content = odometers.assemble(table, splitting.by, splitting.shares)
        localization_data.write_odometer(staging, rows)
        return _with(content, excluded, content.rows)

    def _signs(self, selection: Selection, splitting: Splitting, staging: Path) -> Content:
        verdicts = self._labels.verdicts(selection.task, selection.teacher_above)
        if not verdicts:
            raise ConfigError(
                f"nothing of {selection.task} is labelled yet: 'roadloop label export' asks people, or --labels gives "
                "a CSV with sha256,label of captured images"
            )
        captured = [
            item
            for item in self._captures.of(selection.task, *selection.span_ms)
            if selection.vehicle in (None, item.vehicle)
        ]
        labelled = [item for item in captured if item.sha256 in verdicts]
        known = signs.Known(
            verdicts,
            self._captures.decisions(labelled),
            set(self._quarantined()),
            _held_out_signs(selection.held_out),
            self._hardware(),
        )
        return signs.assemble(captured, known, splitting.by, splitting.shares, staging)

    def _samples(self, stream: str, selection: Selection) -> tuple[pa.Table, dict[str, int]]:
        """Samples of vehicles that are believed, each once; and what was left out."""
        table = self._read_stream(stream)
        if not table.num_rows:
            return table, {}
        first_ms, end_ms = selection.span_ms
        wanted = (pc.field("t_ms") >= first_ms) & (pc.field("t_ms") < end_ms)
        if selection.vehicle is not None:
            wanted &= pc.field("vehicle") == selection.vehicle
        table = table.filter(wanted)
        believed = table.filter(~pc.field("vehicle").isin(pa.array(sorted(self._quarantined()), pa.string())))
        once = _once(believed)
        excluded = {
            "quarantined": table.num_rows - believed.num_rows,
            "duplicate": believed.num_rows - once.num_rows,
        }
        return once, {reason: count for reason, count in excluded.items() if count}


def _once(table: pa.Table) -> pa.Table:
    """Each sample once: ingest sees to it, but a table that was restored or written to by hand may have some twice."""
    numbered = table.select(_SAMPLE).append_column("row", pa.array(np.arange(table.num_rows)))
    first = numbered.group_by(list(_SAMPLE)).aggregate([("row", "min")])["row_min"].to_numpy()
    return table if len(first) == table.num_rows else table.take(np.sort(first))


def _train_rows(content: Content) -> int:
    return sum(origin.split != "test" for origin in content.origins)


def _with(content: Content, excluded: dict[str, int], rows: int) -> Content:
    return Content(
        rows=rows,
        sources=content.sources,
        excluded=dict(sorted((excluded | content.excluded).items())),
        gaps=content.gaps,
        split_by=content.split_by,
        origins=content.origins,
        findings=content.findings,
    )


def _held_out_signs(data_dir: Path | None) -> Callable[[ImageArray], bool]:
    if data_dir is None:
        return lambda image: False
    pictures = {image.tobytes() for image in sign_data.load_test_signs(data_dir).images}
    return lambda image: image.tobytes() in pictures
