"""Decisions for other software on the vehicle, and Prometheus text: who gets what, and what a slow reader loses."""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadloop_agent.drive.announcer import QUEUED, Announcer
from roadloop_agent.ipc import Decided, Pipe, SlotHealth
from roadloop_agent.link.metrics import MAX_REQUEST_BYTES, Family, Meter, Sample, answer, exposition
from roadloop_agent.link.results import Reader, result_line
from roadloop_agent.socketpair import make_socketpair
from roadloop_agent.tail import described
from roadloop_models.contract.messages import ReleaseRef, UpdateState

REF = ReleaseRef(task="traffic-sign", release=3, version="v3", manifest_sha256="0" * 64)


def decided(number: int = 1, dropped: int = 0) -> Decided:
    return Decided(boot=1, slot="sign", release=3, t_ms=1000 + number, dropped=dropped, decision={"class_id": number})


# In drive.


@pytest.fixture
def pipes() -> Iterator[tuple[Pipe, Pipe]]:
    drive, link = (Pipe(end) for end in make_socketpair())
    yield drive, link
    drive.close()
    link.close()


def test_while_nobody_listens_nothing_is_even_made(pipes: tuple[Pipe, Pipe]) -> None:
    announcer = Announcer(pipes[0], 1)
    announcer.announce("sign", 3, 5, lambda: pytest.fail("nobody asked"))
    announcer.send()
    assert pipes[1].receive_from_drive() is None


def test_what_is_decided_arrives_while_somebody_listens(pipes: tuple[Pipe, Pipe]) -> None:
    announcer = Announcer(pipes[0], 1)
    announcer.listened = True
    announcer.announce("sign", 3, 1007, lambda: {"class_id": 7})
    assert pipes[1].receive_from_drive() is None  # the slot's thread only leaves it
    announcer.send()
    assert pipes[1].receive_from_drive() == decided(7)
    announcer.send()  # woken for nothing


def test_what_the_pipe_has_no_room_for_is_dropped_and_counted() -> None:
    class Full:
        sent: list[bytes]
        room = False

        def __init__(self) -> None:
            self.sent = []

        def try_send(self, payload: bytes) -> bool:
            self.sent += [payload] * self.room
            return self.room

    pipe = Full()
    announcer = Announcer(pipe, 1)
    announcer.listened = True
    for number in range(QUEUED + 3):
        announcer.announce("sign", 3, number, lambda: {})
    announcer.send()
    announcer.announce("sign", 3, 0, lambda: {"far too large": "x" * 200_000})
    pipe.room = True
    announcer.send()
    announcer.announce("sign", 3, 0, lambda: {})
    announcer.send()
    (payload,) = pipe.sent
    drive, link = make_socketpair()
    drive.send(payload)
    message = Pipe(link).receive_from_drive()
    assert isinstance(message, Decided) and message.dropped == QUEUED + 3 + 1
    drive.close()


# For each reader.


def drain(reader: Reader, at_once: int = 1 << 20) -> list[dict[str, Any]]:
    content = b""
    while pending := bytes(reader.pending()[:at_once]):
        content += pending
        reader.sent(len(pending))
    assert content == b"" or content.endswith(b"\n")
    return [json.loads(line) for line in content.splitlines()]


def test_a_line_has_slot_release_time_and_decision() -> None:
    reader = Reader()
    assert reader.put(result_line(decided(7)))
    expected = {"slot": "sign", "release": 3, "t_ms": 1007, "decision": {"class_id": 7}}
    assert drain(reader, at_once=5) == [expected]


@given(st.lists(st.one_of(st.integers(1, 200), st.just(None), st.integers(-3, -1)), max_size=120))
def test_every_line_is_delivered_or_counted(steps: list[int | None]) -> None:
    """A number puts so many lines, None drains, a negative one says that lines were lost before."""
    reader, put, received = Reader(2000), 0, []
    for step in steps:
        if step is None:
            received += drain(reader)
        elif step < 0:
            reader.miss(-step)
            put -= step
        else:
            for _ in range(step):
                reader.put(result_line(decided(put)))
                put += 1
    received += drain(reader)
    reader.settle()
    received += drain(reader)
    lost = sum(message.get("dropped", 0) for message in received)
    assert lost + sum("decision" in message for message in received) == put
    numbers = [message["decision"]["class_id"] for message in received if "decision" in message]
    assert numbers == sorted(numbers)


