"""Tables of vehicles, of the ledger and of what ingest has committed."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, Integer, LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column

from roadloop_cloud.store.base import Base, UtcDateTime

_Vehicle = String(40)
_Name = String(40)
_RowId = BigInteger().with_variant(Integer, "sqlite")
"""SQLite numbers rows by itself only where the key is INTEGER."""


class Meta(Base):
    """Facts about the database itself: `schema_version`, `ledger_epoch`."""

    __tablename__ = "meta"

    key: Mapped[str] = mapped_column(String(40), primary_key=True)
    value: Mapped[str] = mapped_column(String(200))


class Vehicle(Base):
    """A vehicle of the fleet. What it says about itself is written by the fleet service."""

    __tablename__ = "vehicle"

    id: Mapped[str] = mapped_column(_Vehicle, primary_key=True)
    hardware: Mapped[str] = mapped_column(String(80))
    profile: Mapped[str] = mapped_column(String(200))
    tags: Mapped[list[str]] = mapped_column(JSON)
    created: Mapped[datetime] = mapped_column(UtcDateTime)
    sealing_key: Mapped[bytes | None] = mapped_column(LargeBinary)
    """Its public key, for the content keys of sealed releases: 32 bytes, X25519."""
    last_seen: Mapped[datetime | None] = mapped_column(UtcDateTime)
    online: Mapped[bool] = mapped_column(default=False)
    session: Mapped[str | None] = mapped_column(String(40))
    agent_version: Mapped[str | None] = mapped_column(String(40))
    reported: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    """The last `Reported` message as JSON."""
    reported_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class LedgerStream(Base):
    """One stream of one boot of one vehicle: which sequence numbers are accounted for, stored or lost."""

    __tablename__ = "ledger_stream"

    vehicle: Mapped[str] = mapped_column(_Vehicle, ForeignKey("vehicle.id"), primary_key=True)
    boot: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    stream: Mapped[str] = mapped_column(_Name, primary_key=True)
    accounted: Mapped[list[list[int]]] = mapped_column(JSON)
    """Disjoint ranges [first, last], ascending."""
    highest_seq: Mapped[int] = mapped_column(BigInteger, default=0)
    stored: Mapped[int] = mapped_column(BigInteger, default=0)
    lost: Mapped[int] = mapped_column(BigInteger, default=0)
    stored_bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    """Size on the wire of the messages that brought what is stored."""
    redelivered: Mapped[int] = mapped_column(BigInteger, default=0)
    """Messages of which nothing was fresh."""
    updated: Mapped[datetime] = mapped_column(UtcDateTime, index=True)


class LostSamples(Base):
    """Sequence numbers that the vehicle gave up, and why. What arrives after all is taken out again."""

    __tablename__ = "lost_samples"
    __table_args__ = (Index(None, "vehicle", "boot", "stream", "first_seq"),)

    id: Mapped[int] = mapped_column(_RowId, primary_key=True, autoincrement=True)
    vehicle: Mapped[str] = mapped_column(_Vehicle, ForeignKey("vehicle.id"))
    boot: Mapped[int] = mapped_column(BigInteger)
    stream: Mapped[str] = mapped_column(_Name)
    first_seq: Mapped[int] = mapped_column(BigInteger)
    last_seq: Mapped[int] = mapped_column(BigInteger)
    reason: Mapped[str] = mapped_column(String(40))


class PendingBatch(Base):
    """A committed batch that is not in its Delta table yet. Of its samples, first_seq..last_seq were fresh."""

    __tablename__ = "pending_batch"
    __table_args__ = (Index(None, "stream", "move_id"),)

    id: Mapped[int] = mapped_column(_RowId, primary_key=True, autoincrement=True)
    vehicle: Mapped[str] = mapped_column(_Vehicle, ForeignKey("vehicle.id"))
    boot: Mapped[int] = mapped_column(BigInteger)
    stream: Mapped[str] = mapped_column(_Name)
    batch_first_seq: Mapped[int] = mapped_column(BigInteger)
    first_seq: Mapped[int] = mapped_column(BigInteger)
    last_seq: Mapped[int] = mapped_column(BigInteger)
    columns: Mapped[bytes] = mapped_column(LargeBinary)
    """As the vehicle encoded them (contract/columns.py)."""
    received: Mapped[datetime] = mapped_column(UtcDateTime)
    move_id: Mapped[int | None] = mapped_column(BigInteger)
    """The move that takes it to the Delta table, once one has begun."""


class DeltaStream(Base):
    """A stream that has a Delta table, and the last move that was begun into it."""

    __tablename__ = "delta_stream"

    stream: Mapped[str] = mapped_column(_Name, primary_key=True)
    move_id: Mapped[int] = mapped_column(BigInteger)


class BlobPart(Base):
    """One block of an item that is not complete yet."""

    __tablename__ = "blob_part"

    vehicle: Mapped[str] = mapped_column(_Vehicle, ForeignKey("vehicle.id"), primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    n: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    data: Mapped[bytes] = mapped_column(LargeBinary)
    received: Mapped[datetime] = mapped_column(UtcDateTime, index=True)


class Capture(Base):
    """A captured item whose content lies, whole and checked, in the blob folder under its SHA-256."""

    __tablename__ = "capture"
    __table_args__ = (Index(None, "task", "received"),)

    vehicle: Mapped[str] = mapped_column(_Vehicle, ForeignKey("vehicle.id"), primary_key=True)
    boot: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    about_stream: Mapped[str] = mapped_column(_Name, primary_key=True)
    about_seq: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    media_type: Mapped[str] = mapped_column(String(40))
    task: Mapped[str] = mapped_column(_Name)
    t_ms: Mapped[int] = mapped_column(BigInteger)
    """Wall time on the vehicle."""
    campaign: Mapped[str] = mapped_column(String(64), default="")
    """Which campaign wanted it; empty: the slot's own capture policy."""
    received: Mapped[datetime] = mapped_column(UtcDateTime)


class Rejected(Base):
    """A message that ingest could not take. Only the newest are kept; ids count them all."""

    __tablename__ = "rejected"
    __table_args__ = ({"sqlite_autoincrement": True},)

    id: Mapped[int] = mapped_column(_RowId, primary_key=True, autoincrement=True)
    received: Mapped[datetime] = mapped_column(UtcDateTime)
    topic: Mapped[str] = mapped_column(String(256))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    code: Mapped[str] = mapped_column(String(40))
    detail: Mapped[str] = mapped_column(String(500))
