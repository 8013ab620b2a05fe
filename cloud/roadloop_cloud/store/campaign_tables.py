"""Tables of campaigns: what they are, which vehicles run them, and the level that each vehicle is told."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from roadloop_cloud.store.base import Base, UtcDateTime

_Vehicle = String(40)
_Name = String(64)


class CampaignRow(Base):
    """A campaign that was pushed. Its name is not given again to another one."""

    __tablename__ = "campaign"

    name: Mapped[str] = mapped_column(_Name, primary_key=True)
    task: Mapped[str] = mapped_column(String(40))
    body: Mapped[dict[str, Any]] = mapped_column(JSON)
    """The campaign as the file says it."""
    pushed: Mapped[datetime] = mapped_column(UtcDateTime)


class CampaignVehicle(Base):
    """A vehicle that is to run a campaign. The row goes when the campaign is stopped there."""

    __tablename__ = "campaign_vehicle"

    name: Mapped[str] = mapped_column(_Name, ForeignKey("campaign.name"), primary_key=True)
    vehicle: Mapped[str] = mapped_column(_Vehicle, ForeignKey("vehicle.id"), primary_key=True)


class CampaignLevel(Base):
    """What a vehicle was told last: its campaigns are those of `campaign_vehicle` now."""

    __tablename__ = "campaign_level"

    vehicle: Mapped[str] = mapped_column(_Vehicle, ForeignKey("vehicle.id"), primary_key=True)
    version: Mapped[int] = mapped_column(BigInteger)
    published_version: Mapped[int] = mapped_column(BigInteger, default=0)
    """The newest that the broker has taken."""
