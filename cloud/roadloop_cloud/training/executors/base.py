"""What an executor has to say: which command starts a run's processes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Launch:
    """One start of one run."""

    spec: Path
    target: Path
    """The bundle's directory."""
    result: Path
    """The result file that the first worker writes."""
    workers: int
    threads: int
    token: str
    """Another one for every start."""

    @property
    def files(self) -> list[str]:
        """The arguments of a worker."""
        return [str(path) for path in (self.spec, self.target, self.result)]


class Executor(Protocol):
    """Turns a launch into one command, whose process stands for all workers.

    It writes progress to standard output, one JSON object a line, and ends its workers on SIGINT and when its standard
    input ends: then nobody waits for the result any more. Where there are several, it starts them anew when one dies.
    """

    def command(self, launch: Launch) -> list[str]:
        """Program and arguments. Raises ConfigError, RuntimeMissingError where it cannot run this."""

    def environment(self, launch: Launch) -> dict[str, str]:
        """What the command needs in its environment."""
