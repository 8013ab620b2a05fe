"""Labels to and from the tools that people label with: one module a format."""

import difflib

from roadloop_cloud.labels.exchange.base import Asked, Format, Heard, Kind, Sheet
from roadloop_cloud.labels.exchange.csv_file import CsvFormat
from roadloop_cloud.labels.exchange.cvat import CvatFormat
from roadloop_cloud.labels.exchange.label_studio import LabelStudioFormat
from roadloop_models.errors import NotFoundError

FORMATS: dict[str, Format] = {"csv": CsvFormat(), "cvat": CvatFormat(), "label-studio": LabelStudioFormat()}


def get_format(name: str) -> Format:
    """The format of that name. Raises NotFoundError with the nearest known one."""
    try:
        return FORMATS[name]
    except KeyError:
        nearest = difflib.get_close_matches(name, FORMATS, n=1) or list(FORMATS)
        raise NotFoundError(f"no format '{name}'; did you mean {' or '.join(nearest)}?") from None


__all__ = ["FORMATS", "Asked", "Format", "Heard", "Kind", "Sheet", "get_format"]
