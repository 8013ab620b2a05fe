"""How a rollout looks: to people as tables and bars, to machines as JSON."""

from typing import TYPE_CHECKING, Any

import msgspec
from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from roadloop_cloud.cli.output import seconds, size

if TYPE_CHECKING:
    from roadloop_cloud.rollout.cohorts import Tally
    from roadloop_cloud.rollout.preview import Preview
    from roadloop_cloud.rollout.views import MemberView, RolloutView

STYLES = {"succeeded": "green", "failed": "red", "aborted": "red", "paused": "yellow", "offered": "cyan", "late": "dim"}
MOVING = ("running",)
MAX_VEHICLES = 30
"""Above so many, only those are listed that failed or are slow."""
MAX_WAVES = 16


def as_json(view: "RolloutView") -> dict[str, Any]:
    """A rollout for machines."""
    return {
        "id": view.id,
        "task": view.spec.release.task,
        "release": view.spec.release.release,
        "version": view.spec.release.version,
        "also": [msgspec.to_builtins(ref) for ref in view.spec.also],
        "state": view.state,
        "reason": view.reason,
        "created_by": view.created_by,
        "wave": view.wave + 1,
        "gates": [msgspec.to_builtins(gate) for gate in view.gates],
        "waves": [{"wave": wave + 1 if wave >= 0 else None, **_tally(tally)} for wave, tally in view.waves],
        "cohorts": [{"cohort": name, **_tally(tally)} for name, tally in view.cohorts],
        "vehicles": [
            {
                "vehicle": member.vehicle,
                "wave": member.wave + 1 if member.wave >= 0 else None,
                "state": member.state,
                "taken_back": member.taken_back,
                "cohort": member.cohort,
                "error": member.error,
            }
            for member in view.members
        ],
    }


def shown(view: "RolloutView", eta_s: float | None = None) -> RenderableType:
    """A rollout for people; `eta_s` is how long it will still take at the rate of late."""
    parts: list[RenderableType] = [_head(view, eta_s)]
    if view.reason:
        parts.append(Text(view.reason, style=STYLES.get(view.state, "")))
    parts += [_waves(view), _gates(view)] if view.gates else [_waves(view)]
    if len(view.cohorts) > 1:
        parts.append(_cohorts(view))
    parts.append(_vehicles(view))
    return Group(*parts)


def preview_json(made: "Preview") -> dict[str, Any]:
    """A preview for machines."""
    return {
        "spec": msgspec.to_builtins(made.spec),
        "vehicles": made.vehicles,
        "fleet": made.fleet,
        "waves": [
            {
                "wave": number,
                "vehicles": wave.vehicles,
                "online": wave.online,
                "cohorts": wave.cohorts,
                "bytes": wave.bytes,
                "at_least_s": round(wave.at_least_s, 1),
                "at_most_s": round(wave.at_most_s, 1),
                "fleet_share": wave.fleet_share,
            }
            for number, wave in enumerate(made.waves, 1)
        ],
        "left_out": {reason: list(vehicles) for reason, vehicles in made.left_out.items()},
        "collisions": {str(rollout): list(vehicles) for rollout, vehicles in made.collisions.items()},
        "offline": made.offline,
        "bytes": made.bytes,
        "whole_bytes": made.whole_bytes,
        "largest_bytes": made.largest_bytes,
        "cost": round(made.cost, 4),
        "at_least_s": round(made.at_least_s, 1),
        "at_most_s": round(made.at_most_s, 1),
        "first_gate": made.first_gate,
        "blast_radius": made.blast_radius,
    }


def preview_shown(made: "Preview", now_s: float) -> RenderableType:
    """A preview for people."""
    refs = ", ".join(f"{ref.task} {ref.version} (release {ref.release})" for ref in made.spec.releases)
    waves = _table("wave", "vehicles", "online", "cohorts", "data", "at least", "at most", "of the fleet")
    for number, wave in enumerate(made.waves, 1):
        waves.add_row(
            str(number), str(wave.vehicles), str(wave.online),
            "\n".join(f"{count} x {name}" for name, count in wave.cohorts.items()), size(wave.bytes),
            seconds(wave.at_least_s), seconds(wave.at_most_s), f"{wave.fleet_share:.1%}",
        )  # fmt: skip
    parts: list[RenderableType] = [Text(f"{refs} to {made.vehicles} of {made.fleet} vehicles", style="bold"), waves]
    saved = f", instead of {size(made.whole_bytes)}" if made.bytes < made.whole_bytes else ""
    cost = f"; costs {made.cost:.2f}" if made.cost else ""
    facts = _table("", "")
    facts.show_header = False
    facts.add_row("data", f"{size(made.bytes)}{saved}, at most {size(made.largest_bytes)} a vehicle{cost}")
    facts.add_row("takes", f"at least {seconds(made.at_least_s)}, at most {seconds(made.at_most_s)}{_waits(made)}")
    first, largest = f"{made.first_gate:.1%}", f"{made.blast_radius:.1%}"
    facts.add_row("blast radius", f"{first} of the fleet before the first gate, {largest} at a time")
    if made.offline:
        facts.add_row("not connected", f"{_names(_since(made.offline, now_s))}: they take it when they come")
    for reason, vehicles in made.left_out.items():
        facts.add_row("left out", f"{len(vehicles)}: {reason}: {_names(vehicles)}", style="yellow")
    for rollout, vehicles in made.collisions.items():
        facts.add_row("collides", f"with rollout {rollout}: {_names(vehicles)}: it would be refused", style="red")
    return Group(*parts, facts)


