"""Drift of a workspace: what vehicles sketched is looked at, alarms are raised and ended, liars are set apart.

A look ends with a whole period, so that it says the same however often and by whomever it is taken.
"""

import getpass
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from roadloop_cloud.drift import quarantine, sketches
from roadloop_cloud.drift.cohorts import Cohort, Told, gather, merge
from roadloop_cloud.drift.decide import Finding, Outlier, Rules, change_point, history, judge, outliers
from roadloop_cloud.drift.picture import Portrait
from roadloop_cloud.store.database import Database, now_utc
from roadloop_cloud.store.drift_tables import DriftAlarm
from roadloop_models.errors import NotFoundError
from roadloop_models.sketches.reference import Reference

ENDS_BELOW = 0.8
"""An alarm ends where the distance falls below this share of the threshold: at the threshold it would come and go."""
_HISTORY_WINDOWS = 7


@dataclass(frozen=True)
class Alarm:
    """A signal of a cohort that has changed."""

    id: int
    task: str
    slot: str
    signal: str
    cohort: Cohort
    since: datetime
    """Where the change most likely began."""
    raised: datetime
    seen: datetime
    cleared: datetime | None
    statistic: str
    value: float
    threshold: float
    psi: float
    wasserstein: float | None
    mean: float
    reference_mean: float
    vehicles: int


@dataclass(frozen=True)
class Look:
    """One look at everything."""

    ended: datetime
    findings: tuple[Finding, ...]
    """Each signal of each cohort that has a reference and was heard of in the window, the most changed first."""
    unreferenced: tuple[str, ...]
    """Cohorts whose release was made without a reference: nothing can be said about them."""
    set_apart: tuple[str, ...]
    """Vehicles that this look put in quarantine."""


