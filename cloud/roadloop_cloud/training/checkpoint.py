"""Where a training run stands after an epoch: one npz file, never a pickle, replaced as a whole."""

import errno
import io
import json
import time
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from roadloop_cloud.files import write_atomic
from roadloop_models.errors import DiskFullError

_FACTS = "facts"


@dataclass(frozen=True)
class Saved:
    """What has to be known to go on: tensors by name, and plain values."""

    tensors: Mapping[str, torch.Tensor]
    facts: Mapping[str, Any]
    """JSON; floats come back as they were, bit by bit."""


class Checkpoints:
    """The checkpoint file of one stage of one run."""

    def __init__(
        self, path: Path, fingerprint: str, every_s: float = 0.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`fingerprint` is of all that decides how the run goes: a file with another one is of another run.

        A file is written at most every `every_s` seconds, so that short epochs do not wait for the disk.
        """
        self._path, self._fingerprint = path, fingerprint
        self._every_s, self._clock = every_s, clock
        self._written_s: float | None = None

    def load(self) -> Saved | None:
        """What was saved last; None where there is nothing, or only what another run left or a disk spoiled."""
        try:
            with np.load(self._path, allow_pickle=False) as archive:
                facts = json.loads(archive[_FACTS].tobytes())
                if facts.pop("fingerprint", None) != self._fingerprint:
                    return None
                tensors = {name: torch.from_numpy(archive[name]) for name in archive.files if name != _FACTS}
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
            return None
        return Saved(tensors, facts)

    def save(self, make: Callable[[], Saved], *, last: bool) -> None:
        """Write what `make` gives, where it is time or nothing more will come. Raises DiskFullError."""
        now_s = self._clock()
        if not last and self._written_s is not None and now_s - self._written_s < self._every_s:
            return
        saved = make()
        facts = json.dumps({**saved.facts, "fingerprint": self._fingerprint}).encode()
        arrays = {name: tensor.numpy() for name, tensor in saved.tensors.items()}
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **arrays, **{_FACTS: np.frombuffer(facts, np.uint8)})
        try:
            write_atomic(self._path, buffer.getvalue())
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise DiskFullError(f"{self._path}: no room for a checkpoint of {buffer.tell():,} bytes") from error
        self._written_s = self._clock()
