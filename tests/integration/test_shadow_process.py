"""A shadow's process beside its host: what it finds out, and that no candidate can do anything to what drives."""

import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from roadloop_agent.config import SlotTable
from roadloop_agent.drive.frames import Frame, Mailbox
from roadloop_agent.drive.handlers import open_handler
from roadloop_agent.drive.outbox import Outbox
from roadloop_agent.drive.pipeline import load_model
from roadloop_agent.drive.roll import CaptureRoll
from roadloop_agent.drive.shadow import child, host
from roadloop_agent.drive.shadow.host import Installed, Process, Shadow, Spawn, spawner
from roadloop_agent.drive.shadow.wire import MAX_ARRAY_BYTES, MAX_HEADER_BYTES, Seen, receive_case, send_case
from roadloop_agent.drive.slots import Slot
from roadloop_agent.ipc import Samples
from roadloop_models.bundle import Bundle
from roadloop_models.contract.messages import ReleaseRef, ShadowReport
from roadloop_models.contract.streams import SIGN_DECISION
from roadloop_models.errors import MessageError
from roadloop_models.preprocess import ImageStandardize
from tests.fakes.bundles import tiny_bundle
from tests.fakes.pipes import FakePipe

WAIT_S = 30.0
IMAGE = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)


def installed(bundle: Bundle, release: int) -> Installed:
    ref = ReleaseRef(
        task="traffic-sign",
        release=release,
        version=bundle.manifest.version,
        manifest_sha256=bundle.manifest_sha256,
    )
    return Installed(ref, bundle.directory)


@pytest.fixture
def incumbent(tmp_path: Path) -> Installed:
    return installed(tiny_bundle(tmp_path / "incumbent", "one"), 1)


def until(what: str, reached: Callable[[], bool]) -> None:
    until_s = time.monotonic() + WAIT_S
    while not reached():
        assert time.monotonic() < until_s, f"waited in vain: {what}"
        time.sleep(0.01)


class Running:
    """A shadow that is fed one picture again and again while the block lasts."""

    def __init__(self, candidate: Installed, incumbent: Installed, spawn: Spawn | None = None) -> None:
        self.shadow = Shadow(
            slot="sign",
            candidate=candidate,
            incumbent=incumbent,
            max_cpu_share=1.0,
            spawn=spawn or spawner("onnx-int8", ("CPUExecutionProvider",), Path("/nowhere")),
            clock=time.monotonic,
        )
        self.slowest_offer_s = 0.0

    def __enter__(self) -> "Running":
        self.shadow.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shadow.stop()

    @property
    def report(self) -> ShadowReport:
        return self.shadow.said(1).report

    def until(self, what: str, reached: Callable[[ShadowReport], bool], seen: Seen = (IMAGE,)) -> ShadowReport:
        def offer() -> bool:
            started_s = time.thread_time()
            self.shadow.offer(seen)
            self.slowest_offer_s = max(self.slowest_offer_s, time.thread_time() - started_s)
            return reached(self.report)

        until(what, offer)
        return self.report


def test_the_same_model_decides_the_same(incumbent: Installed, tmp_path: Path) -> None:
    with Running(installed(tiny_bundle(tmp_path / "two", "two"), 2), incumbent) as running:
        report = running.until("50 frames", lambda report: report.frames >= 50)
    assert (report.state, report.disagreed, report.errors) == ("running", 0, 0)
    assert report.confidence_frames == report.frames and report.confidence_delta_sum == pytest.approx(0.0)
    assert sum(report.latency_counts) == sum(report.incumbent_latency_counts) == report.frames
    assert 0.5 < math.exp(report.latency_log_ratio_sum / report.frames) < 2.0


def test_its_process_gives_way_in_everything(incumbent: Installed, tmp_path: Path) -> None:
    with Running(installed(tiny_bundle(tmp_path / "two", "two"), 2), incumbent) as running:
        running.until("a frame", lambda report: report.frames >= 1)
        pid = running.shadow.pid
        assert pid is not None and os.getpriority(os.PRIO_PROCESS, pid) == child.NICE == 19
        assert Path(f"/proc/{pid}/oom_score_adj").read_text() == "1000\n"


def test_another_model_decides_otherwise(incumbent: Installed, tmp_path: Path) -> None:
    with Running(installed(tiny_bundle(tmp_path / "two", "two", seed=5), 2), incumbent) as running:
        report = running.until("20 frames", lambda report: report.frames >= 20)
    assert report.disagreed == report.frames and report.confidence_delta_square_sum > 0