def test_a_slow_reader_is_bounded() -> None:
    reader = Reader(1000)
    line = result_line(decided())
    for _ in range(10_000):
        reader.put(line)
    messages = drain(reader)
    assert len(messages) <= 1000 // len(line) + 1
    reader.put(line)
    assert [message.get("dropped") for message in drain(reader)] == [10_000 - len(messages), None]


# Prometheus.

LABEL = r'[a-zA-Z_]\w*="(?:[^"\\\n]|\\["\\n])*"'
LINE = re.compile(rf"^([a-zA-Z_:][\w:]*)(?:\{{({LABEL}(?:,{LABEL})*)\}})? (\S+)$")


def parse(text: bytes) -> dict[str, tuple[str, dict[str, float]]]:
    """A strict reader of the text format: name -> (type, {line's name and labels: value})."""
    families: dict[str, tuple[str, dict[str, float]]] = {}
    help_of, current = "", ""
    assert text.endswith(b"\n")
    for line in text.decode().splitlines():
        if line.startswith("# HELP "):
            help_of = line.split(" ", 3)[2]
            assert help_of not in families, "a family comes once, as a whole"
        elif line.startswith("# TYPE "):
            _, _, current, kind = line.split(" ")
            assert current == help_of and kind in {"counter", "gauge", "summary"}
            families[current] = (kind, {})
        else:
            match = LINE.match(line)
            assert match, line
            name, labels, value = match.groups()
            kind, samples = families[current]
            allowed = {current} if kind != "summary" else {f"{current}_sum", f"{current}_count"}
            assert name in allowed and (kind != "counter" or current.endswith("_total"))
            key = f"{name}{{{labels or ''}}}"
            assert key not in samples
            samples[key] = float(value)
    return families


class Store:
    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def put(self, key: str, value: Any) -> None:
        self.values[key] = value


def health(**changes: Any) -> SlotHealth:
    fields: dict[str, Any] = {
        "boot": 1,
        "slot": "sign",
        "ref": REF,
        "decisions": 10,
        "errors": 1,
        "latency_mean_us": 200.0,
        "latency_max_us": 900.0,
        "confidence_mean": 0.9,
        "dropped": 4,
        "idle": False,
        "expired": 2,
        "shed": 3,
        "temperature_c": 61.5,
    }
    return SlotHealth(**{**fields, **changes})


STATUS = {
    "vehicle": 'van "1"\\',
    "hardware": "test\nbench",
    "agent_version": "0.1.0",
    "boot": 7,
    "connection": {"connected": True, "connections": 2, "in_flight": 0, "resent": 5, "last_error": ""},
    "spool": {
        "max_bytes": 1000,
        "disk_bytes": 400,
        "used_bytes": 300,
        "pending_batches": 2,
        "pending_samples": 150,
        "pending_blocks": 0,
        "committed_batches": 1,
        "lost_samples": 9,
    },
    "files": {"mqtt_files": 4, "https_files": 2, "https_failures": 1, "last_failure": "503"},
    "slots": {"sign": {"state": "trial"}},
}


