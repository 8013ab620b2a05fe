"""Why is this model on this vehicle? From the file that runs, back to the rows that it was trained on.

Every link is looked up, not assumed: where one is missing or does not fit its neighbour, that is said under `gaps`.
"""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from roadloop_cloud.datasets.snapshot import Snapshot
from roadloop_cloud.registry.models import ModelRegistry
from roadloop_cloud.registry.releases import Releases
from roadloop_cloud.rollout import approvals, rows
from roadloop_cloud.rollout.members import slots_of
from roadloop_cloud.rollout.spec import spec_sha256
from roadloop_cloud.rollout.statements import Operators, Signed
from roadloop_cloud.store.database import Database
from roadloop_cloud.store.fleet_tables import Job, Release, RolloutMember, RolloutRow
from roadloop_cloud.store.ingest_tables import Vehicle
from roadloop_models.bundle.manifest import Manifest
from roadloop_models.contract.messages import ReleaseRef, Reported, ReportedSlot
from roadloop_models.errors import BundleError, NotFoundError, RoadloopError
from roadloop_models.typed import from_builtins

EVIDENCE = "evidence"
"""Kind of the statement that an exported explanation is."""

_MAX_ANCESTORS = 20


class Provenance:
    """Application service that only reads."""

    def __init__(
        self,
        database: Database,
        models: ModelRegistry,
        releases: Releases,
        snapshot: Callable[[str], Snapshot],
        operators: Operators,
    ) -> None:
        """`snapshot` opens one by its hash."""
        self._database = database
        self._models = models
        self._releases = releases
        self._snapshot = snapshot
        self._operators = operators

    def explain(self, vehicle_id: str, task: str) -> dict[str, Any]:
        """The chain of every slot of the task, as JSON. Raises NotFoundError (no such vehicle, or no such slot)."""
        with self._database.reading() as session:
            vehicle = session.get(Vehicle, vehicle_id)
            if vehicle is None:
                raise NotFoundError(f"no vehicle {vehicle_id}; 'roadloop vehicles list' shows those there are")
            report = None if vehicle.reported is None else from_builtins(vehicle.reported, Reported)
            if not slots_of(task, report):
                has = sorted({slot.task for slot in report.slots.values()}) if report is not None else []
                there = f"it reports {', '.join(has)}" if has else "it has never reported"
                raise NotFoundError(f"vehicle {vehicle_id} has no slot of task {task}; {there}")
            slots = {} if report is None else report.slots
            return {
                "vehicle": vehicle.id,
                "task": task,
                "hardware": vehicle.hardware,
                "profile": vehicle.profile,
                "agent_version": vehicle.agent_version,
                "reported": _iso(vehicle.reported_at),
                "slots": {
                    name: self._slot(session, vehicle.id, slot) for name, slot in slots.items() if slot.task == task
                },
            }

    def _slot(self, session: Session, vehicle: str, slot: ReportedSlot) -> dict[str, Any]:
        variant = f"{slot.runtime}-{slot.precision}"
        made: dict[str, Any] = {"variant": variant, "state": slot.state, "running": msgspec.to_builtins(slot.running)}
        gaps: list[str] = []
        if slot.running is not None:
            release = session.get(Release, (slot.task, slot.running.release))
            made["release"] = _release(release, slot.running, gaps)
            made["rollouts"] = self._rollouts(session, vehicle, slot.running)
            if not made["rollouts"]:
                gaps.append("no rollout has brought it: the vehicle was provisioned with it, or by hand")
            if release is not None:
                made |= self._model(session, release, variant, gaps)
        return {**made, "gaps": gaps}

    def _model(self, session: Session, release: Release, variant: str, gaps: list[str]) -> dict[str, Any]:
        try:
            model = self._models.get(release.task, release.version)
            manifest = self._releases.bundle(release).manifest
        except (NotFoundError, BundleError) as error:
            gaps.append(f"the bundle: {error}")
            return {}
        file = _file(manifest, variant)
        evaluation = (model.evaluation or {}).get(variant)
        if evaluation is None:
            gaps.append(f"no evaluation of {variant} is recorded")
        elif file is not None and evaluation.get("file_sha256") not in (None, file["sha256"]):
            gaps.append("the evaluation is of another file than the one that runs")
        ancestors = self._ancestors(release.task, manifest)
        return {
            "file": file,
            "evaluation": evaluation,
            "lineage": [_lineage(one) for one in ancestors],
            "snapshot": self._training(manifest, gaps),
            "job": _job(session, release.task, release.version),
        }

    def _ancestors(self, task: str, manifest: Manifest) -> list[Manifest]:
        """The model and those that it was trained from, as far back as the workspace has them."""
        found = [manifest]
        while (parent := found[-1].lineage.parent_version) is not None and len(found) < _MAX_ANCESTORS:
            try:
                found.append(self._models.bundle(task, parent).manifest)
            except RoadloopError:
                break
        return found

    def _training(self, manifest: Manifest, gaps: list[str]) -> dict[str, Any] | None:
        sha256 = manifest.lineage.snapshot_sha256
        if sha256 is None:
            return None
        try:
            snapshot = self._snapshot(sha256)
        except RoadloopError as error:
            gaps.append(f"the snapshot: {error}")
            return {"sha256": sha256}
        kept = snapshot.manifest
        return {
            "sha256": snapshot.sha256,
            "rows": kept.rows,
            "sources": kept.sources,
            "excluded": kept.excluded,
            "files": [msgspec.to_builtins(entry) for entry in kept.files],
        }

    def _rollouts(self, session: Session, vehicle: str, running: ReleaseRef) -> list[dict[str, Any]]:
        """Those that offered this release to this vehicle, the newest first."""
        query = (
            select(RolloutRow, RolloutMember)
            .join(RolloutMember, RolloutMember.rollout_id == RolloutRow.id)
            .where(RolloutMember.vehicle == vehicle, RolloutMember.offered_at_s.is_not(None))
            .order_by(RolloutRow.id.desc())
        )
        found = []
        for row, member in session.execute(query):
            spec = rows.spec_of(row)
            if running not in spec.releases:
                continue
            found.append(
                {
                    "id": row.id,
                    "state": row.state,
                    "reason": row.reason,
                    "created": _iso(row.created),
                    "created_by": row.created_by,
                    "spec_sha256": spec_sha256(spec),
                    "wave": member.wave + 1,
                    "vehicle_state": member.state,
                    "cohort": member.cohort,
                    "offered": _iso(None if member.offered_at_s is None else _moment(member.offered_at_s)),
                    "before": {slot: ref and ref.get("version") for slot, ref in (member.previous or {}).items()},
                    "shadow": row.proofs,
                    "statements": self._statements(approvals.statements(session, row.id)),
                }
            )
        return found

    def _statements(self, signed: Iterable[Signed]) -> list[dict[str, Any]]:
        return [{**msgspec.to_builtins(one), "verified": self._is_verified(one)} for one in signed]

    def _is_verified(self, signed: Signed) -> bool:
        try:
            self._operators.verify(signed.kind, signed)
        except RoadloopError:
            return False
        return True


