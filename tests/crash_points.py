"""Crash points of the store that updates write, tried one by one: `python -m tests.crash_points` prints the table.

Each life goes through two updates, one kept and one taken back. It is killed, torn, or refused by the disk at one
call, or loses a bit afterwards, or its disk loses power; then the vehicle starts, and must run the old release or the
new one, in both slots the same where they go together, and must take the next update.
"""

import errno
import logging
import mmap
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from unittest import mock

from roadloop_agent.update.state import Ended
from roadloop_models.errors import RoadloopError
from tests.fakes import provisioned, provisioned_pair
from tests.fakes.director_life import Asking, Step
from tests.fakes.injection import failing_at, flip_bit, hooked, killed_at, torn_at

MOST_CALLS = 2000
IMAGE_BYTES = 16 << 20


ANY = frozenset({1, 2, 3})
OLD_OR_NEW = tuple(map(frozenset, ({1}, {1}, {1, 2}, {1, 2}, {2}, {2, 3}, {2, 3}, {2}, {2})))
"""Which releases may run once a life has reached that step."""


class Reached:
    """The step that a life has reached, also seen from outside of the process that lives it."""

    def __init__(self) -> None:
        self._shared = mmap.mmap(-1, 1)

    def __call__(self, step: int) -> None:
        """It has got so far."""
        self._shared[0] = step

    @property
    def allowed(self) -> frozenset[int]:
        """What may run now: the next step may have been taken already, though it did not come to its end."""
        step = self._shared[0]
        return OLD_OR_NEW[step] | OLD_OR_NEW[min(step + 1, len(OLD_OR_NEW) - 1)]


class Life(Protocol):
    """One vehicle's life in a folder of its own."""

    state: Path

    @property
    def reached(self) -> Reached | Step:
        """How far it has got."""

    def live(self) -> None:
        """Two updates."""

    def check(self, allowed: frozenset[int]) -> None:
        """It runs one of these releases, also with the trial taken back, and takes the next update.

        Raises AssertionError.
        """


class Single:
    """One slot."""

    def __init__(self, directory: Path, state: Path) -> None:
        self.vehicle = provisioned.Vehicle(directory, state)
        self.state = state
        self.reached = Reached()

    @staticmethod
    def make(directory: Path) -> None:
        """The provisioning folder."""
        provisioned.Vehicle.made(directory)

    def live(self) -> None:
        """Two updates."""
        provisioned.life(self.vehicle, self.reached)

    def check(self, allowed: frozenset[int]) -> None:
        """See Life."""
        vehicle = self.vehicle
        store = vehicle.provisioned()
        assert provisioned.started(store) in allowed
        trial = store.slot(provisioned.SLOT).trial
        if trial is not None:
            vehicle.take_back(store, trial.release, None)
        assert provisioned.started(store) in allowed
        vehicle.begin(store, 3)
        assert vehicle.confirm(store, 3).confirmed == vehicle.ref(3)
        store.collect_garbage()
        assert provisioned.started(store) == 3


class Together:
    """Two slots that switch together."""

    def __init__(self, directory: Path, state: Path) -> None:
        self.pair = provisioned_pair.Pair(directory, state)
        self.state = state
        self.reached = Reached()

    @staticmethod
    def make(directory: Path) -> None:
        """The provisioning folder."""
        provisioned_pair.Pair.made(directory)

    def live(self) -> None:
        """Two updates."""
        provisioned_pair.life(self.pair, self.reached)

    def check(self, allowed: frozenset[int]) -> None:
        """See Life; `start` asserts that both slots run the same release."""
        store = self.pair.provisioned()
        assert provisioned_pair.start(store) in allowed
        states = store.read().slots
        store.take_back({slot: Ended(state.trial) for slot, state in states.items() if state.trial})
        assert provisioned_pair.start(store) in allowed
        self.pair.begin(store, 3)
        store.confirm(self.pair.refs(3))
        store.collect_garbage()
        assert provisioned_pair.start(store) == 3


Kind = type[Single] | type[Together] | type[Asking]
KINDS: dict[str, Kind] = {"one slot": Single, "two slots together": Together}
DIRECTOR: dict[str, Kind] = {"director's client": Asking}


@dataclass(frozen=True)
class Bench:
    """Where lives are lived: a provisioning folder, and a fresh state folder for each."""

    kind: Kind
    directory: Path

    @classmethod
    def made(cls, kind: Kind, directory: Path) -> "Bench":
        """With its provisioning folder."""
        directory.mkdir(parents=True, exist_ok=True)
        kind.make(directory)
        return cls(kind, directory)

    @contextmanager
    def fresh(self, name: str) -> Iterator[Life]:
        """A life that has not begun; its folder is gone afterwards."""
        life = self.kind(self.directory, self.directory / "points" / name / "store")
        yield life
        shutil.rmtree(life.state.parent, ignore_errors=True)


def kills(bench: Bench, stride: int = 1) -> int:
    """SIGKILL before and after every call; how many points were tried."""
    points = 0
    for number in range(1, MOST_CALLS, stride):
        dead = {}
        for moment in ("before", "after"):
            with bench.fresh(f"kill-{number}-{moment}") as life:
                dead[moment] = killed_at(number, moment, life.live)
                if dead[moment]:
                    points += 1
                    life.check(life.reached.allowed)
        if not dead["before"]:
            return points
    raise AssertionError(f"the life takes more than {MOST_CALLS} calls")


