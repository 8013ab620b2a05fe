"""Results of steps in a file, for work that is not a job: started again, it goes on after the last of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from roadloop_cloud.files import write_atomic
from roadloop_models.typed import from_json


class Journal:
    """Steps of one piece of work by their names, in one JSON file."""

    def __init__(self, path: Path, asked: Any) -> None:
        """`asked` (JSON) is what the work is: a file of other work is not gone on with."""
        self._path = path
        self._asked: Any = from_json(msgspec.json.encode(asked), Any)  # as the file has it: lists for tuples
        self._steps: dict[str, Any] = {}
        if path.exists():
            found: Any = from_json(path.read_bytes(), Any)
            if found["asked"] == self._asked:
                self._steps = found["steps"]

    def step(self, name: str, function: Callable[[], Any]) -> Any:
        """The result of a step: from the file, or computed now and written there."""
        if name not in self._steps:
            self._steps[name] = function()
            write_atomic(self._path, msgspec.json.encode({"asked": self._asked, "steps": self._steps}))
        return self._steps[name]
