"""What tells a loop that there is something to learn, from the services that know."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from roadloop_cloud.drift.service import Alarm, Drift
from roadloop_cloud.labels.service import Labels


@dataclass(frozen=True)
class FleetNews:
    """See service.News."""

    drift: Drift
    labels: Labels

    def alarms(self, task: str, since: datetime) -> Sequence[str]:
        """Those that were raised after `since`, the newest first; one that only goes on is no news."""
        return [_words(alarm) for alarm in self.drift.alarms(task, since) if alarm.raised > since]

    def new_labels(self, task: str, since: datetime, besides: Collection[str]) -> int:
        """Items that got a label which can be trained on, of others than these teachers."""
        return self.labels.new_since(task, since, besides)


def _words(alarm: Alarm) -> str:
    distance = f"{alarm.statistic} {alarm.value:.3g} where {alarm.threshold:.3g} is usual"
    return f"{alarm.slot}/{alarm.signal} of {alarm.cohort.name} changed at {alarm.since:%F %H:%M} UTC: {distance}"
