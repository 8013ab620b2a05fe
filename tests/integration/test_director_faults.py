"""Faults at every call of the system that the director's client makes: it forgets nothing, and can always ask again."""

import errno
import os
import shutil
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from roadloop_agent.update.refused import MetadataError
from roadloop_models.errors import RetryLaterError
from tests import crash_points
from tests.crash_points import Bench
from tests.fakes.director_life import Asking
from tests.fakes.injection import hooked, killed_at
from tests.fakes.repository import VAN, utc_now
from tests.fakes.staged_vehicle import StagedVehicle

pytestmark = pytest.mark.usefixtures("fast_disk")

CALLS_AT_LEAST = 20


class Told:
    """A vehicle that has verified its second assignment, and is about to be told a third."""

    def __init__(self, directory: Path) -> None:
        self.vehicle = StagedVehicle(directory, utc_now())
        self.vehicle.obliging = False
        self.vehicle.assign(self.vehicle.first)
        seat = self.vehicle.repository.director.seats[VAN]
        self.oldest = dict(seat.files)
        self.vehicle.assign(self.vehicle.second)
        self.vehicle.director.refresh()
        self.memory = directory / "state" / "director"
        self.before = directory / "before"
        shutil.copytree(self.memory, self.before)
        self.vehicle.assign(self.vehicle.second)
        self.newest = dict(seat.files)

    def again(self) -> None:
        """As it was before the third; a new start of the agent."""
        shutil.rmtree(self.memory, ignore_errors=True)
        shutil.copytree(self.before, self.memory)
        self.restart()

    def restart(self) -> None:
        """A new start of the agent."""
        self.vehicle.restart()
        self.vehicle.repository.director.seats[VAN].files = self.newest

    def ask(self) -> None:
        self.vehicle.director.refresh()

    def remembers(self) -> None:
        """The first assignment is refused as a rollback, and the third is taken."""
        self.restart()
        self.vehicle.repository.director.seats[VAN].files = self.oldest
        with pytest.raises(MetadataError, match=r"version|seen before"):
            self.ask()
        self.restart()
        assignment = self.vehicle.director.refresh()
        assert assignment.counter == 3
        assignment.allows("sign", self.vehicle.second)


@pytest.fixture
def told(tmp_path: Path) -> Told:
    return Told(tmp_path)


def calls(told: Told) -> list[tuple[str, tuple[Any, ...]]]:
    """What the client calls, in order."""
    made: list[tuple[str, tuple[Any, ...]]] = []
    told.again()
    with hooked(lambda number, name, when, args: made.append((name, args)) if when == "before" else None):
        told.ask()
    assert len(made) >= CALLS_AT_LEAST
    return made


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_kill_at_any_call(told: Told, moment: str) -> None:
    points = 0
    for number in range(1, len(calls(told)) + 1):
        told.again()
        if killed_at(number, moment, told.ask):  # nothing comes after a call that fails by itself
            points += 1
            told.remembers()
    assert points >= CALLS_AT_LEAST


def test_a_write_that_is_torn_by_a_kill(told: Told) -> None:
    real, torn = os.write, 0
    for number, (name, _) in enumerate(calls(told), 1):
        if name != "write":
            continue
        told.again()

        def tear(at: int, called: str, when: str, args: tuple[Any, ...], number: int = number) -> None:
            if (at, when) == (number, "before"):
                real(args[0], bytes(args[1])[: len(args[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)

        child = os.fork()
        if child == 0:
            with hooked(tear):
                told.ask()
            os._exit(0)
        assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
        told.remembers()
        torn += 1
    assert torn >= 2, "both files"


@pytest.mark.parametrize("number_of_error", [errno.ENOSPC, errno.EIO])
def test_an_error_at_any_call_is_for_later(told: Told, number_of_error: int) -> None:
    for number in range(1, len(calls(told)) + 1):
        told.again()

        def fail(at: int, name: str, when: str, args: tuple[Any, ...], number: int = number) -> None:
            if (at, when) == (number, "before"):
                raise OSError(number_of_error, os.strerror(number_of_error))

        # Or it goes on without: a file that need not be removed, one that is fetched again.
        with hooked(fail), suppress(RetryLaterError):
            told.ask()
        told.remembers()


@pytest.mark.parametrize("name", ["metadata.json", "floor.json"])
def test_a_bit_that_flips_in_one_of_the_files(told: Told, name: str) -> None:
    size_bytes = (told.before / name).stat().st_size
    for place in range(0, size_bytes, max(1, size_bytes // 60)):
        told.again()
        path = told.memory / name
        content = bytearray(path.read_bytes())
        content[place] ^= 1 << (place % 8)
        path.write_bytes(content)
        told.remembers()


@pytest.mark.parametrize("name", ["metadata.json", "floor.json"])
@pytest.mark.parametrize("damage", ["emptied", "gone", "unreadable"])
def test_one_of_the_files_is_lost(told: Told, name: str, damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    told.again()
    path = told.memory / name
    if damage == "unreadable":
        real = Path.read_bytes

        def read_bytes(self: Path) -> bytes:
            if self == path:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return real(self)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "read_bytes", read_bytes)
            told.remembers()
    elif damage == "gone":
        path.unlink()
    else:
        path.write_bytes(b"")
    told.remembers()


@pytest.mark.slow
def test_power_loss_forgets_nothing_that_was_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # here the disk is waited for
    if (reason := crash_points.no_loop_disk()) is not None:
        pytest.skip(reason)
    assert crash_points.power_cuts(Bench.made(Asking, tmp_path), 5) > 10
