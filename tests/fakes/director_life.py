"""The life of a director's client: three assignments, one after the other. For tests/crash_points.py."""

import mmap
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from tuf.api.exceptions import DownloadHTTPError

from roadloop_agent.update.director import Director
from roadloop_agent.update.refused import MetadataError
from roadloop_agent.update.trusted_time import TrustedTime
from roadloop_models.contract.messages import Desired, ReleaseRef
from tests.fakes.director import FakeDirector
from tests.fakes.repository import VAN, utc_now

ASSIGNMENTS = 3
REF = ReleaseRef(task="traffic-sign", release=2, version="v2", manifest_sha256="2" * 64)


class Answers:
    """What the director had to say at each assignment; the same for all lives in a folder."""

    _made: dict[Path, "Answers"] = {}  # noqa: RUF012 (lives are made anew from their folder's name)

    def __init__(self) -> None:
        self.director = FakeDirector(utc_now())
        self.at: list[dict[str, bytes]] = []
        for version in range(1, ASSIGNMENTS + 1):
            self.director.assign(VAN, Desired(version=version, slots={"sign": REF}), lambda ref: 1)
            self.at.append({**self.director.roots, **self.director.seats[VAN].files})

    @classmethod
    def of(cls, directory: Path) -> "Answers":
        """Those of a folder."""
        return cls._made.setdefault(directory, cls())


class Step:
    """How many assignments were verified, also seen from outside of the process that did it."""

    def __init__(self) -> None:
        self._shared = mmap.mmap(-1, 1)

    def __call__(self, step: int) -> None:
        self._shared[0] = step

    @property
    def allowed(self) -> frozenset[int]:
        """What may be the newest that is remembered; the next one may have been written already."""
        return frozenset({self._shared[0], self._shared[0] + 1})


class Asking:
    """See the module."""

    def __init__(self, directory: Path, state: Path) -> None:
        self.directory, self.state = directory, state
        self.reached = Step()
        self._answers = Answers.of(directory)
        self._now = 0

    @staticmethod
    def make(directory: Path) -> None:
        """The provisioning folder."""
        (directory / "trust" / "director").mkdir(parents=True)
        root = Answers.of(directory).director.root.to_bytes()
        (directory / "trust" / "director" / "root.json").write_bytes(root)

    def live(self) -> None:
        """Three assignments, and a start of the agent before each."""
        for number in range(1, ASSIGNMENTS + 1):
            self._ask(number)
            self.reached(number)

    def check(self, allowed: frozenset[int]) -> None:
        """What was verified before is refused when it is replayed, and the newest is taken."""
        for replayed in range(1, min(allowed)):
            with suppress(MetadataError):
                self._ask(replayed)
                raise AssertionError(f"assignment {replayed} is taken after {min(allowed)}")
        assert self._ask(ASSIGNMENTS) == ASSIGNMENTS

    def download_bytes(self, url: str, max_length: int) -> bytes:
        """A fetcher."""
        if url.startswith("director/time/"):
            return self._answers.director.time_statement(VAN, url.rpartition("/")[2])
        try:
            return self._answers.at[self._now - 1][url]
        except KeyError:
            raise DownloadHTTPError(url, 404) from None

    def _ask(self, number: int) -> int:
        self._now = number
        time = TrustedTime(lambda: datetime.now(UTC), lambda: 0.0)
        return Director(self.state, self.directory / "trust", VAN, self, time).refresh().counter
