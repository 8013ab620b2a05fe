"""Evaluations that a workspace keeps: figures, rows, the verdict, and what explains the model, by task and version."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from roadloop_cloud.files import copy_atomic, write_atomic
from roadloop_cloud.gate.figures import VariantFigures, Verdict
from roadloop_models.errors import DataError
from roadloop_models.typed import from_json

RECORD_FILE = "evaluation.json"
ROWS_FOLDER = "rows"


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one evaluated version."""

    task: str
    version: str
    data: str
    """The data folder whose test rows judged it."""
    incumbent: str | None
    """What it was judged against."""
    figures: dict[str, VariantFigures]
    verdict: Verdict | None = None


@dataclass(frozen=True)
class Records:
    """The folder `evaluations/` of a workspace."""

    folder: Path

    def of(self, task: str, version: str) -> Path:
        """Where one version's evaluation lies, or would."""
        return self.folder / task / version

    def keep(self, record: Record, rows: Path) -> Path:
        """Keep a record and the files that `examine` left in `rows`; a newer one replaces it. Returns its folder."""
        target = self.of(record.task, record.version)
        for key in record.figures:
            copy_atomic(rows / f"{key}.npz", target / ROWS_FOLDER / f"{key}.npz")
        raw: Any = msgspec.json.format(msgspec.json.encode(record, order="deterministic"), indent=1)
        write_atomic(target / RECORD_FILE, raw + b"\n")
        return target

    def read(self, task: str, version: str) -> Record | None:
        """One version's record; None where it was never evaluated here. Raises DataError where it is damaged."""
        path = self.of(task, version) / RECORD_FILE
        if not path.exists():
            return None
        try:
            return from_json(path.read_bytes(), Record)
        except msgspec.DecodeError as error:
            raise DataError(f"{path}: {error}; evaluate {task} {version} again") from error
