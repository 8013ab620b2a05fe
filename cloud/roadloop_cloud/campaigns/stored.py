"""A trace made of telemetry: what campaigns would have seen of the decisions that the fleet has sent.

Novelty, a shadow's answers and the vehicle's signals are not in it, nor how large a frame would be: every one counts as
large as what was captured of the task so far is on average.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import pyarrow as pa
from sqlalchemy import func, select

from roadloop_cloud.campaigns.backtest import Predicted, predict
from roadloop_cloud.store.database import Database
from roadloop_cloud.store.ingest_tables import Capture
from roadloop_models.campaigns.campaign import Campaign, understand
from roadloop_models.campaigns.sight import Sight
from roadloop_models.campaigns.trace import TraceHead, TraceMoment
from roadloop_models.campaigns.watched import UNCERTAINTY, WATCHED
from roadloop_models.errors import BadInputError

ReadStream = Callable[[str, Sequence[str] | None], pa.Table]
"""All samples of a stream, of some vehicles or of all."""


def estimate_stored(
    database: Database,
    read_stream: ReadStream,
    campaigns: Sequence[Campaign],
    vehicles: Sequence[str] | None,
    item_bytes: int | None,
) -> list[Predicted]:
    """What campaigns would have sent of what is stored; `item_bytes`: the size of every frame, None: the mean so far.

    Raises BadInputError where telemetry does not have what a campaign looks at or keeps, where nothing is stored, or
    where no size is known.
    """
    found: list[Predicted] = []
    for task in dict.fromkeys(campaign.task for campaign in campaigns):
        mine = [campaign for campaign in campaigns if campaign.task == task]
        for campaign in mine:
            refuse_what_is_not_stored(campaign)
        size_bytes = item_bytes or mean_item_bytes(database, task)
        if size_bytes is None:
            raise BadInputError(f"nothing of {task} was captured yet: say with --item-bytes how large a frame is")
        found += predict(mine, stored_trace(read_stream(WATCHED[task].stream.name, vehicles), task, size_bytes))
    if not found:
        raise BadInputError("no telemetry of these tasks is stored yet")
    return found


def refuse_what_is_not_stored(campaign: Campaign) -> None:
    """Raise BadInputError where telemetry does not have what a campaign looks at or keeps."""
    about = understand(campaign, f"campaign {campaign.name}")
    trace = "make a trace with 'roadloop-agent trace' and use 'roadloop campaign test'"
    if about.watched.keeps == "signals":
        raise BadInputError(f"campaign {campaign.name}: clips of signals are not in telemetry; {trace}")
    unknown = about.names - {field.name for field in about.watched.stream.fields} - {UNCERTAINTY}
    if unknown:
        raise BadInputError(f"campaign {campaign.name}: when: '{min(unknown)}' is not in telemetry; {trace}")


def mean_item_bytes(database: Database, task: str) -> int | None:
    """How large what was captured of a task is on average; None where nothing was."""
    with database.reading() as session:
        mean = session.scalar(select(func.avg(Capture.size_bytes)).where(Capture.task == task))
    return None if mean is None else math.ceil(mean)


def stored_trace(rows: pa.Table, task: str, item_bytes: int) -> Iterator[TraceHead | TraceMoment]:
    """The rows of the task's stream, by vehicle, boot and number. Slots of one task are told as one, by its name."""
    stream = WATCHED[task].stream
    sight = Sight(WATCHED[task], None)
    columns: Sequence[list[float]] = [rows.column(field.name).to_pylist() for field in stream.fields]
    last: str | None = None
    for vehicle, t_ms, *row in zip(
        rows.column("vehicle").to_pylist(), rows.column("t_ms").to_pylist(), *columns, strict=True
    ):
        if vehicle != last:
            last = vehicle
            yield TraceHead(vehicle=vehicle, slots={task: task})
        known = [math.nan if value is None else value for value in row]
        yield TraceMoment(
            slot=task, t_s=t_ms / 1000.0, t_ms=t_ms, values=sight.values(known, None, {}), size_bytes=item_bytes
        )
