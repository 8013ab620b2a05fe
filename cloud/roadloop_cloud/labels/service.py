"""The labels of a workspace: said, counted, and what of them counts."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice

import msgspec
from sqlalchemy import distinct, func, or_, select
from sqlalchemy.orm import Session

from roadloop_cloud.labels.words import TEACHER_ABOVE, Origin, Value, Verdict, Word, judge
from roadloop_cloud.store.database import Database, now_utc
from roadloop_cloud.store.label_tables import Label
from roadloop_models.errors import DataError
from roadloop_models.typed import from_builtins

_CHUNK = 500
"""Words that are written in one transaction; databases bound the number of a statement's parameters."""


@dataclass(frozen=True)
class Counted:
    """How many items one speaker has labelled."""

    task: str
    origin: str
    by: str
    items: int
    last: datetime


class Labels:
    """Application service on the table of labels."""

    def __init__(self, database: Database, now: Callable[[], datetime] = now_utc) -> None:
        """`now`: wall time, for the record."""
        self._database = database
        self._now = now

    def say(self, words: Iterable[Word]) -> int:
        """Keep words; returns how many were new. What a speaker has said last already is not written again, so this
        may be repeated after a kill at any point."""
        stored = 0
        remaining = iter(words)
        while chunk := list(islice(remaining, _CHUNK)):
            with self._database.transaction() as session:
                stored += self._say(session, chunk)
        return stored

    def words(self, task: str, since: datetime | None = None) -> list[Word]:
        """All that was said for a task, or since then, in order. Raises DataError where a row does not read."""
        query = select(Label).where(Label.task == task).order_by(Label.id)
        with self._database.reading() as session:
            rows = session.scalars(query if since is None else query.where(Label.at > since)).all()
        return [_word(row) for row in rows]

    def verdicts(self, task: str, teacher_above: float = TEACHER_ABOVE) -> dict[str, Verdict]:
        """Item -> what counts for it (words.judge)."""
        return judge(self.words(task), teacher_above)

    def new_since(self, task: str, when: datetime, besides: Collection[str] = ()) -> int:
        """How many items of a task got a label since `when` that can be trained on; `besides` what these teachers
        said."""
        sure = or_(Label.origin != "teacher", (Label.confidence > TEACHER_ABOVE) & Label.by.not_in(besides))
        wanted = (Label.task == task, Label.at > when, sure)
        with self._database.reading() as session:
            return session.scalar(select(func.count(distinct(Label.item))).where(*wanted)) or 0

    def counts(self) -> Sequence[Counted]:
        """Who has labelled how much."""
        keys = (Label.task, Label.origin, Label.by)
        query = select(*keys, func.count(distinct(Label.item)), func.max(Label.at)).group_by(*keys).order_by(*keys)
        with self._database.reading() as session:
            return [Counted(*row) for row in session.execute(query)]

    def _say(self, session: Session, words: Sequence[Word]) -> int:
        last = dict(self._last_words(session, words))
        count = 0
        for word in words:
            speaker = (word.task, word.item, word.origin, word.by)
            if last.get(speaker) == word:
                continue
            last[speaker] = word
            session.add(
                Label(
                    task=word.task,
                    item=word.item,
                    about=word.about,
                    value=msgspec.to_builtins(word.value),
                    origin=word.origin,
                    by=word.by,
                    at=self._now(),
                    confidence=word.confidence,
                    disagreement=word.disagreement,
                )
            )
            count += 1
        return count

    @staticmethod
    def _last_words(session: Session, words: Sequence[Word]) -> Iterator[tuple[tuple[str, str, str, str], Word]]:
        items = {word.item for word in words}
        tasks = {word.task for word in words}
        query = select(Label).where(Label.task.in_(tasks), Label.item.in_(items)).order_by(Label.id)
        for row in session.scalars(query):
            word = _word(row)
            yield (word.task, word.item, word.origin, word.by), word


def _word(row: Label) -> Word:
    try:
        value: Value = from_builtins(row.value, Value)
        origin = from_builtins(row.origin, Origin)
    except msgspec.ValidationError as error:
        raise DataError(f"table label, id {row.id}: {error}") from error
    return Word(row.task, row.item, value, origin, row.by, row.confidence, row.disagreement, row.about)
