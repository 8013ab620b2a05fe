"""How vehicles do, counted by cohort: those of one hardware and profile that ran the same version before."""

from collections import Counter
from collections.abc import Iterable, Mapping

import msgspec

from roadloop_cloud.rollout.members import Member, MemberState
from roadloop_cloud.rollout.spec import RolloutSpec

ALL_STATES: tuple[MemberState, ...] = ("waiting", "shadow", "offered", "late", "succeeded", "failed")


def cohort_of(hardware: str, profile: str, previous: Iterable[str]) -> str:
    """The name of a vehicle's cohort; `previous` are the versions that it runs now."""
    return " | ".join((hardware, profile, "+".join(sorted(set(previous))) or "nothing"))[:400]


class Tally(msgspec.Struct, frozen=True):
    """How many of some vehicles are in each state, and how many of them were taken back or left out."""

    states: Mapping[str, int]
    taken_back: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self.states.values())

    @property
    def succeeded(self) -> int:
        """Those that run the release and want nothing else."""
        return self.states.get("succeeded", 0)

    @property
    def failed(self) -> int:
        """Those that took it back, refused it or did not finish in time."""
        return self.states.get("failed", 0)

    @property
    def executed(self) -> int:
        """Those that finished either way."""
        return self.succeeded + self.failed

    @property
    def failure_share(self) -> float:
        """Of those that finished."""
        return self.failed / self.executed if self.executed else 0.0

    def fails(self, spec: RolloutSpec) -> bool:
        """Whether enough have finished, and too many of them badly."""
        return self.executed >= spec.min_executed and self.failed > spec.error_threshold * self.executed


class Counts:
    """All members counted once; every question about waves and cohorts is answered from these few numbers."""

    def __init__(self, members: Iterable[Member]) -> None:
        """One pass over the members."""
        self._cells = Counter((m.wave, m.cohort, m.taken_back, m.state) for m in members)

    @property
    def waves(self) -> list[int]:
        """The waves that have members, in their order."""
        return sorted({wave for wave, *_ in self._cells})

    def of(self, *, wave: int | None = None, cohort: str | None = None, remaining: bool = False) -> Tally:
        """The tally of a wave, a cohort or all; with `remaining` without those that were taken back."""
        states: Counter[str] = Counter()
        taken_back = 0
        for (in_wave, in_cohort, out, state), number in self._cells.items():
            if (wave is None or in_wave == wave) and (cohort is None or in_cohort == cohort):
                if out:
                    taken_back += number
                if not (out and remaining):
                    states[state] += number
        return Tally(states, taken_back)

    def cohorts(self, *, remaining: bool = False) -> dict[str, Tally]:
        """Every cohort's tally; with `remaining` only of those that were not taken back."""
        names = sorted({cohort for _, cohort, out, _ in self._cells if not (out and remaining)})
        return {name: self.of(cohort=name, remaining=remaining) for name in names}

    def number(self, *states: MemberState) -> int:
        """How many are in one of these states, those that were taken back left out."""
        return sum(count for (_, _, out, state), count in self._cells.items() if not out and state in states)
