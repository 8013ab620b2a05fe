"""Who is started when, boot numbers, signs of life, and messages between the processes."""

import os
import socket
import sqlite3
from collections import deque
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadloop_agent import children
from roadloop_agent.boot import next_boot
from roadloop_agent.children import ChildState, beaten, exited, is_due, is_stuck, is_well, slept, started, stopped
from roadloop_agent.heartbeat import Heartbeat
from roadloop_agent.ipc import (
    MAX_IPC_BYTES,
    Attach,
    Captured,
    FromDrive,
    Hello,
    Pipe,
    Produced,
    Samples,
    encode_ipc,
)
from roadloop_agent.link.batcher import Gap
from roadloop_agent.link.cache import Cache, read_cache
from roadloop_agent.link.spool import Spool
from roadloop_agent.sdnotify import Notifier
from roadloop_agent.socketpair import make_socketpair
from roadloop_models.errors import MessageError, NotFoundError

# The supervisor's decisions.


def test_a_child_that_dies_again_and_again_is_started_later_and_later() -> None:
    state, now_s, waits = ChildState(), 100.0, []
    for _ in range(12):
        state = exited(started(state, now_s), now_s + 1)
        waits.append(state.due_s - now_s - 1)
        assert not is_due(state, state.due_s - 0.01) and is_due(state, state.due_s)
        now_s = state.due_s
    assert waits[:4] == pytest.approx([0.2, 0.4, 0.8, 1.6])
    assert waits[-1] == children.RESTART_MAX_S


def test_a_child_that_lived_long_is_started_at_once() -> None:
    state = exited(started(ChildState(failures=5), 0.0), children.PROVED_S)
    assert state.failures == 0 and is_due(state, children.PROVED_S)


def test_a_child_without_beats_is_stuck_after_its_grace() -> None:
    state = started(ChildState(), 0.0)
    assert not is_stuck(state, children.START_GRACE_S) and not is_well(state, 1.0)
    assert is_stuck(state, children.START_GRACE_S + 1)
    state = beaten(state, 10.0)
    assert is_well(state, 10.0 + children.WELL_S) and not is_well(state, 10.1 + children.WELL_S)
    assert not is_stuck(state, 10.0 + children.STUCK_S) and is_stuck(state, 10.1 + children.STUCK_S)
    assert not is_stuck(exited(state, 11.0), 1000.0)


def test_nobody_is_stuck_for_what_nobody_could_do() -> None:
    beating, starting = beaten(started(ChildState(), 0.0), 10.0), started(ChildState(), 5.0)
    assert is_stuck(beating, 700.0) and is_stuck(starting, 700.0)
    assert is_well(slept(beating, 688.0), 700.0) and not is_stuck(slept(starting, 690.0), 700.0)
    assert is_stuck(slept(beating, 600.0), 700.0)


def test_who_was_ended_on_purpose_is_due_at_once() -> None:
    assert is_due(stopped(7.0), 7.0) and stopped(7.0).failures == 0


@given(st.lists(st.tuples(st.sampled_from(["start", "beat", "exit"]), st.floats(0, 100)), max_size=30))
def test_a_child_is_never_both_due_and_running(steps: list[tuple[str, float]]) -> None:
    state, now_s = ChildState(), 0.0
    for step, wait_s in steps:
        now_s += wait_s
        if step == "start" and is_due(state, now_s):
            state = started(state, now_s)
        elif step == "beat" and state.running:
            state = beaten(state, now_s)
        elif step == "exit" and state.running:
            state = exited(state, now_s)
        assert not (state.running and is_due(state, now_s))
        assert state.due_s - now_s <= children.RESTART_MAX_S


# Boots.


def test_boots_count_up_across_starts(tmp_path: Path) -> None:
    assert [next_boot(tmp_path, tmp_path / "spool") for _ in range(3)] == [1, 2, 3]
    assert (tmp_path / "boot").read_text() == "3\n"


@pytest.mark.parametrize("content", [None, b"", b"rubbish", b"\xff\xff", b"2"])
def test_a_lost_counter_goes_on_behind_what_the_spool_knows(tmp_path: Path, content: bytes | None) -> None:
    spool = Spool(tmp_path / "spool.sqlite", 1 << 20, 60.0, 0.0)
    spool.append(deque([Gap(41, "health", 1, 1, "pipe-full")]), 0.0)
    spool.close()
    if content is not None:
        (tmp_path / "boot").write_bytes(content)
    assert next_boot(tmp_path, tmp_path / "spool.sqlite") == 42


def test_a_damaged_spool_does_not_stop_the_count(tmp_path: Path) -> None:
    (tmp_path / "spool.sqlite").write_bytes(b"rubbish" * 1000)
    (tmp_path / "boot").write_text("6")
    assert next_boot(tmp_path, tmp_path / "spool.sqlite") == 7
    sqlite3.connect(tmp_path / "empty.sqlite").close()
    assert next_boot(tmp_path, tmp_path / "empty.sqlite") == 8


