"""What every part of the figures of learning is given."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Context:
    """`data` is the folder of real data, None where ROADLOOP_DATA names none; `full` trains what ships again, in `keep`
    if there is such a folder, where it stays.
    """

    data: Path | None
    full: bool = False
    keep: Path | None = None