def _waits(made: "Preview") -> str:
    spec, when = made.spec, made.spec.policy.switch_when
    reasons = [f"{spec.approvals} approvals a wave"] if spec.approvals else []
    reasons += ["maintenance windows"] if when.windows else []
    reasons += ["vehicles to park"] if when.parked else []
    reasons += ["consent"] if when.consent else []
    return f"; and the wait for {', '.join(reasons)}" if reasons else ""


def _since(offline: "dict[str, float | None]", now_s: float) -> list[str]:
    return [f"{name} ({'never' if at is None else seconds(now_s - at)})" for name, at in offline.items()]


def _names(names: "list[str] | tuple[str, ...]", most: int = 6) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def _head(view: "RolloutView", eta_s: float | None) -> Text:
    refs = " + ".join(f"{ref.task} {ref.version} (release {ref.release})" for ref in view.spec.releases)
    head = Text.assemble(f"rollout {view.id}: {refs}  ", (view.state, STYLES.get(view.state, "bold")))
    done = sum(tally.executed for _, tally in view.waves)
    rest = "" if eta_s is None else f", about {seconds(eta_s)} to go at this rate"
    return head.append(f"  {done} of {len(view.members)} have finished{rest}")


def _waves(view: "RolloutView") -> Table:
    waves = Table.grid(padding=(0, 1))
    recent = [entry for entry in view.waves if entry[0] >= view.wave - MAX_WAVES + 2 or entry[0] < 0]
    for wave, tally in recent:
        name = f"wave {wave + 1}" if wave >= 0 else "to come"
        bar = ProgressBar(total=max(tally.total, 1), completed=tally.executed, width=24)
        note = f"{tally.succeeded} of {tally.total}"
        for state in ("failed", "late", "offered", "shadow"):
            if tally.states.get(state):
                note += f", {tally.states[state]} {'under way' if state == 'offered' else state}"
        note += f", {tally.taken_back} taken back or left out" if tally.taken_back else ""
        waves.add_row("▶" if wave == view.wave and view.state in MOVING else " ", name, bar, note)
    return waves


def _gates(view: "RolloutView") -> Table:
    gates = _table("gate", "", "")
    styles = {"passed": "green", "waits": "cyan", "held": "yellow"}
    for gate in view.gates:
        gates.add_row(gate.name, Text(gate.state, style=styles[gate.state]), gate.detail)
    return gates


def _cohorts(view: "RolloutView") -> Table:
    cohorts = _table("cohort", "vehicles", "succeeded", "failed", "share", "")
    worst = sorted(view.cohorts, key=lambda entry: (-entry[1].failure_share, entry[0]))
    for name, tally in worst[:MAX_VEHICLES]:
        style = "red" if tally.fails(view.spec) else ""
        note = "taken back" if tally.taken_back else ""
        cells = (str(tally.total), str(tally.succeeded), str(tally.failed), f"{tally.failure_share:.1%}", note)
        cohorts.add_row(name, *cells, style=style)
    return cohorts


def _vehicles(view: "RolloutView") -> Table:
    """All of a few; of many those that failed, and of those under way the ones that were offered it first."""
    members = list(view.members)
    table = _table("vehicle", "wave", "state", "says")
    if len(members) > MAX_VEHICLES:
        failed = [m for m in members if m.state == "failed"]
        slow = sorted((m for m in members if m.state == "offered"), key=lambda m: m.offered_at_s or 0.0)
        members = (failed[: MAX_VEHICLES // 2] + slow)[:MAX_VEHICLES]
        table.caption = f"{len(failed)} failed, {len(slow)} under way; the slowest are shown, --json lists all"
    for member in members:
        name = member.state + (", taken back" if member.taken_back else "")
        state = Text(name, style=STYLES.get(member.state, "dim"))
        table.add_row(member.vehicle, str(member.wave + 1) if member.wave >= 0 else "", state, _says(view, member))
    return table


def _says(view: "RolloutView", member: "MemberView") -> str:
    """The vehicle's own word on its way to the release."""
    if member.error is not None:
        return member.error
    words = []
    for slot in [] if member.report is None else member.report.slots.values():
        if slot.task in view.spec.tasks:
            running = "nothing" if slot.running is None else f"runs {slot.running.version}"
            blocks = f" {slot.blocks_done}/{slot.blocks_total} blocks" if slot.state == "fetching" else ""
            waits = f" for {slot.waits_for}" if slot.waits_for else ""
            words.append(running if slot.state == "idle" else f"{running}, {slot.state}{blocks}{waits}")
    return "; ".join(dict.fromkeys(words))


def _tally(tally: "Tally") -> dict[str, Any]:
    states = ("succeeded", "failed", "offered", "late", "shadow", "waiting")
    counted = {state: tally.states.get(state, 0) for state in states}
    return {"size": tally.total, **counted, "taken_back": tally.taken_back, "failure_share": tally.failure_share}


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
