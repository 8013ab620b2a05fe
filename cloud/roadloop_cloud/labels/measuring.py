"""The job `measure`: labels from telemetry that has come since. Repeatable; what was said before is not said again."""

from collections.abc import Callable, Collection, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from roadloop_cloud.jobs import Work
from roadloop_cloud.labels.outcomes import FORECASTS, gnss_words, outcomes
from roadloop_cloud.labels.service import Labels
from roadloop_cloud.labels.words import Word
from roadloop_models.contract.streams import POSITION

KIND = "measure"
EVERY_S = 3600.0


class Measuring:
    """The services that it needs; `run` is the job's handler."""

    def __init__(
        self, labels: Labels, read_stream: Callable[[str], pa.Table], quarantined: Callable[[], Collection[str]]
    ) -> None:
        """`quarantined`: vehicles that are not believed."""
        self._labels = labels
        self._read_stream = read_stream
        self._quarantined = quarantined

    def run(self, work: Work) -> dict[str, Any]:
        """Say what happened next, and where GNSS was good; returns new labels by task."""
        said: dict[str, int] = {}
        for rule in FORECASTS:
            work.progress(f"what came after forecasts of {rule.task}")
            said[rule.task] = self._say(rule.stream, lambda table, rule=rule: outcomes(rule, table))  # type: ignore[misc]
        work.progress("where GNSS was good")
        said["localization"] = self._say(POSITION.name, gnss_words)
        return said

    def _say(self, stream: str, words: Callable[[pa.Table], Iterator[Word]]) -> int:
        table = self._read_stream(stream)
        if not table.num_rows:
            return 0
        believed = ~pc.field("vehicle").isin(pa.array(sorted(self._quarantined()), pa.string()))
        return self._labels.say(words(table.filter(believed)))
