"""The table of labels: what was said about an item, by whom and how."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, Float, Index, Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from roadloop_cloud.store.base import Base, UtcDateTime

_RowId = BigInteger().with_variant(Integer, "sqlite")


class Label(Base):
    """One word about one item. Rows are never changed: who thinks better of it says another word."""

    __tablename__ = "label"
    __table_args__ = (Index(None, "task", "item"), Index(None, "task", "at"))

    id: Mapped[int] = mapped_column(_RowId, primary_key=True, autoincrement=True)
    task: Mapped[str] = mapped_column(String(40))
    item: Mapped[str] = mapped_column(String(64))
    """SHA-256 of a captured item's content, or of the reference of a sample (`about`)."""
    about: Mapped[str | None] = mapped_column(String(120))
    """stream/vehicle/boot/seq, where the item is a sample or begins with one."""
    value: Mapped[dict[str, Any]] = mapped_column(JSON)
    """labels/words.py: `Value` as JSON."""
    origin: Mapped[str] = mapped_column(String(16))
    """person, outcome, gnss or teacher."""
    by: Mapped[str] = mapped_column(String(80))
    """Who or what said it: a person's name, a teacher's versions, a stream."""
    at: Mapped[datetime] = mapped_column(UtcDateTime)
    """When the cloud was told."""
    confidence: Mapped[float | None] = mapped_column(Float)
    """0 to 1, where the origin knows."""
    disagreement: Mapped[float | None] = mapped_column(Float)
    """Of a teacher: 0 to 1, what it gives to other answers than the vehicle's."""
