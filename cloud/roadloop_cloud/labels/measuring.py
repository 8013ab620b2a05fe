"""The job `measure`: labels from telemetry that has come since. Repeatable; what was said before is not said again."""

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from roadloop_cloud.jobs import Work
from roadloop_cloud.labels.labelling import KINDS
from roadloop_cloud.labels.outcomes import FORECASTS, gnss_words, outcomes
from roadloop_cloud.labels.service import Labels
from roadloop_cloud.labels.words import Word
from roadloop_models.contract.streams import POSITION

KIND = "measure"
EVERY_S = 3600.0


class Measuring:
    """The services that it needs; `run` is the job's handler."""

    def __init__(
        self,
        labels: Labels,
        read_stream: Callable[[str], pa.Table],
        quarantined: Callable[[], Collection[str]],
        watch: Callable[[str], Sequence[str]],
    ) -> None:
        """`quarantined`: vehicles that are not believed; `watch` looks at a task's labels and sets liars apart."""
        self._labels = labels
        self._read_stream = read_stream
        self._quarantined = quarantined
        self._watch = watch

    def run(self, work: Work) -> dict[str, Any]:
        """Say what happened next, and where GNSS was good; then look who is not to be believed, of pictures too.

        Returns new labels by task, and under `set_apart` vehicles that are in quarantine now.
        """
        said: dict[str, Any] = {}
        for rule in FORECASTS:
            work.progress(f"what came after forecasts of {rule.task}")
            said[rule.task] = self._say(rule.stream, lambda table, rule=rule: outcomes(rule, table))  # type: ignore[misc]
        work.progress("where GNSS was good")
        said["localization"] = self._say(POSITION.name, gnss_words)
        tasks = (*said, *KINDS)
        work.progress("whose labels are far from all others")
        return said | {"set_apart": [vehicle for task in tasks for vehicle in self._watch(task)]}

    def _say(self, stream: str, words: Callable[[pa.Table], Iterator[Word]]) -> int:
        table = self._read_stream(stream)
        if not table.num_rows:
            return 0
        believed = ~pc.field("vehicle").isin(pa.array(sorted(self._quarantined()), pa.string()))
        return self._labels.say(words(table.filter(believed)))
