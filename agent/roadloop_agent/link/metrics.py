"""What the agent counts, as Prometheus text (exposition format 0.0.4), and the HTTP around it. Without I/O.

Counters begin at 0 with the link process (or with drive, for frames); Prometheus takes a fall for a new start.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, get_args

from roadloop_agent.ipc import SlotHealth
from roadloop_models.contract.messages import UpdateState

MAX_REQUEST_BYTES = 8192
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
Kind = Literal["counter", "gauge", "summary"]


@dataclass(frozen=True)
class Sample:
    """One line: the labels, the value, and what is appended to the family's name (`_sum` of a summary)."""

    labels: Mapping[str, str]
    value: float
    suffix: str = ""


@dataclass(frozen=True)
class Family:
    """The samples of one name."""

    name: str
    kind: Kind
    help: str
    samples: list[Sample]


class StatusStore(Protocol):
    """Where link writes down what `status` shows."""

    def put(self, key: str, value: Any) -> None:
        """Remember a value."""


@dataclass
class _Totals:
    decisions: int = 0
    errors: int = 0
    latency_sum_s: float = 0.0
    latest: SlotHealth | None = None


@dataclass
class Meter:
    """Hears what drive says of its slots and what link writes down; any thread may ask for `text`."""

    store: StatusStore
    _slots: dict[str, _Totals] = field(default_factory=dict)
    _status: dict[str, Any] = field(default_factory=dict)

    def put(self, key: str, value: Any) -> None:
        """A StatusStore: remembers the status and passes it on."""
        if key == "status":
            self._status = value
        self.store.put(key, value)

    def observe(self, health: SlotHealth) -> None:
        """Count what a slot did since its last message."""
        totals = self._slots.setdefault(health.slot, _Totals())
        totals.decisions += health.decisions
        totals.errors += health.errors
        totals.latency_sum_s += health.decisions * health.latency_mean_us / 1e6
        totals.latest = health

    def text(self, readers: int, lines_dropped: int) -> bytes:
        """The exposition as it is now; what is not known yet is left out."""
        families = [*_results(readers, lines_dropped), *_drive(dict(self._slots)), *_link(self._status)]
        return exposition(families)


def exposition(families: Iterable[Family]) -> bytes:
    """Prometheus text of families that have samples."""
    lines = []
    for family in families:
        if not family.samples:
            continue
        lines.append(f"# HELP {family.name} {_escaped(family.help)}")
        lines.append(f"# TYPE {family.name} {family.kind}")
        for sample in family.samples:
            labels = ",".join(f'{name}="{_escaped(value, quoted=True)}"' for name, value in sample.labels.items())
            lines.append(f"{family.name}{sample.suffix}{f'{{{labels}}}' if labels else ''} {_number(sample.value)}")
    return ("\n".join(lines) + "\n").encode()


def answer(request: bytes, text: Callable[[], bytes]) -> bytes | None:
    """The response to an HTTP request; None while it is not whole. Only `GET /metrics` gets the text."""
    head, end, _ = request.partition(b"\r\n\r\n")
    if not end:
        return _response("431 Request Header Fields Too Large") if len(request) >= MAX_REQUEST_BYTES else None
    parts = head.split(b"\r\n", 1)[0].split(b" ")
    if len(parts) != 3 or not parts[2].startswith(b"HTTP/1."):
        return _response("400 Bad Request")
    if parts[0] != b"GET":
        return _response("405 Method Not Allowed")
    if parts[1].split(b"?", 1)[0] != b"/metrics":
        return _response("404 Not Found")
    return _response("200 OK", text())


def _response(status: str, body: bytes = b"") -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {CONTENT_TYPE}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


def _results(readers: int, lines_dropped: int) -> Iterator[Family]:
    yield Family("roadloop_results_readers", "gauge", "Readers of the results socket.", [Sample({}, readers)])
    yield Family(
        "roadloop_results_dropped_total",
        "counter",
        "Lines that readers were too slow for.",
        [Sample({}, lines_dropped)],
    )


