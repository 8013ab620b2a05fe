"""A CSV with `sha256,label` and perhaps `track`, `weather` and `by`: for spreadsheets and scripts. Classes only."""

import csv
import io
from pathlib import Path

from roadloop_cloud.labels.exchange.base import Heard, Kind, Sheet, read_bytes, weather_of
from roadloop_cloud.labels.words import ClassValue
from roadloop_models.errors import ConfigError, DataError

FILE = "labels.csv"
_ANSWERED = ("sha256", "label", "track", "weather", "by")
_HEADER = (*_ANSWERED, "image", "vehicle", "decision", "suggestion", "confidence", "disagreement")


class CsvFormat:
    """See the module."""

    def write(self, folder: Path, sheet: Sheet) -> Path:
        """One line an image; the column `label` is empty and waits for a person. Raises ConfigError for boxes."""
        if sheet.kind != "class":
            raise ConfigError(f"--format csv: {sheet.task} is labelled with boxes; use cvat or label-studio")
        path = folder / FILE
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(_HEADER)
            for asked in sheet.asked:
                suggested = asked.suggestion.name if isinstance(asked.suggestion, ClassValue) else None
                told = (asked.vehicle, asked.decision, suggested, asked.confidence, asked.disagreement)
                writer.writerow((asked.item, "", "", "", "", asked.image, *told))
        return path

    def read(self, path: Path, kind: Kind) -> list[Heard]:
        """Lines with a label; those without are passed over. Raises DataError naming file, line and field."""
        if kind != "class":
            raise DataError(f"{path}: a CSV holds classes, no boxes; use cvat or label-studio")
        try:
            text = read_bytes(path).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: {error}") from error
        reader = csv.DictReader(io.StringIO(text))
        if not {"sha256", "label"} <= set(reader.fieldnames or ()):
            raise DataError(f"{path}: columns {reader.fieldnames}, expected sha256,label and perhaps track,weather")
        heard: dict[tuple[str, str | None], Heard] = {}
        for line in reader:
            where = f"{path}: line {reader.line_num}"
            item, label, track, weather, by = ((line.get(name) or "").strip() for name in _ANSWERED)
            if len(item) != 64 or not set(item) <= set("0123456789abcdef"):
                raise DataError(f"{where}: field 'sha256' is {item!r}")
            if not label:
                continue
            found = Heard(item, ClassValue(label, track or None, weather_of(weather)), by or None, where)
            if heard.setdefault((item, found.by), found).value != found.value:
                raise DataError(f"{where}: {item[:12]}… has another label above")
        return list(heard.values())