def test_a_candidate_that_raises_is_given_up_with_its_error(incumbent: Installed, tmp_path: Path) -> None:
    misfit = tiny_bundle(tmp_path / "two", "two", preprocess=ImageStandardize(16, 16).spec)
    with Running(installed(misfit, 2), incumbent) as running:
        report = running.until("it is given up", lambda report: report.state == "refused")
    assert report.frames == 0 and report.errors == host.TRIES
    assert report.error is not None and "fails on 20 of 20 frames" in report.error.detail


def test_a_candidate_that_answers_with_nan_is_given_up(incumbent: Installed, tmp_path: Path) -> None:
    nothing = tiny_bundle(tmp_path / "two", "two", scale=math.nan)
    with Running(installed(nothing, 2), incumbent) as running:
        report = running.until("it is given up", lambda report: report.state == "refused")
    assert report.error is not None and "not finite" in report.error.detail
    assert math.isfinite(report.confidence_delta_sum) and report.frames == 0


def test_a_frame_that_the_incumbent_cannot_decide_about_says_nothing_of_the_candidate(
    incumbent: Installed, tmp_path: Path
) -> None:
    with Running(installed(tiny_bundle(tmp_path / "two", "two"), 2), incumbent) as running:
        running.until("a frame", lambda report: report.frames >= 1)
        for _ in range(200):
            running.shadow.offer((IMAGE[..., 0],))
            time.sleep(0.001)
        report = running.until("more frames", lambda report: report.frames >= 10)
    assert report.errors == 0 and report.state == "running"


def test_a_bundle_that_does_not_load_is_refused(incumbent: Installed, tmp_path: Path) -> None:
    broken = tiny_bundle(tmp_path / "two", "two")
    (broken.directory / "onnx-int8.onnx").write_bytes(b"nothing")
    with Running(installed(broken, 2), incumbent) as running:
        report = running.until("it is refused", lambda report: report.state == "refused")
    assert report.error is not None and report.error.code == "bundle-invalid"


def scripted(then: str) -> Spawn:
    """A process that says that it is ready, takes a frame, and then does this."""
    script = (
        "import os, signal, socket, sys, time\n"
        "from roadloop_agent.drive.shadow.wire import Ready, receive_case, send_answer\n"
        "sock = socket.socket(fileno=int(sys.argv[1]))\n"
        f"send_answer(sock, Ready())\nreceive_case(sock)\n{then}\n"
    )

    def spawn(candidate: Path, incumbent: Path) -> tuple[Process, socket.socket]:
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-c", script, str(theirs.fileno())]
            return subprocess.Popen(command, pass_fds=(theirs.fileno(),)), ours

    return spawn


def test_a_candidate_that_hangs_is_killed_and_refused(
    incumbent: Installed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "ANSWER_TIMEOUT_S", 0.3)
    with Running(installed(tiny_bundle(tmp_path / "two", "two"), 2), incumbent, scripted("time.sleep(600)")) as running:
        report = running.until("it is refused", lambda report: report.state == "refused")
        until("its process is gone", lambda: not running.shadow.is_alive)
    assert report.error is not None and report.error.code == "too-slow"
    assert running.slowest_offer_s < 0.05, "whoever offers a frame never waits"


def test_a_candidate_that_crashes_takes_nothing_with_it(incumbent: Installed, tmp_path: Path) -> None:
    crash = scripted("os.kill(os.getpid(), signal.SIGSEGV)")
    with Running(installed(tiny_bundle(tmp_path / "two", "two"), 2), incumbent, crash) as running:
        report = running.until("it is refused", lambda report: report.state == "refused")
    assert report.error is not None and report.error.detail == "the candidate's runtime died of SIGSEGV"


def test_a_process_that_something_else_killed_comes_back_and_the_sums_go_on(
    incumbent: Installed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "AGAIN_S", 0.05)
    with Running(installed(tiny_bundle(tmp_path / "two", "two"), 2), incumbent) as running:
        before = running.until("frames", lambda report: report.frames >= 10)
        assert running.shadow.pid is not None
        os.kill(running.shadow.pid, signal.SIGKILL)
        after = running.until("more frames", lambda report: report.frames >= before.frames + 50)
    assert after.state == "running" and after.errors == 0


def test_while_it_is_paused_frames_are_skipped_and_counted(incumbent: Installed, tmp_path: Path) -> None:
    with Running(installed(tiny_bundle(tmp_path / "two", "two"), 2), incumbent) as running:
        running.until("it runs", lambda report: report.frames >= 1)
        running.shadow.paused = True
        time.sleep(0.2)  # what was handed over before is decided about
        before = running.report
        for _ in range(100):
            running.shadow.offer((IMAGE,))
        after = running.report
    assert after.state == "paused" and after.frames == before.frames and after.skipped >= before.skipped + 100


