"""Tables of what vehicles sketched, what was seen to change, and who is not believed."""

from datetime import datetime

from sqlalchemy import BigInteger, Float, ForeignKey, Index, Integer, LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column

from roadloop_cloud.store.base import Base, UtcDateTime

_Vehicle = String(40)
_Name = String(40)
_RowId = BigInteger().with_variant(Integer, "sqlite")
"""SQLite numbers rows by itself only where the key is INTEGER."""


class SketchRow(Base):
    """One sketch as a vehicle sent it: some kilobytes about an hour of a slot."""

    __tablename__ = "sketch"
    __table_args__ = (Index(None, "at_ms"),)

    vehicle: Mapped[str] = mapped_column(_Vehicle, ForeignKey("vehicle.id"), primary_key=True)
    boot: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    task: Mapped[str] = mapped_column(_Name)
    slot: Mapped[str] = mapped_column(_Name)
    release: Mapped[int]
    at_ms: Mapped[int] = mapped_column(BigInteger)
    """When it ends, by the vehicle's wall clock, and no later than it was received."""
    payload: Mapped[bytes] = mapped_column(LargeBinary)
    """The message `Sketch`."""
    received: Mapped[datetime] = mapped_column(UtcDateTime)


class DriftAlarm(Base):
    """A signal of a cohort that is no longer distributed as where its release was made."""

    __tablename__ = "drift_alarm"
    __table_args__ = (Index(None, "task", "raised"),)

    id: Mapped[int] = mapped_column(_RowId, primary_key=True, autoincrement=True)
    task: Mapped[str] = mapped_column(_Name)
    slot: Mapped[str] = mapped_column(_Name)
    signal: Mapped[str] = mapped_column(_Name)
    release: Mapped[int]
    hardware: Mapped[str] = mapped_column(String(80))
    tag: Mapped[str] = mapped_column(String(80))
    """Empty: whatever their tags."""
    since: Mapped[datetime] = mapped_column(UtcDateTime)
    """Where the change most likely began."""
    raised: Mapped[datetime] = mapped_column(UtcDateTime)
    """The end of the window that showed it first."""
    seen: Mapped[datetime] = mapped_column(UtcDateTime)
    """The end of the last window that showed it."""
    cleared: Mapped[datetime | None] = mapped_column(UtcDateTime)
    ks: Mapped[float] = mapped_column(Float)
    threshold: Mapped[float] = mapped_column(Float)
    psi: Mapped[float] = mapped_column(Float)
    wasserstein: Mapped[float | None] = mapped_column(Float)
    mean: Mapped[float] = mapped_column(Float)
    reference_mean: Mapped[float] = mapped_column(Float)
    vehicles: Mapped[int]


class VehicleQuarantine(Base):
    """A vehicle whose word is not taken: nothing of it is trained on or counted for drift until it is lifted."""

    __tablename__ = "vehicle_quarantine"

    vehicle: Mapped[str] = mapped_column(_Vehicle, ForeignKey("vehicle.id"), primary_key=True)
    since: Mapped[datetime] = mapped_column(UtcDateTime)
    by: Mapped[str] = mapped_column(String(80))
    reason: Mapped[str] = mapped_column(String(500))
    lifted: Mapped[datetime | None] = mapped_column(UtcDateTime)
    lifted_by: Mapped[str | None] = mapped_column(String(80))
