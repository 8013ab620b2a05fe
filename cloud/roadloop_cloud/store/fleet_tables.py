"""Tables of models, releases, rollouts, desired states and jobs."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, Float, ForeignKey, Index, Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from roadloop_cloud.store.base import Base, UtcDateTime

_Name = String(40)
_Sha256 = String(64)
_RowId = BigInteger().with_variant(Integer, "sqlite")
"""SQLite numbers rows by itself only where the key is INTEGER."""


class Model(Base):
    """A registered bundle; its files lie in the workspace under models/<task>/<version>/ and never change."""

    __tablename__ = "model"

    task: Mapped[str] = mapped_column(_Name, primary_key=True)
    version: Mapped[str] = mapped_column(_Name, primary_key=True)
    manifest_sha256: Mapped[str] = mapped_column(_Sha256)
    state: Mapped[str] = mapped_column(String(16))
    """draft, evaluated or published."""
    evaluation: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    """What the task's protocol found, by variant."""
    lineage: Mapped[dict[str, Any]] = mapped_column(JSON)
    created: Mapped[datetime] = mapped_column(UtcDateTime)


class Release(Base):
    """A model under a release number of its task. `published` is set once the signed metadata names it."""

    __tablename__ = "release"

    task: Mapped[str] = mapped_column(_Name, primary_key=True)
    release: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    version: Mapped[str] = mapped_column(_Name)
    manifest_sha256: Mapped[str] = mapped_column(_Sha256)
    """Of what is published: sealed, it is not the model's own."""
    sealed: Mapped[bool] = mapped_column(default=False)
    published: Mapped[datetime | None] = mapped_column(UtcDateTime)


class DesiredState(Base):
    """What a vehicle should run: slot -> ReleaseRef as JSON. `version` rises with every change."""

    __tablename__ = "desired_state"

    vehicle: Mapped[str] = mapped_column(_Name, ForeignKey("vehicle.id"), primary_key=True)
    version: Mapped[int] = mapped_column(BigInteger)
    slots: Mapped[dict[str, Any]] = mapped_column(JSON)
    policy: Mapped[dict[str, Any]] = mapped_column(JSON)
    together: Mapped[bool] = mapped_column(default=False)
    shadows: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    """Slot -> ReleaseRef as JSON: candidates that run beside what the slots run."""
    shadow_policy: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    published_version: Mapped[int] = mapped_column(BigInteger, default=0)
    """The last version that the broker has taken."""


class RolloutRow(Base):
    """A rollout and where it is; see rollout/state.py for the meaning."""

    __tablename__ = "rollout"

    id: Mapped[int] = mapped_column(_RowId, primary_key=True, autoincrement=True)
    task: Mapped[str] = mapped_column(_Name)
    """The first of its tasks."""
    spec: Mapped[dict[str, Any]] = mapped_column(JSON)
    state: Mapped[str] = mapped_column(String(16), index=True)
    reason: Mapped[str] = mapped_column(String(500), default="")
    wave: Mapped[int] = mapped_column(default=0)
    waived_wave: Mapped[int] = mapped_column(default=-1)
    soak_since_s: Mapped[float | None] = mapped_column(Float(53))
    shadow_since_s: Mapped[float | None] = mapped_column(Float(53))
    proofs: Mapped[list[Any]] = mapped_column(JSON, default=list)
    """What the shadow test decided, by wave."""
    created_by: Mapped[str | None] = mapped_column(_Name)
    """The operator who proved with their key that they asked for it."""
    revision: Mapped[int] = mapped_column(BigInteger, default=0)
    """Rises with every change of the row or its members."""
    created: Mapped[datetime] = mapped_column(UtcDateTime)
    updated: Mapped[datetime] = mapped_column(UtcDateTime)


class RolloutMember(Base):
    """One vehicle of a rollout, and what it was told to run before (slot -> ReleaseRef as JSON, or null)."""

    __tablename__ = "rollout_member"

    rollout_id: Mapped[int] = mapped_column(_RowId, ForeignKey("rollout.id"), primary_key=True)
    vehicle: Mapped[str] = mapped_column(_Name, ForeignKey("vehicle.id"), primary_key=True)
    position: Mapped[int] = mapped_column()
    """Its place in the order in which vehicles join."""
    wave: Mapped[int] = mapped_column()
    state: Mapped[str] = mapped_column(String(16))
    offered_at_s: Mapped[float | None] = mapped_column(Float(53))
    since_s: Mapped[float | None] = mapped_column(Float(53))
    error: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    cohort: Mapped[str] = mapped_column(String(400), default="")
    troubled: Mapped[bool] = mapped_column(default=False)
    previous: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    taken_back: Mapped[bool] = mapped_column(default=False)


class RolloutApproval(Base):
    """What an operator has signed about a rollout, as it was signed; see rollout/approvals.py."""

    __tablename__ = "rollout_approval"

    id: Mapped[int] = mapped_column(_RowId, primary_key=True, autoincrement=True)
    rollout_id: Mapped[int] = mapped_column(_RowId, ForeignKey("rollout.id"), index=True)
    operator: Mapped[str] = mapped_column(_Name)
    signed: Mapped[dict[str, Any]] = mapped_column(JSON)
    """The statement with its signature."""
    received: Mapped[datetime] = mapped_column(UtcDateTime)


class RolloutClaim(Base):
    """Holds a vehicle's task for one active rollout: the key keeps a second one out on every database."""

    __tablename__ = "rollout_claim"

    task: Mapped[str] = mapped_column(_Name, primary_key=True)
    vehicle: Mapped[str] = mapped_column(_Name, ForeignKey("vehicle.id"), primary_key=True)
    rollout_id: Mapped[int] = mapped_column(_RowId, ForeignKey("rollout.id"), index=True)


class Job(Base):
    """Work that somebody with a lease does; see jobs.py."""

    __tablename__ = "job"
    __table_args__ = (Index(None, "state", "not_before"),)

    id: Mapped[int] = mapped_column(_RowId, primary_key=True, autoincrement=True)
    kind: Mapped[str] = mapped_column(_Name)
    spec: Mapped[dict[str, Any]] = mapped_column(JSON)
    state: Mapped[str] = mapped_column(String(16))
    """queued, running, done, failed or cancelled."""
    attempts: Mapped[int] = mapped_column(default=0)
    """How often somebody took it up."""
    step_attempts: Mapped[int] = mapped_column(default=0)
    """The same since the last step that was done, but for those that ended without a fault of the job."""
    not_before: Mapped[datetime] = mapped_column(UtcDateTime)
    lease_owner: Mapped[str | None] = mapped_column(String(80))
    lease_until: Mapped[datetime | None] = mapped_column(UtcDateTime)
    steps: Mapped[dict[str, Any]] = mapped_column(JSON)
    """Results of the steps that are done, by name: a repeated attempt takes them from here."""
    progress: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    result: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    error: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    created: Mapped[datetime] = mapped_column(UtcDateTime)
    finished: Mapped[datetime | None] = mapped_column(UtcDateTime)