def test_the_budget_holds(incumbent: Installed, tmp_path: Path) -> None:
    share = 0.05
    candidate = installed(tiny_bundle(tmp_path / "two", "two"), 2)
    shadow = Shadow(
        slot="sign",
        candidate=candidate,
        incumbent=incumbent,
        max_cpu_share=share,
        spawn=spawner("onnx-int8", ("CPUExecutionProvider",), Path("/nowhere")),
        clock=time.monotonic,
    )
    shadow.start()
    until("it runs", lambda: shadow.said(1).report.state == "running")
    assert shadow.pid is not None
    before_s, started_s = _cpu_s(shadow.pid), time.monotonic()
    while time.monotonic() < started_s + 3.0:
        shadow.offer((IMAGE,))
        time.sleep(0.0005)
    spent_s, passed_s = _cpu_s(shadow.pid) - before_s, time.monotonic() - started_s
    report = shadow.said(1).report
    shadow.stop()
    assert report.skipped > report.frames > 0
    # Credit of the seconds in which it loaded is left over, and the kernel counts in hundredths of a second.
    assert spent_s <= share * (passed_s + 5.0) + 0.05


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_candidate_in_the_shadow_decides_nothing(incumbent: Installed, tmp_path: Path) -> None:
    """The slot's samples are the incumbent's alone, with a shadow that always decides otherwise."""
    pipe = FakePipe()
    outbox = Outbox(pipe, 1, time.monotonic)
    table = SlotTable(task="traffic-sign", runtime="onnx", source="camera", rate_hz=50.0)
    mailbox = Mailbox()
    slot = Slot(
        name="sign",
        table=table,
        handler=open_handler(table),
        mailbox=mailbox,
        outbox=outbox,
        announce=lambda *_: None,
        roll=CaptureRoll(1, outbox, {"sign": 1000}, lambda image: b""),
        clock=time.monotonic,
    )
    slot.offer(load_model(incumbent.directory, "onnx-int8", incumbent.ref))
    stop = threading.Event()
    thread = threading.Thread(target=slot.run, args=(stop, lambda: None))
    with Running(installed(tiny_bundle(tmp_path / "two", "two", seed=5), 2), incumbent) as running:
        slot.shadow = running.shadow
        thread.start()
        number = 0

        def feed() -> bool:
            nonlocal number
            number += 1
            mailbox.put_latest(Frame(number, time.monotonic(), 0, IMAGE))
            assert mailbox.wait_until_taken(WAIT_S)
            return running.report.frames >= 20

        until("both have decided", feed)
        stop.set()
        thread.join(WAIT_S)
        report = running.report
    outbox.flush()
    samples = [message for message in pipe.messages if isinstance(message, Samples)]
    rows = [row for message in samples if message.stream == SIGN_DECISION.name for row in message.rows]
    release = [field.name for field in SIGN_DECISION.fields].index("release")
    assert report.disagreed == report.frames and {row[release] for row in rows} == {1.0}
    assert len({row[1] for row in rows}) == 1, "every decision is the incumbent's"


# The wire.


def test_arrays_go_over_the_wire_as_they_are() -> None:
    seen: Seen = (
        IMAGE,
        np.asarray(7),
        np.zeros((0, 4), np.float32),
        np.arange(6, dtype=np.float32).reshape(2, 3)[:, ::2],
    )
    ours, theirs = socket.socketpair()
    with ours, theirs:
        send_case(ours, seen)
        came = receive_case(theirs)
        assert came is not None
        for one, other in zip(came, seen, strict=True):
            assert (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())
        ours.close()
        assert receive_case(theirs) is None


@pytest.mark.parametrize(
    "raw",
    [
        b"\xff\xff\xff\xff",
        (MAX_HEADER_BYTES + 1).to_bytes(4, "little"),
        b"\x02\x00\x00\x00no",
        b"",
    ],
    ids=["endless", "too-long", "no-message", "closed"],
)
def test_what_is_malformed_is_not_read(raw: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(raw)
        ours.close()
        if raw:
            with pytest.raises(MessageError):
                receive_case(theirs)
        else:
            assert receive_case(theirs) is None


def test_a_frame_beyond_all_measure_is_not_sent() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(MessageError, match="more than"):
        send_case(ours, (np.broadcast_to(np.uint8(0), (MAX_ARRAY_BYTES + 1,)),))
