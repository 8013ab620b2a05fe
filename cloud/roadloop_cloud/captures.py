"""Captured items as others read them: what is stored, whole and unchanged, and what the vehicle decided then."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy import select

from roadloop_cloud.store.database import Database
from roadloop_cloud.store.ingest_tables import Capture
from roadloop_models.contract.streams import DETECTION, SIGN_DECISION
from roadloop_models.errors import DataError
from roadloop_models.preprocess import ImageArray

MAX_IMAGE_BYTES = 4 * 1024 * 1024
IMAGE_SUFFIXES = {"image/png": ".png", "image/jpeg": ".jpg"}
_DECIDED = {
    SIGN_DECISION.name: ("class_id", "confidence"),
    DETECTION.name: ("best_class_id", "best_score"),
}
"""Stream -> its fields of class and confidence."""
ReadStream = Callable[[str], pa.Table]


@dataclass(frozen=True)
class Captured:
    """One captured item; `path` has its content."""

    sha256: str
    vehicle: str
    boot: int
    about_stream: str
    about_seq: int
    media_type: str
    t_ms: int
    path: Path

    @property
    def drive(self) -> str:
        """One start of the agent on one vehicle."""
        return f"{self.vehicle}/{self.boot}"


@dataclass(frozen=True)
class Decision:
    """What a vehicle decided about an item."""

    class_id: int
    confidence: float


class DamagedError(DataError):
    """The content of an item is missing, or not what it was when it came."""

    def __init__(self, reason: str, detail: str) -> None:
        """`reason`: missing, changed, too-large or no-image."""
        super().__init__(detail)
        self.reason = reason


class Captures:
    """Application service on the captured items of a workspace."""

    def __init__(self, database: Database, blob_path: Callable[[str], Path], read_stream: ReadStream) -> None:
        """Nothing is read yet."""
        self._database = database
        self._blob_path = blob_path
        self._read_stream = read_stream

    def of(self, task: str, first_ms: int | None = None, end_ms: int | None = None) -> Sequence[Captured]:
        """Every capture for a task, by vehicle and place in its telemetry; the vehicles' clocks from first to end."""
        query = select(Capture).where(Capture.task == task)
        if first_ms is not None:
            query = query.where(Capture.t_ms >= first_ms)
        if end_ms is not None:
            query = query.where(Capture.t_ms < end_ms)
        order = (Capture.vehicle, Capture.boot, Capture.about_stream, Capture.about_seq, Capture.sha256)
        with self._database.reading() as session:
            rows = session.scalars(query.order_by(*order)).all()
        return [
            Captured(
                row.sha256,
                row.vehicle,
                row.boot,
                row.about_stream,
                row.about_seq,
                row.media_type,
                row.t_ms,
                self._blob_path(row.sha256),
            )
            for row in rows
        ]

    def decisions(self, items: Sequence[Captured]) -> Mapping[str, Decision]:
        """SHA-256 -> what the vehicle decided, for those items whose sample has arrived and names a class."""
        found: dict[str, Decision] = {}
        for stream in sorted({item.about_stream for item in items} & set(_DECIDED)):
            table = self._read_stream(stream)
            if not table.num_rows:
                continue
            mine = {(item.vehicle, item.boot, item.about_seq): item for item in items if item.about_stream == stream}
            table = table.filter(pc.field("seq").isin(sorted({key[2] for key in mine})))
            class_field, confidence_field = _DECIDED[stream]
            names = ("vehicle", "boot", "seq", class_field, confidence_field)
            for vehicle, boot, seq, class_id, confidence in zip(*(table[n].to_pylist() for n in names), strict=True):
                item = mine.get((vehicle, boot, seq))
                if item is not None and class_id is not None and np.isfinite(class_id):
                    found.setdefault(item.sha256, Decision(int(class_id), float(confidence)))
        return found


def read_content(item: Captured) -> bytes:
    """The item's bytes, which still have the hash that they came with. Raises DamagedError."""
    try:
        if item.path.stat().st_size > MAX_IMAGE_BYTES:
            raise DamagedError("too-large", f"{item.path}: more than {MAX_IMAGE_BYTES} bytes")
        content = item.path.read_bytes()
    except OSError as error:
        raise DamagedError("missing", f"{item.path}: {error}") from error
    if hashlib.sha256(content).hexdigest() != item.sha256:
        raise DamagedError("changed", f"{item.path}: its content has another hash than its name")
    return content


def decode_image(item: Captured, content: bytes) -> ImageArray:
    """uint8 RGB [height, width, 3]. Raises DamagedError where it is no image."""
    import cv2

    if item.media_type not in IMAGE_SUFFIXES:
        raise DamagedError("no-image", f"{item.path}: is {item.media_type}")
    decoded = cv2.imdecode(np.frombuffer(content, dtype=np.uint8), cv2.IMREAD_COLOR)
    if decoded is None:
        raise DamagedError("no-image", f"{item.path}: truncated, or not an image that OpenCV reads")
    return np.ascontiguousarray(decoded[:, :, ::-1])