# Signs of life.


def test_a_beat_needs_every_part(tmp_path: Path) -> None:
    read_fd, write_fd = os.pipe()
    os.set_blocking(read_fd, False)
    now = 0.0
    heart = Heartbeat(write_fd, ["main", "slot"], lambda: now)
    heart.beat("main")
    heart.beat("main")
    with pytest.raises(BlockingIOError):
        os.read(read_fd, 10)
    heart.beat("slot")
    assert os.read(read_fd, 10) == b"."
    now = 0.5
    heart.beat("main")
    heart.beat("slot")
    with pytest.raises(BlockingIOError):
        os.read(read_fd, 10)  # once a second is enough
    now = 1.0
    heart.beat("main")
    assert os.read(read_fd, 10) == b"."
    os.close(read_fd)
    now = 3.0
    heart.beat("slot")
    heart.beat("main")
    heart.beat("slot")  # nobody listens: no reason to die


def test_systemd_is_told_where_it_asks(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(5)
        notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "3000000"})
        assert notifier.watchdog_s == 1.5
        notifier.notify(READY="1", STATUS="well")
        assert listener.recv(100) == b"READY=1\nSTATUS=well"
    notifier.notify(STOPPING="1")  # the listener is gone
    assert Notifier({}).watchdog_s is None
    Notifier({}).notify(READY="1")
    Notifier({"NOTIFY_SOCKET": "@roadloop-test-nobody"}).notify(READY="1")


# Messages between the processes.


def test_messages_cross_whole_and_in_order() -> None:
    drive, link = (Pipe(end) for end in make_socketpair())
    messages: list[FromDrive] = [
        Hello(boot=1, slots={}),
        Samples(boot=1, stream="health", first_seq=1, t_ms=[1], rows=[[1.0, float("nan")]]),
        Produced(boot=1, last_seq={"health": 1}, ended=True),
    ]
    for message in messages:
        assert drive.try_send(encode_ipc(message))
    received = [link.receive_from_drive() for _ in messages]
    assert [type(message) for message in received] == [Hello, Samples, Produced]
    assert link.receive_from_drive() is None
    assert link.try_send(encode_ipc(Attach()))
    assert drive.receive_from_link() == Attach()


def test_a_full_pipe_refuses_and_never_waits() -> None:
    drive, link = (Pipe(end) for end in make_socketpair())
    payload = encode_ipc(Produced(boot=1, last_seq={"health": 1}))
    sent = 0
    while drive.try_send(payload):
        sent += 1
    assert 0 < sent < 10**6
    assert link.receive_from_drive() is not None
    assert drive.try_send(payload)


def test_messages_are_bounded_and_checked() -> None:
    drive, link = make_socketpair()
    with pytest.raises(MessageError, match="at most"):
        encode_ipc(Samples(boot=1, stream="health", first_seq=1, t_ms=[0] * 500, rows=[[0.5] * 30] * 500))
    for rubbish in (b"\xc1", b"\x90", b"x" * 50, b"y" * (MAX_IPC_BYTES + 1)):
        drive.send(rubbish)
        with pytest.raises(MessageError):
            Pipe(link).receive_from_drive()


def test_the_largest_block_fits_into_one_message() -> None:
    block = Captured(
        boot=1 << 50,
        sha256="f" * 64,
        size_bytes=1 << 40,
        media_type="image/png",
        task="t" * 40,
        about_stream="s" * 40,
        about_seq=1 << 50,
        t_ms=1 << 50,
        about_row=[0.1] * 22,
        n=100,
        blocks=200,
        data=bytes(64 * 1024),
    )
    drive, link = (Pipe(end) for end in make_socketpair())
    assert drive.try_send(encode_ipc(block))
    assert link.receive_from_drive() == block


# The small state.


def test_small_state_is_read_by_another_process_and_begun_anew_when_damaged(tmp_path: Path) -> None:
    path = tmp_path / "cache.sqlite"
    with pytest.raises(NotFoundError, match="has the agent ever run here"):
        read_cache(path, "status")
    path.write_bytes(b"rubbish" * 1000)
    cache = Cache(path)
    cache.put("status", {"a": [1, None, "x"]})
    assert read_cache(path, "status") == {"a": [1, None, "x"]}
    with pytest.raises(NotFoundError, match="'other'"):
        read_cache(path, "other")
    cache.close()
    with sqlite3.connect(path) as db:
        (value,) = db.execute("SELECT value FROM state").fetchone()
    assert value == '{"a":[1,null,"x"]}'  # JSON: an edited row cannot execute anything
