"""What a vehicle's hardware profile leaves to a model: how long an inference may take, how large its file may be."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from roadloop_cloud.gate.figures import GateResult


@dataclass(frozen=True)
class Budget:
    """The tightest that any profile has for one variant of a task."""

    latency_ms: float
    latency_of: str
    """Profile and slot."""
    size_bytes: int | None = None
    size_of: str = ""


def read_budgets(task: str, profiles: Mapping[str, str]) -> dict[str, Budget]:
    """Variant key -> budget, from the texts of profiles by their names; variants that no slot runs have none.

    `max_latency_ms` and `max_model_bytes` of a slot; without the former a frame's time (by `rate_hz`) or age
    (`deadline_ms`): what takes longer cannot keep up.
    """
    found: dict[str, Budget] = {}
    for profile, text in profiles.items():
        for name, slot in tomllib.loads(text).get("slots", {}).items():
            if isinstance(slot, dict) and slot.get("task") == task:
                key = f"{slot.get('runtime')}-{slot.get('precision', 'int8')}"
                place = f"{profile}, slot {name}"
                found[key] = _tighter(found.get(key), Budget(_latency_ms(slot), place, *_size(slot, place)))
    return found


def judge_budget(key: str, budget: Budget, latency_us: float, size_bytes: int) -> list[GateResult]:
    """Latency is measured on this machine: a vehicle checks it once more on its own, before it switches."""
    gates = [
        GateResult(
            gate=f"latency-budget {key}",
            passed=latency_us <= 1000 * budget.latency_ms,
            detail=f"{latency_us:.0f} us here; {budget.latency_of}: at most {1000 * budget.latency_ms:.0f}",
        )
    ]
    if budget.size_bytes is not None:
        gates.append(
            GateResult(
                gate=f"size-budget {key}",
                passed=size_bytes <= budget.size_bytes,
                detail=f"{size_bytes:,} bytes; {budget.size_of}: at most {budget.size_bytes:,}",
            )
        )
    return gates


def _latency_ms(slot: Mapping[str, Any]) -> float:
    if "max_latency_ms" in slot:
        return float(slot["max_latency_ms"])
    rate_hz = float(slot.get("rate_hz") or 0.0)
    period_ms = 1000.0 / rate_hz if rate_hz > 0 else float("inf")
    return min(period_ms, float(slot.get("deadline_ms") or "inf"))


def _size(slot: Mapping[str, Any], place: str) -> tuple[int | None, str]:
    return (int(slot["max_model_bytes"]), place) if "max_model_bytes" in slot else (None, "")


def _tighter(known: Budget | None, other: Budget) -> Budget:
    if known is None:
        return other
    quick = min(known, other, key=lambda budget: budget.latency_ms)
    small = min(known, other, key=lambda budget: float("inf") if budget.size_bytes is None else budget.size_bytes)
    return Budget(quick.latency_ms, quick.latency_of, small.size_bytes, small.size_of)
