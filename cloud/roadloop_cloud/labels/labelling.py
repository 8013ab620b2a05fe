"""People and their labels: which captured items they are asked about, in which order, and what they answer."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from roadloop_cloud.captures import (
    IMAGE_SUFFIXES,
    Captured,
    Captures,
    DamagedError,
    Decision,
    decode_image,
    read_content,
)
from roadloop_cloud.labels.exchange import Asked, Format, Heard, Kind, Sheet
from roadloop_cloud.labels.exchange.base import IMAGES, image_name
from roadloop_cloud.labels.service import Labels
from roadloop_cloud.labels.words import WEATHERS, BoxesValue, ClassValue, Word
from roadloop_models.errors import ConflictError, DataError, NotFoundError

KINDS: dict[str, Kind] = {"traffic-sign": "class", "object-detection": "boxes"}
"""Task -> how a person labels its captured items."""
SHOWN_UNKNOWN = 5


@dataclass(frozen=True)
class Exported:
    """What a person is asked."""

    file: Path
    items: int
    left_out: Mapping[str, int]
    """Reason -> items."""


@dataclass(frozen=True)
class Imported:
    """What came of a file of answers."""

    new: int
    known: int
    """Had been said by the same person before."""
    unknown: tuple[str, ...]
    """Items that nobody captured for this task; nothing is kept of them."""


class Labelling:
    """Application service: questions out, answers in."""

    def __init__(
        self,
        labels: Labels,
        captures: Captures,
        classes: Callable[[str], tuple[str, ...]],
        quarantined: Callable[[], Collection[str]],
    ) -> None:
        """`classes`: the names that a task's labels may have; `quarantined`: vehicles whose items nobody is asked."""
        self._labels = labels
        self._captures = captures
        self._classes = classes
        self._quarantined = quarantined

    def ask(self, task: str, form: Format, folder: Path, limit: int | None = None, again: bool = False) -> Exported:
        """Write the most doubtful items into a new folder for a tool; with `again` those that a person labelled too.

        Doubt is what a teacher gives to other answers than the vehicle's; where no teacher looked, what the vehicle
        itself left to other answers. Raises NotFoundError (no such task), ConflictError (the folder holds something).
        """
        kind = kind_of(task)
        if folder.exists() and any(folder.iterdir()):
            raise ConflictError(f"{folder}: is not empty; export into a new folder")
        words = self._labels.words(task)
        answered = {word.item for word in words if word.origin == "person"}
        suggested = {word.item: word for word in words if word.origin == "teacher"}
        suggested |= {item: verdict.word for item, verdict in self._labels.verdicts(task).items()}
        doubts = {word.item: word.disagreement for word in words if word.disagreement is not None}
        left_out: dict[str, int] = {}
        open_items, quarantined, seen = [], set(self._quarantined()), set()
        for item in self._captures.of(task):
            if item.vehicle in quarantined:
                left_out["quarantined"] = left_out.get("quarantined", 0) + 1
            elif item.sha256 not in seen and (again or item.sha256 not in answered):
                seen.add(item.sha256)
                open_items.append(item)
        decisions = self._captures.decisions(open_items)
        open_items.sort(key=lambda item: (-_doubt(item, doubts, decisions), item.sha256))
        classes = self._classes(task)
        (folder / IMAGES).mkdir(parents=True, exist_ok=True)
        asked: list[Asked] = []
        for item in open_items:
            if limit is not None and len(asked) == limit:
                break
            try:
                content = read_content(item)
                height, width = decode_image(item, content).shape[:2]
            except DamagedError as error:
                left_out[error.reason] = left_out.get(error.reason, 0) + 1
                continue
            name = image_name(len(asked), item.sha256, IMAGE_SUFFIXES[item.media_type])
            (folder / IMAGES / name).write_bytes(content)
            word, decision = suggested.get(item.sha256), decisions.get(item.sha256)
            suggestion = word.value if word is not None and isinstance(word.value, ClassValue | BoxesValue) else None
            asked.append(
                Asked(
                    item=item.sha256,
                    image=name,
                    width=width,
                    height=height,
                    suggestion=suggestion,
                    suggested_by=None if word is None else word.by,
                    confidence=None if word is None else word.confidence,
                    disagreement=doubts.get(item.sha256),
                    vehicle=item.vehicle,
                    decision=_decided(decision, classes),
                )
            )
        return Exported(form.write(folder, Sheet(task, kind, classes, asked)), len(asked), left_out)

    def hear(self, task: str, form: Format, path: Path, by: str) -> Imported:
        """Keep what people answered; `by` where the file does not say who. The same file twice changes nothing.

        Raises DataError naming file and place; nothing is kept then.
        """
        heard = form.read(path, kind_of(task))
        classes = self._classes(task)
        words = [_word(task, answer, by, classes) for answer in heard]
        known = {item.sha256 for item in self._captures.of(task)}
        kept = [word for word in words if word.item in known]
        new = self._labels.say(kept)
        unknown = tuple(dict.fromkeys(word.item for word in words if word.item not in known))
        return Imported(new, len(kept) - new, unknown)


def kind_of(task: str) -> Kind:
    """How a task's items are labelled. Raises NotFoundError."""
    try:
        return KINDS[task]
    except KeyError:
        raise NotFoundError(f"no items of '{task}' are labelled by people; those of {', '.join(KINDS)} are") from None


def class_named(name: str, classes: Sequence[str], where: str) -> str:
    """The class of that name or number. Raises DataError."""
    if name in classes:
        return name
    if name.isdecimal() and int(name) < len(classes):
        return classes[int(name)]
    shown = ", ".join(classes[:3])
    raise DataError(f"{where}: label {name!r} is none of the {len(classes)} classes ({shown}, …), by name or number")


def _weather(name: str | None, where: str) -> str | None:
    if name is None or name in WEATHERS:
        return name
    raise DataError(f"{where}: weather {name!r} is none of {', '.join(WEATHERS)}; leave it empty where nobody knows")


def _word(task: str, heard: Heard, by: str, classes: Sequence[str]) -> Word:
    value = heard.value
    if isinstance(value, ClassValue):
        value = ClassValue(
            class_named(value.name, classes, heard.where), value.track, _weather(value.weather, heard.where)
        )
    else:
        for box in value.boxes:
            if box.name not in classes:
                class_named(box.name, classes, heard.where)
    return Word(task, heard.item, value, "person", heard.by or by)


def _doubt(item: Captured, doubts: Mapping[str, float], decisions: Mapping[str, Decision]) -> float:
    decision = decisions.get(item.sha256)
    return doubts.get(item.sha256, 0.0 if decision is None else 1.0 - decision.confidence)


def _decided(decision: Decision | None, classes: Sequence[str]) -> str | None:
    if decision is None:
        return None
    return classes[decision.class_id] if 0 <= decision.class_id < len(classes) else str(decision.class_id)