def test_counts_add_up_and_the_text_is_sound() -> None:
    store = Store()
    meter = Meter(store)
    assert set(parse(meter.text(0, 0))) == {"roadloop_results_readers", "roadloop_results_dropped_total"}
    for _ in range(3):
        meter.observe(health())
    meter.observe(health(slot="speed", ref=None, decisions=0, errors=0, temperature_c=None))
    meter.put("status", STATUS)
    assert store.values["status"] is STATUS
    families = parse(meter.text(2, 11))

    def value(name: str, labels: str = "", suffix: str = "") -> float:
        return families[name][1][f"{name}{suffix}{{{labels}}}"]

    assert value("roadloop_decisions_total", 'slot="sign"') == 30
    assert value("roadloop_errors_total", 'slot="sign"') == 3
    latency = "roadloop_decision_latency_seconds"
    assert value(latency, 'slot="sign"', "_count") == 30
    assert math.isclose(value(latency, 'slot="sign"', "_sum"), 30 * 200e-6)
    assert value("roadloop_decision_latency_max_seconds", 'slot="sign"') == 900e-6
    dropped = {reason: value("roadloop_frames_dropped_total", f'slot="sign",reason="{reason}"') for reason in REASONS}
    assert dropped == {"busy": 4, "expired": 2, "shed": 3}
    assert value("roadloop_slot_release", 'slot="sign"') == 3
    assert 'roadloop_slot_release{slot="speed"}' not in families["roadloop_slot_release"][1]
    assert value("roadloop_temperature_celsius") == 61.5
    assert value("roadloop_connected") == 1
    assert value("roadloop_spool_pending_samples") == 150
    assert value("roadloop_spool_lost_samples") == 9
    assert value("roadloop_files_total", 'transport="mqtt"') == 4 and value("roadloop_https_failures_total") == 1
    states = families["roadloop_update_state"][1]
    assert [labels for labels, on in states.items() if on] == ['roadloop_update_state{slot="sign",state="trial"}']
    assert len(states) == len(get_args(UpdateState))
    assert value("roadloop_results_readers") == 2 and value("roadloop_results_dropped_total") == 11
    (about,) = families["roadloop_info"][1]
    assert r'vehicle="van \"1\"\\"' in about and r'hardware="test\nbench"' in about


REASONS = ("busy", "expired", "shed")


@given(st.text(max_size=40), st.text(max_size=40), st.floats(allow_nan=False))
def test_no_label_and_no_help_breaks_a_line(label: str, text: str, value: float) -> None:
    content = exposition([Family("a_family", "gauge", text, [Sample({"label": label}, value)])]).decode()
    assert [line.split(" ")[0] for line in content.split("\n")[:2]] == ["#", "#"]
    assert len(content.split("\n")) == 4
    sample = LINE.match(content.split("\n")[2])
    assert sample is not None and float(sample.group(3)) == value


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", "200 OK"),
        (b"GET /metrics?name=x HTTP/1.0\r\n\r\n", "200 OK"),
        (b"GET / HTTP/1.1\r\n\r\n", "404 Not Found"),
        (b"GET /metrics/../state HTTP/1.1\r\n\r\n", "404 Not Found"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", "405 Method Not Allowed"),
        (b"\x16\x03\x01\r\n\r\n", "400 Bad Request"),
        (b"GET /metrics\r\n\r\n", "400 Bad Request"),
        (b"x" * MAX_REQUEST_BYTES, "431 Request Header Fields Too Large"),
    ],
)
def test_only_a_whole_request_for_metrics_gets_them(request_: bytes, status: str) -> None:
    response = answer(request_, lambda: b"text\n")
    assert response is not None
    head, body = response.split(b"\r\n\r\n", 1)
    assert head.decode().splitlines()[0] == f"HTTP/1.1 {status}"
    assert body == (b"text\n" if status == "200 OK" else b"")
    assert f"Content-Length: {len(body)}" in head.decode().splitlines()


def test_half_a_request_waits_for_the_other_half() -> None:
    assert answer(b"GET /metrics HTTP/1.1\r\nHost:", lambda: pytest.fail("too early")) is None


# For people.


def test_tail_shows_what_people_can_read(tmp_path: Path) -> None:
    line = json.loads(result_line(decided(7)))
    assert described(line).endswith("sign          release 3     class_id=7")
    line["decision"] = {"label": "stop", "speeds": [1.23456789] * 207, "pair": [1.0, 2.5]}
    assert described(line).endswith('label="stop" speeds=[1.23457, 1.23457, 1.23457, … 207 in all] pair=[1, 2.5]')
    assert "12 decisions dropped" in described({"dropped": 12})