def _drive(slots: Mapping[str, _Totals]) -> Iterator[Family]:
    known = [(name, totals, totals.latest) for name, totals in slots.items() if totals.latest is not None]

    def family(name: str, kind: Kind, text: str, value: Callable[[_Totals, SlotHealth], float | None]) -> Family:
        values = [(slot, value(totals, latest)) for slot, totals, latest in known]
        return Family(
            name, kind, text, [Sample({"slot": slot}, number) for slot, number in values if number is not None]
        )

    yield family("roadloop_decisions_total", "counter", "Decisions made.", lambda totals, _: totals.decisions)
    yield family(
        "roadloop_errors_total", "counter", "Frames that could not be decided.", lambda totals, _: totals.errors
    )
    yield Family(
        "roadloop_decision_latency_seconds",
        "summary",
        "From the frame to the decision.",
        [
            sample
            for slot, totals, _ in known
            for sample in (
                Sample({"slot": slot}, totals.latency_sum_s, "_sum"),
                Sample({"slot": slot}, totals.decisions, "_count"),
            )
        ],
    )
    yield family(
        "roadloop_decision_latency_max_seconds",
        "gauge",
        "The longest of the last health period.",
        lambda _, latest: latest.latency_max_us / 1e6,
    )
    yield Family(
        "roadloop_frames_dropped_total",
        "counter",
        "Frames not decided: the slot was busy, they had become too old, or the slot gave way to overload or heat.",
        [
            Sample({"slot": slot, "reason": reason}, count)
            for slot, _, latest in known
            for reason, count in (("busy", latest.dropped), ("expired", latest.expired), ("shed", latest.shed))
        ],
    )
    yield family(
        "roadloop_decisions_late_total", "counter", "Decisions after their deadline.", lambda _, last: last.late
    )
    yield family("roadloop_slot_share", "gauge", "Share of its frames that the slot gets.", lambda _, last: last.share)
    yield family(
        "roadloop_slot_release",
        "gauge",
        "The release that decides.",
        lambda _, last: None if last.ref is None else last.ref.release,
    )
    temperatures = [latest.temperature_c for _, _, latest in known if latest.temperature_c is not None]
    yield Family(
        "roadloop_temperature_celsius",
        "gauge",
        "The hottest of the zones that the profile names.",
        [Sample({}, max(temperatures))] if temperatures else [],
    )


def _link(status: Mapping[str, Any]) -> Iterator[Family]:
    if not status:
        return
    connection, spool = status["connection"], status["spool"]
    about = {key: str(status[key]) for key in ("vehicle", "hardware", "agent_version")}
    yield Family("roadloop_info", "gauge", "What this vehicle is.", [Sample(about, 1)])
    yield Family("roadloop_boot", "gauge", "Which start of drive this is.", [Sample({}, status["boot"])])
    yield Family("roadloop_connected", "gauge", "Whether the broker is reached.", [Sample({}, connection["connected"])])
    for name, key, text in (
        ("roadloop_connections_total", "connections", "Connections made."),
        ("roadloop_batches_resent_total", "resent", "Batches sent again because the cloud had not committed them."),
    ):
        yield Family(name, "counter", text, [Sample({}, connection[key])])
    for name, key, text in (
        ("roadloop_spool_used_bytes", "used_bytes", "What the spool holds."),
        ("roadloop_spool_max_bytes", "max_bytes", "What it may take of the disk."),
        ("roadloop_spool_pending_samples", "pending_samples", "Samples that the cloud has not committed."),
        ("roadloop_spool_pending_batches", "pending_batches", "Batches that the cloud has not committed."),
        ("roadloop_spool_lost_samples", "lost_samples", "Samples declared lost that the cloud has not accounted for."),
    ):
        yield Family(name, "gauge", text, [Sample({}, spool[key])])
    if files := status["files"]:
        yield from _files(files)
    yield Family(
        "roadloop_update_state",
        "gauge",
        "Where the update of a slot is: 1 for the state that it is in.",
        [
            Sample({"slot": name, "state": state}, slot["state"] == state)
            for name, slot in status["slots"].items()
            for state in get_args(UpdateState)
        ],
    )


def _files(files: Mapping[str, Any]) -> Iterator[Family]:
    counts = [Sample({"transport": name}, files[f"{name}_files"]) for name in ("https", "mqtt")]
    yield Family("roadloop_files_total", "counter", "Files of releases that were fetched.", counts)
    failures = [Sample({}, files["https_failures"])]
    yield Family("roadloop_https_failures_total", "counter", "Files that HTTPS did not bring, and MQTT did.", failures)


def _number(value: float) -> str:
    return repr(float(value)) if isinstance(value, float) else str(int(value))


def _escaped(text: str, *, quoted: bool = False) -> str:
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace('"', '\\"') if quoted else text