def torn_writes(bench: Bench, stride: int = 1) -> int:
    """Half of a write, and no more of it; how many points were tried."""
    for number in range(1, MOST_CALLS, stride):
        with bench.fresh(f"torn-{number}") as life:
            if not torn_at(number, life.live):
                return len(range(1, number, stride))
            life.check(life.reached.allowed)
    raise AssertionError(f"the life takes more than {MOST_CALLS} writes")


def disk_errors(bench: Bench, code: int, *, once: bool, stride: int = 1) -> int:
    """The disk refuses at a call (or from it on); the life may end there, with an error of the catalogue."""
    points = 0
    for number in range(1, MOST_CALLS, stride):
        with bench.fresh(f"disk-{code}-{number}") as life:
            with failing_at(number, code, once=once) as failed:
                try:
                    life.live()
                except RoadloopError:
                    assert failed, "nothing failed, and yet the life did not end well"
            if not failed:
                return points
            points += 1
            life.check(life.reached.allowed)
    raise AssertionError(f"the life takes more than {MOST_CALLS} calls")


def flipped_bits(bench: Bench, flips: int, seed: int = 7) -> int:
    """One bit of one file turns round at the end of a life, in the middle or at its end; how many were tried."""
    chance = random.Random(seed)
    for number in range(flips):
        with bench.fresh(f"flip-{number}") as life:
            killed_at(chance.randrange(20, 200), "before", life.live)
            files = [path for path in sorted(life.state.rglob("*")) if path.is_file() and path.stat().st_size]
            if files:
                flip_bit(chance.choice(files), chance)
            life.check(ANY)  # a damaged version gives way to the one before it, and that to the first
    return flips


# Power cuts.


def no_loop_disk() -> str | None:
    """Why a disk cannot be loop-mounted here; None where it can."""
    if os.geteuid() != 0:
        return "only root may mount a disk"
    for program in ("mkfs.ext4", "mount", "umount", "e2fsck"):
        if shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None:
            return f"there is no {program}"
    found = subprocess.run([_program("losetup"), "-f"], capture_output=True, text=True, check=False)
    return None if found.returncode == 0 else f"no loop device: {found.stderr.strip()}"


def power_cuts(bench: Bench, stride: int = 1) -> int:
    """The disk as it is at every call, without what was not yet written to it; how many were tried.

    The life is lived once on a loop-mounted ext4; at each call the image is copied, as a power cut would leave it. Each
    copy is then repaired and mounted, and the vehicle starts from it.
    """
    folder = bench.directory / "power"
    image, mount = folder / "disk.img", folder / "mnt"
    mount.mkdir(parents=True)
    _make_image(image)
    copies: list[tuple[Path, frozenset[int]]] = []

    def hook(number: int, name: str, when: str, args: tuple[Any, ...]) -> None:
        if when == "after" and number % stride == 0:
            copies.append((folder / f"cut-{number}.img", life.reached.allowed))
            _run("cp", "--sparse=always", str(image), str(copies[-1][0]))

    life = bench.kind(bench.directory, mount / "store")
    with _mounted(image, mount), hooked(hook):
        life.live()
    for copy, allowed in copies:
        repaired = subprocess.run([_program("e2fsck"), "-fy", str(copy)], capture_output=True, check=False)
        assert repaired.returncode in (0, 1), repaired.stdout
        with _mounted(copy, mount):
            bench.kind(bench.directory, mount / "store").check(allowed)
        copy.unlink()
    return len(copies)


def _make_image(image: Path) -> None:
    with image.open("wb") as file:
        file.truncate(IMAGE_BYTES)
    _run("mkfs.ext4", "-q", "-F", "-b", "1024", str(image))


@contextmanager
def _mounted(image: Path, mount: Path) -> Iterator[None]:
    _run("mount", "-o", "loop", str(image), str(mount))
    try:
        yield
    finally:
        _run("umount", str(mount))


def _program(name: str) -> str:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") or name


def _run(program: str, *arguments: str) -> None:
    subprocess.run([_program(program), *arguments], check=True, capture_output=True)


TRIALS: dict[str, Callable[[Bench, int], int]] = {
    "SIGKILL before and after a call": kills,
    "a torn write": torn_writes,
    "ENOSPC from a call on": lambda bench, stride: disk_errors(bench, errno.ENOSPC, once=False, stride=stride),
    "EIO at a call": lambda bench, stride: disk_errors(bench, errno.EIO, once=True, stride=stride),
    "EIO from a call on": lambda bench, stride: disk_errors(bench, errno.EIO, once=False, stride=stride),
    "a bit flip in a file": lambda bench, stride: flipped_bits(bench, 200 // stride),
}


def main() -> int:
    """Try everything and print how much that was; the first point that does not hold is an error."""
    logging.disable(logging.CRITICAL)  # every fault is noted; here they are made
    sys.stdout.write(f"{'what happens':36}{'to':24}{'points':>8}{'broken':>8}\n")
    for kind_name, kind in {**KINDS, **DIRECTOR}.items():
        for name, trial in TRIALS.items():
            with tempfile.TemporaryDirectory() as folder, mock.patch.object(os, "fsync", os.fstat):
                points = trial(Bench.made(kind, Path(folder)), 1)
            sys.stdout.write(f"{name:36}{kind_name:24}{points:8}{0:8}\n")
        reason = no_loop_disk()
        if reason is not None:
            sys.stdout.write(f"{'power loss on ext4':36}{kind_name:24} not tried: {reason}\n")
            continue
        with tempfile.TemporaryDirectory() as folder:
            points = power_cuts(Bench.made(kind, Path(folder)))
        sys.stdout.write(f"{'power loss on ext4':36}{kind_name:24}{points:8}{0:8}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
