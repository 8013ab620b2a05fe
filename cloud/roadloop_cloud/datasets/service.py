"""Builds snapshots from the telemetry and the captured items of a workspace."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy import select

from roadloop_cloud.datasets import signs, speeds
from roadloop_cloud.datasets.snapshot import Content, Snapshot, Snapshots
from roadloop_cloud.store.database import Database
from roadloop_cloud.store.ingest_tables import Capture
from roadloop_models.bundle import Bundle
from roadloop_models.contract.streams import ROAD_SPEED
from roadloop_models.errors import ConfigError, DataError, NotFoundError
from roadloop_models.preprocess import ImageArray
from roadloop_models.tasks import sign_data, speed_data

_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
_END = datetime(9999, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Selection:
    """What goes into a snapshot."""

    task: str
    labels: Path | None = None
    held_out: Path | None = None
    """A data folder; what its test rows have is left out, so that candidates can be judged by them."""
    since: datetime = _BEGINNING
    until: datetime = _END
    """By the vehicles' wall clocks."""

    @property
    def span_ms(self) -> tuple[int, int]:
        """`since` and `until` in milliseconds since the epoch."""
        return int(self.since.timestamp() * 1000), int(self.until.timestamp() * 1000)


class Datasets:
    """Application service on the snapshots."""

    def __init__(
        self,
        database: Database,
        snapshots: Snapshots,
        read_stream: Callable[[str], pa.Table],
        blob_path: Callable[[str], Path],
        incumbent: Callable[[str], Bundle],
    ) -> None:
        """`incumbent`: the bundle that the fleet runs for a task; it says which sensors there are."""
        self._database = database
        self._snapshots = snapshots
        self._read_stream = read_stream
        self._blob_path = blob_path
        self._incumbent = incumbent

    def build(self, selection: Selection) -> Snapshot:
        """Write a snapshot; the same rows give the same one. Raises DataError, ConfigError, NotFoundError."""
        builders = {"traffic-speed": self._speeds, "traffic-sign": self._signs}
        builder = builders.get(selection.task)
        if builder is None:
            raise NotFoundError(f"no task '{selection.task}' to build a data set for; there are {', '.join(builders)}")
        staging = self._snapshots.staging()
        try:
            return self._snapshots.keep(staging, selection.task, builder(selection, staging))
        finally:
            self._snapshots.discard(staging)

    def list(self) -> Sequence[Snapshot]:
        """All snapshots, the oldest first."""
        return self._snapshots.list()

    def show(self, name: str) -> Snapshot:
        """One snapshot by its hash or the beginning of it. Raises NotFoundError, DataError where it was changed."""
        return self._snapshots.open(name)

    def _speeds(self, selection: Selection, staging: Path) -> Content:
        if selection.labels is not None:
            raise ConfigError("--labels: forecasts need none; what happened next is the label")
        table = self._read_stream(ROAD_SPEED.name)
        if table.num_rows:
            first_ms, end_ms = selection.span_ms
            table = table.filter((pc.field("t_ms") >= first_ms) & (pc.field("t_ms") < end_ms))
        sensors = self._incumbent(selection.task).manifest.preprocess.params.get("sensors")
        if not isinstance(sensors, int):
            raise DataError(f"the incumbent of {selection.task} does not say how many sensors it takes")
        held_out = [] if selection.held_out is None else speed_data.load_test_speeds(selection.held_out).steps.tolist()
        rows, content = speeds.assemble(speeds.Observations.from_table(table), sensors, held_out)
        speed_data.write_speeds(staging, rows)
        return content

    def _signs(self, selection: Selection, staging: Path) -> Content:
        if selection.labels is None:
            raise ConfigError("--labels is missing: a CSV with sha256,label of captured images")
        labels = signs.read_labels(selection.labels)
        captured = self._captured(selection)
        target = staging / sign_data.FOLDER / sign_data.TRAIN_FILE
        return signs.assemble(captured, labels, _held_out_signs(selection.held_out), target)

    def _captured(self, selection: Selection) -> Sequence[signs.Captured]:
        first_ms, end_ms = selection.span_ms
        wanted = (Capture.task == selection.task, Capture.t_ms >= first_ms, Capture.t_ms < end_ms)
        with self._database.reading() as session:
            found = session.scalars(select(Capture).where(*wanted)).all()
        return [signs.Captured(row.vehicle, row.sha256, row.media_type, self._blob_path(row.sha256)) for row in found]


def _held_out_signs(data_dir: Path | None) -> Callable[[ImageArray], bool]:
    if data_dir is None:
        return lambda image: False
    pictures = {image.tobytes() for image in sign_data.load_test_signs(data_dir).images}
    return lambda image: image.tobytes() in pictures