class Drift:
    """Application service."""

    def __init__(
        self,
        database: Database,
        reference: Callable[[str, int], Reference | None],
        rules: Rules,
        *,
        outlier_ks: float = 0.5,
        keep_days: float = 90.0,
        now: Callable[[], datetime] = now_utc,
    ) -> None:
        """`reference`: that of a task's release; None where there is no such release, or it was made without one.

        `outlier_ks`: how far a vehicle must be from its cohort to be quarantined. `keep_days`: of sketches.
        """
        self._database = database
        self._reference = cache(reference)
        self._rules = rules
        self._outlier_ks = outlier_ks
        self._keep = timedelta(days=keep_days)
        self._now = now

    def look(self) -> Look:
        """Compare the last whole window, raise and end alarms, set apart who lies. Repeatable."""
        last = self._last_look()
        with self._database.transaction() as session:
            told = self._told(session, last - self._rules.window_looks + 1, last)
            found = self._set_apart(session, told, last)
            distrusted = quarantine.present(session)
            findings, unreferenced = self._judge(session, [one for one in told if one.vehicle not in distrusted], last)
            self._record(session, findings, last)
            sketches.forget_sketches(session, self._ms(last + 1) - int(self._keep.total_seconds() * 1000))
        by_excess = sorted(findings, key=lambda finding: finding.ks / finding.threshold, reverse=True)
        return Look(self._time(last + 1), tuple(by_excess), tuple(unreferenced), tuple(found))

    def job(self, _work: Any) -> dict[str, Any]:
        """`look` as a job."""
        look = self.look()
        drifted = [f"{finding.cohort.slot}/{finding.signal}" for finding in look.findings if finding.drifted]
        return {"signals": len(look.findings), "drifted": drifted, "set_apart": list(look.set_apart)}

    def alarms(self, task: str | None = None, since: datetime | None = None, *, ended: bool = True) -> list[Alarm]:
        """Alarms that were seen at `since` or after, the newest first; without those that have `ended`, if so asked."""
        query = select(DriftAlarm).order_by(DriftAlarm.raised.desc(), DriftAlarm.id.desc())
        if task is not None:
            query = query.where(DriftAlarm.task == task)
        if since is not None:
            query = query.where(DriftAlarm.seen >= since)
        if not ended:
            query = query.where(DriftAlarm.cleared.is_(None))
        with self._database.reading() as session:
            return [_alarm(row) for row in session.scalars(query)]

    def portraits(self, name: str, signal: str | None = None) -> list[Portrait]:
        """What a picture shows of a slot or task: each signal of each cohort, whatever their tags.

        Raises NotFoundError where nothing is known of it.
        """
        last = self._last_look()
        first = last - _HISTORY_WINDOWS * self._rules.window_looks + 1
        with self._database.reading() as session:
            distrusted = quarantine.present(session)
            told = [
                one
                for one in self._told(session, first, last)
                if one.vehicle not in distrusted and name in (one.sketch.slot, one.sketch.ref.task)
            ]
            findings, _ = self._judge(
                session, [one for one in told if one.look > last - self._rules.window_looks], last
            )
            members = sketches.read_members(session)
        chosen = [one for one in findings if not one.cohort.tag and signal in (None, one.signal)]
        if not chosen:
            raise NotFoundError(
                f"nothing is known of '{name}'" + (f" and '{signal}'" if signal else "") + " in the last "
                f"{self._rules.window_looks} periods; 'roadloop drift' shows what is"
            )
        gathered = gather(told, members)
        return [self._portrait(finding, gathered, first, last) for finding in chosen]

    def quarantined(self) -> set[str]:
        """Vehicles that nothing may be learned from now."""
        with self._database.reading() as session:
            return quarantine.present(session)

    def quarantine_entries(self) -> Sequence[quarantine.Quarantined]:
        """All that are or were in quarantine, the newest first."""
        with self._database.reading() as session:
            return quarantine.entries(session)

    def quarantine(self, vehicle: str, reason: str, by: str | None = None, *, by_itself: bool = False) -> bool:
        """Set a vehicle apart; False where it is already, or where a person let it out lately and this is `by_itself`.

        Raises NotFoundError.
        """
        with self._database.transaction() as session:
            who = by or getpass.getuser()
            return quarantine.put(session, vehicle, reason, who, self._now(), by_itself=by_itself)

    def hardware(self) -> dict[str, str]:
        """Of every vehicle."""
        with self._database.reading() as session:
            return {vehicle: member.hardware for vehicle, member in sketches.read_members(session).items()}

    def lift(self, vehicle: str, by: str | None = None) -> None:
        """Believe a vehicle again. Raises NotFoundError where it is not set apart."""
        with self._database.transaction() as session:
            quarantine.lift(session, vehicle, by or getpass.getuser(), self._now())

    def _judge(self, session: Session, told: Sequence[Told], last: int) -> tuple[list[Finding], list[str]]:
        watched = gather(told, sketches.read_members(session))
        known = {key: one for key, one in watched.items() if self._signal_reference(*key) is not None}
        unreferenced = {f"{cohort.slot}, {cohort.name}" for cohort, _ in watched if self._of(cohort) is None}
        alpha = self._rules.alpha(len(known))
        findings = []
        for (cohort, signal), one in sorted(known.items(), key=lambda item: item[0]):
            reference = self._signal_reference(cohort, signal)
            assert reference is not None
            merged = merge(one, reference, last - self._rules.window_looks + 1, last)
            if merged is not None and merged.counts.sum():
                findings.append(judge(one, merged, reference, self._rules, alpha))
        return findings, sorted(unreferenced)

    def _set_apart(self, session: Session, told: Sequence[Told], last: int) -> list[str]:
        distrusted = quarantine.present(session)
        watched = gather([one for one in told if one.vehicle not in distrusted], sketches.read_members(session))
        whole = {key: one for key, one in watched.items() if not key[0].tag}
        alpha = self._rules.alpha(sum(len(one.vehicles()) for one in whole.values()))
        found: dict[str, Outlier] = {}
        for (cohort, signal), one in whole.items():
            reference = self._signal_reference(cohort, signal)
            if reference is None:
                continue
            merged = merge(one, reference, last - self._rules.window_looks + 1, last)
            if merged is None:
                continue
            odd = outliers(one, merged, reference, least_ks=self._outlier_ks, alpha=alpha)
            for outlier in odd:
                found.setdefault(outlier.vehicle, outlier)
        return [
            vehicle
            for vehicle, odd_one in found.items()
            if quarantine.put(session, vehicle, _why(odd_one), "drift", self._now(), by_itself=True)
        ]

    def _record(self, session: Session, findings: Sequence[Finding], last: int) -> None:
        ended = self._time(last + 1)
        rows = session.scalars(select(DriftAlarm).where(DriftAlarm.cleared.is_(None))).all()
        present = {(_cohort(row), row.signal): row for row in rows}
        for finding in findings:
            row = present.pop((finding.cohort, finding.signal), None)
            if row is None and finding.drifted:
                session.add(_new_alarm(finding, self._time(finding.since_look), ended))
            elif row is not None and finding.ks >= ENDS_BELOW * finding.threshold:
                row.seen = max(row.seen, ended)
                row.ks, row.threshold, row.psi, row.mean = finding.ks, finding.threshold, finding.psi, finding.mean
                row.wasserstein, row.vehicles = _finite(finding.wasserstein), finding.vehicles
            elif row is not None and row.seen <= ended:
                row.cleared = ended
        for row in present.values():  # nobody of that cohort was heard of in this window
            if row.seen < ended:
                row.cleared = ended

    def _portrait(self, finding: Finding, gathered: Any, first: int, last: int) -> Portrait:
        alpha = self._rules.alpha(sum(self._signal_reference(*key) is not None for key in gathered))
        reference = self._signal_reference(finding.cohort, finding.signal)
        watched = gathered[finding.cohort, finding.signal]
        assert reference is not None
        whole = merge(watched, reference, first, last)
        window = merge(watched, reference, last - self._rules.window_looks + 1, last)
        assert whole is not None and window is not None
        began = whole.looks[change_point(whole.counts.sum(axis=0), reference)]
        past = history(watched, whole, reference, self._rules, alpha)
        return Portrait(
            finding=finding,
            reference=reference,
            counts=tuple(window.counts.sum(axis=(0, 1)).tolist()),
            history=tuple((self._time(one.look + 1), one.ks, one.threshold) for one in past),
            since=self._time(began) if finding.drifted else None,
        )

    def _told(self, session: Session, first: int, last: int) -> Sequence[Told]:
        return sketches.read_sketches(session, self._ms(first), self._ms(last + 1), self._rules.look_s)

    def _of(self, cohort: Cohort) -> Reference | None:
        return self._reference(cohort.task, cohort.release)

    def _signal_reference(self, cohort: Cohort, signal: str) -> Any:
        reference = self._of(cohort)
        return None if reference is None else reference.signals.get(signal)

    def _last_look(self) -> int:
        return sketches.look_of(int(self._now().timestamp() * 1000), self._rules.look_s) - 1

    def _ms(self, look: int) -> int:
        return int(look * self._rules.look_s * 1000)

    def _time(self, look: int) -> datetime:
        return datetime.fromtimestamp(look * self._rules.look_s, UTC)


