"""The labels of a model's classes, and other small text files that a person gives."""

from pathlib import Path

from roadloop_cloud.importing.request import CLASSIFIER_TASKS
from roadloop_models.errors import ConfigError, DataError

MAX_LABELS = 10_000
MAX_TEXT_BYTES = 1 << 20


def read_labels(path: Path | None, task: str) -> tuple[str, ...]:
    """One label a line. Of a task with fixed classes they must be those, in that order.

    Raises ConfigError where they are missing, DataError naming the line.
    """
    fixed = CLASSIFIER_TASKS.get(task)
    if path is None:
        if fixed is None:
            raise ConfigError("--labels FILE is needed: one label a line, in the order of the model's classes")
        return fixed
    try:
        labels = tuple(line.strip() for line in read_bounded(path).decode().splitlines())
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8: {error}") from error
    while labels and not labels[-1]:
        labels = labels[:-1]
    if not 1 <= len(labels) <= MAX_LABELS or not all(labels):
        raise DataError(f"{path}: expected 1 to {MAX_LABELS} labels, one a line and none of them empty")
    if fixed is not None and labels != fixed:
        line = next((at for at, pair in enumerate(zip(labels, fixed, strict=False)) if pair[0] != pair[1]), len(labels))
        raise DataError(
            f"{path}: line {line + 1}: the classes of {task} are fixed, {len(fixed)} of them, and this one is "
            f"'{fixed[min(line, len(fixed) - 1)]}'; a model with other classes is another task"
        )
    return labels


def read_bounded(path: Path, limit_bytes: int = MAX_TEXT_BYTES) -> bytes:
    """The content of a small file. Raises DataError where it is missing or larger."""
    try:
        with path.open("rb") as file:
            content = file.read(limit_bytes + 1)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    if len(content) > limit_bytes:
        raise DataError(f"{path}: larger than {limit_bytes} bytes")
    return content