def _release(release: Release | None, running: ReleaseRef, gaps: list[str]) -> dict[str, Any] | None:
    if release is None:
        gaps.append(f"this cloud has no release {running.release} of {running.task}")
        return None
    if release.manifest_sha256 != running.manifest_sha256:
        gaps.append("what runs has another manifest than the release of that number")
    return {
        "release": release.release,
        "version": release.version,
        "manifest_sha256": release.manifest_sha256,
        "published": _iso(release.published),
    }


def _file(manifest: Manifest, variant: str) -> dict[str, Any] | None:
    found = next((one for one in manifest.variants if one.key == variant), None)
    if found is None:
        return None
    quantizer = {"quantizer": found.quantizer, "quantizer_settings": found.quantizer_settings}
    return {**msgspec.to_builtins(manifest.file_entry(found.file)), **quantizer}


def _lineage(manifest: Manifest) -> dict[str, Any]:
    return {"version": manifest.version, **msgspec.to_builtins(manifest.lineage)}


def _job(session: Session, task: str, version: str) -> dict[str, Any] | None:
    """The job that made a version."""
    for job in session.scalars(select(Job).where(Job.state == "done").order_by(Job.id.desc())):
        result = job.result or {}
        if result.get("task") == task and (result.get("candidate") or {}).get("version") == version:
            kept = ("metric", "incumbent", "candidate", "gates", "rows", "training", "seconds")
            return {
                "id": job.id,
                "kind": job.kind,
                "created": _iso(job.created),
                "finished": _iso(job.finished),
                "asked": job.spec,
                **{key: result.get(key) for key in kept},
            }
    return None


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