def _cohort(row: DriftAlarm) -> Cohort:
    return Cohort(row.task, row.slot, row.release, row.hardware, row.tag)


def _new_alarm(finding: Finding, since: datetime, ended: datetime) -> DriftAlarm:
    cohort = finding.cohort
    return DriftAlarm(
        task=cohort.task,
        slot=cohort.slot,
        signal=finding.signal,
        release=cohort.release,
        hardware=cohort.hardware,
        tag=cohort.tag,
        since=since,
        raised=ended,
        seen=ended,
        cleared=None,
        ks=finding.ks,
        threshold=finding.threshold,
        psi=finding.psi,
        wasserstein=_finite(finding.wasserstein),
        mean=finding.mean,
        reference_mean=finding.reference_mean,
        vehicles=finding.vehicles,
    )


def _alarm(row: DriftAlarm) -> Alarm:
    return Alarm(
        id=row.id,
        task=row.task,
        slot=row.slot,
        signal=row.signal,
        cohort=_cohort(row),
        since=row.since,
        raised=row.raised,
        seen=row.seen,
        cleared=row.cleared,
        statistic="ks",
        value=row.ks,
        threshold=row.threshold,
        psi=row.psi,
        wasserstein=row.wasserstein,
        mean=row.mean,
        reference_mean=row.reference_mean,
        vehicles=row.vehicles,
    )


def _why(outlier: Outlier) -> str:
    return (
        f"{outlier.cohort.slot}/{outlier.signal}: {outlier.ks:.2f} from the median of its cohort "
        f"({outlier.cohort.name}), where others are {outlier.others_ks:.2f} from it"
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
