"""Tables of the loop: each task's policy, and what was decided when and why."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from roadloop_cloud.store.base import Base, UtcDateTime

_Name = String(40)
_RowId = BigInteger().with_variant(Integer, "sqlite")


class LoopRow(Base):
    """The loop of one task. Who decides holds the row's lock, so that two deciders never begin the same generation."""

    __tablename__ = "loop"

    task: Mapped[str] = mapped_column(_Name, primary_key=True)
    policy: Mapped[dict[str, Any]] = mapped_column(JSON)
    enabled: Mapped[datetime | None] = mapped_column(UtcDateTime)
    """Since when; None: only a person begins a generation."""
    asked: Mapped[datetime | None] = mapped_column(UtcDateTime)
    """When a person asked for a generation that has not begun yet."""


class LoopDecision(Base):
    """One decision that differs from the one before it. Those that began a generation name its job."""

    __tablename__ = "loop_decision"
    __table_args__ = (Index(None, "task", "id"),)

    id: Mapped[int] = mapped_column(_RowId, primary_key=True, autoincrement=True)
    task: Mapped[str] = mapped_column(_Name, ForeignKey("loop.task"))
    at: Mapped[datetime] = mapped_column(UtcDateTime)
    action: Mapped[str] = mapped_column(String(8))
    why: Mapped[str] = mapped_column(String(40))
    detail: Mapped[str] = mapped_column(String(500))
    job_id: Mapped[int | None] = mapped_column(_RowId, ForeignKey("job.id"), unique=True)
