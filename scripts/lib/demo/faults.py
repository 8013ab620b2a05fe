"""The three things that go wrong on purpose, each with what came of it."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from processes import DemoError, Service, run_json, wait_for
from screen import Screen
from watcher import Seen, Watcher

from roadloop_cloud.app import Application
from roadloop_models.bundle import FileEntry
from roadloop_models.contract.messages import ReleaseRef

WHOLE_BLOCK = 255
"""The mark of a block that is on the disk as a whole (update/parts.py)."""
KILL_AT_BLOCKS = 3
"""So many blocks must be on disk, so that a download that began anew could be told from one that went on."""


@dataclass(frozen=True)
class Fault:
    """One fault and its outcome, for summary.json."""

    fault: str
    outcome: str


def restart_broker(broker: Service, watcher: Watcher, screen: Screen) -> Fault:
    """SIGKILL for the broker while the fleet sends; every vehicle has to come back by itself."""
    broker.kill()
    screen.event("[red]the broker is killed (SIGKILL)[/red]; vehicles keep what they measure on disk")
    restarted = datetime.now(UTC)
    broker.restart()
    wait_for(
        "word from every vehicle after the broker came back",
        lambda: all(seen.last_seen is not None and seen.last_seen > restarted for seen in watcher.look()),
        90,
    )
    fleet = watcher.look()
    before = _stored(fleet)
    wait_for(
        "telemetry of every vehicle after the broker came back",
        lambda: all(after > before[vehicle] for vehicle, after in _stored(watcher.look()).items()),
        90,
    )
    screen.event(f"the broker is back: all {len(fleet)} vehicles send again")
    return Fault("broker killed and restarted", f"all {len(fleet)} vehicles reconnected and sent what they had kept")


def kill_in_download(
    agent: Service, state_dir: Path, vehicle: str, offered: ReleaseRef, *, watcher: Watcher, screen: Screen
) -> Fault:
    """SIGKILL for an agent when some blocks of a file are on its disk; started again, it must go on from there."""
    wait_for(f"{vehicle} to be in a download", lambda: _kept(state_dir)[0] >= KILL_AT_BLOCKS, 120, every_s=0.01)
    boot = watcher.vehicle(vehicle).boot
    agent.kill()
    kept, total = _kept(state_dir)
    screen.event(f"[red]{vehicle} is killed (SIGKILL) in its download[/red]: {kept} of {total} blocks are on its disk")
    if not KILL_AT_BLOCKS <= kept < total:
        raise DemoError(f"{vehicle}: {kept} of {total} blocks were left on disk; the kill came at the wrong moment")
    agent.restart()
    least = kept

    def runs() -> int | None:
        """The release that it says it runs since it was started again; a first report may not know yet."""
        nonlocal least
        least = min(least, _kept(state_dir)[0] or least)
        seen = watcher.vehicle(vehicle)
        slot = next((slot for slot in seen.reported.values() if slot["task"] == offered.task), {})
        return (slot.get("running") or {}).get("release") if seen.boot > boot else None

    running = wait_for(f"{vehicle} to say what it runs after its restart", runs, 60, every_s=0.02)
    if running == offered.release or least < kept:
        raise DemoError(f"{vehicle} came back on release {running} with {least} of the {kept} blocks it had")
    outcome = f"{vehicle} came back on release {running} and resumed with the {kept} of {total} blocks that it had"
    return Fault("agent killed in the middle of a download", outcome)


def offer_tampered(app: Application, ref: ReleaseRef, weights: FileEntry, vehicle: str, screen: Screen) -> Fault:
    """Change one byte of the weights of a signed release in the repository, and roll it out to one vehicle."""
    folder = app.workspace.repository / "targets" / ref.task / str(ref.release)
    (stored,) = folder.rglob(f"{weights.sha256}.*")
    content = bytearray(stored.read_bytes())
    content[len(content) // 2] ^= 0xFF
    stored.write_bytes(content)
    screen.event(f"[red]release {ref.release} of {ref.task} is tampered with[/red] and offered to {vehicle}")
    options = ("--vehicle", vehicle, "--waves", "1", "--soak", "0", "--timeout", "120", "--error-threshold", "0")
    created = run_json(
        "roadloop", "rollout", "create", "--task", ref.task, "--release", str(ref.release), *options,
        "--workspace", app.workspace.root,
    )  # fmt: skip
    rollout: int = created["id"]
    wait_for("the tampered release to be refused", lambda: app.rollouts.show(rollout).state != "running", 150)
    view = app.rollouts.show(rollout)
    (member,) = view.members
    if view.state != "failed" or member.error is None:
        raise DemoError(f"the rollout of the tampered release ended as {view.state}: {view.reason}")
    slots = [] if member.report is None else member.report.slots.values()
    running = next(slot.running for slot in slots if slot.task == ref.task)
    if running is None or running.release == ref.release:
        raise DemoError(f"{vehicle} runs {running}")
    screen.event(f"{vehicle} [green]refused it[/green] and still runs release {running.release}: {member.error}")
    code = member.error.split(":", 1)[0]
    return Fault(
        "tampered release offered", f"refused by {vehicle} ({code}), which still runs release {running.release}"
    )


def _kept(state_dir: Path) -> tuple[int, int]:
    """(blocks on disk, blocks in all) of the file that the vehicle is downloading; (0, 0) where it is at none."""
    for marks in state_dir.rglob("*.have"):
        try:
            here = marks.read_bytes()
        except FileNotFoundError:
            continue
        if 0 < here.count(WHOLE_BLOCK) < len(here):
            return here.count(WHOLE_BLOCK), len(here)
    return 0, 0


def _stored(fleet: list[Seen]) -> dict[str, int]:
    return {seen.id: sum(seen.stored.values()) for seen in fleet}
