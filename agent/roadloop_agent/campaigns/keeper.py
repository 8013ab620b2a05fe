"""Watches the slots of a vehicle for its campaigns, in a thread of its own: no slot waits for it.

A slot hands over each frame with its decision and goes on; where the keeper cannot follow, frames are passed over and
counted. What a campaign keeps is made ready to leave (privacy.py), paid for durably, and sent to link.
"""

import contextlib
import hashlib
import json
import logging
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from roadloop_agent.campaigns.shelf import read_shelf, understood
from roadloop_agent.config import SlotTable
from roadloop_agent.drive.frames import Frame
from roadloop_agent.drive.post import About, Post
from roadloop_agent.onboard import ON_BOARD
from roadloop_agent.update.disk import disk_errors, write_durably
from roadloop_models.campaigns.budgets import Budgets
from roadloop_models.campaigns.campaign import MAX_ITEM_BYTES, Budget, Campaign, Understood
from roadloop_models.campaigns.clip import MEDIA_TYPE, pack
from roadloop_models.campaigns.novelty import Novelty
from roadloop_models.campaigns.sight import Board, Sight
from roadloop_models.campaigns.watch import Moment, Watch
from roadloop_models.campaigns.watched import DISAGREEMENT
from roadloop_models.contract.streams import Stream
from roadloop_models.errors import RoadloopError
from roadloop_models.preprocess import ImageArray
from roadloop_models.signals import VSS

_LOG = logging.getLogger(__name__)
_QUEUED = 256
_HELD_BYTES = 64 << 20
"""Of images, in the queue and in each slot's memory of the last frames."""
_LOOK_S = 1.0
_TELL_S = 60.0
_OFFER_S = 5.0
_AGAIN_S = 0.02
_IMAGE = "image/png"


@dataclass(frozen=True, slots=True)
class Seen:
    """A frame of a slot and the sample of its decision; without a stream nothing was decided."""

    slot: str
    frame: Frame
    stream: Stream | None
    seq: int
    row: Sequence[float]
    captured: bool
    """The slot's own capture policy sends the frame already."""


@dataclass(frozen=True, slots=True)
class _Answered:
    """A shadow has compared."""

    slot: str
    number: int
    disagreed: bool


@dataclass(frozen=True)
class _Made:
    """An item, ready to leave."""

    content: bytes
    sha256: str
    media_type: str
    seen: Seen

    @property
    def size_bytes(self) -> int:
        return len(self.content)


class Keeper:
    """See the module."""

    def __init__(
        self,
        *,
        slots: Mapping[str, SlotTable],
        post: Post,
        develop: Callable[[ImageArray], bytes],
        position_m: float,
        shelf: Path,
        memory: Path,
        clock: Callable[[], float],
        boottime: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        """`develop` makes the file of an image, with nothing in it that must not leave; `shelf` is the file that link
        writes, `memory` the one where what was spent today is kept. `clock` is monotonic, `boottime` counts suspended
        time as well."""
        self._tables = slots
        self._post = post
        self._develop = develop
        self._sight = Board(position_m)
        self._shelf, self._memory = shelf, memory
        self._clock, self._boottime, self._wall = clock, boottime, wall
        self._queue: queue.Queue[Seen | _Answered] = queue.Queue(_QUEUED)
        self._lock = threading.Lock()
        self._queued_bytes = 0
        self._watched: frozenset[str] = frozenset()
        self._desks: dict[str, _Desk] = {}
        self._budgets = Budgets(_read_facts(memory))
        self._limits: dict[str, Budget] = {}
        self._looked_s = float("-inf")
        self._stamp: tuple[int, int] | None = None
        self._rest = threading.Event()
        self._beat: Callable[[], None] = lambda: None
        self._told_passed_over = 0
        self._tell_s = float("-inf")
        self.passed_over = 0
        """Frames that were not looked at because the keeper was busy."""

    # Called by the slots' threads and the shadows'.

    def see(self, seen: Seen) -> None:
        """A slot has taken a frame."""
        if seen.slot not in self._watched:
            return
        size_bytes = getattr(seen.frame.data, "nbytes", 0)
        with self._lock:
            if self._queued_bytes + size_bytes > _HELD_BYTES:
                self.passed_over += 1
                return
            self._queued_bytes += size_bytes
        try:
            self._queue.put_nowait(seen)
        except queue.Full:
            with self._lock:
                self._queued_bytes -= size_bytes
                self.passed_over += 1

    def compared(self, slot: str, number: int, disagreed: bool) -> None:
        """The candidate in a slot's shadow has decided about the frame of that number."""
        if slot in self._watched:
            with contextlib.suppress(queue.Full):
                self._queue.put_nowait(_Answered(slot, number, disagreed))

    # The keeper's own thread.

    def run(self, stop: threading.Event, beat: Callable[[], None]) -> None:
        """Until `stop`, and until what was seen is dealt with."""
        self._beat = beat
        while True:
            beat()
            self._look()
            try:
                came = self._queue.get(timeout=_LOOK_S / 2)
            except queue.Empty:
                if stop.is_set():
                    break
                continue
            self._guarded(came.slot, partial(self._take, came))
        for slot, desk in self._desks.items():
            self._guarded(slot, desk.watch.end)
        self._guarded("all", partial(self._save, ended=True))

    def _guarded(self, slot: str, act: Callable[[], None]) -> None:
        """What fails costs an item, and never the process that drives."""
        try:
            act()
        except RoadloopError as error:
            _LOG.error("campaigns of slot %s: %s", slot, error)
        except Exception:  # noqa: BLE001 (a decoder or a detector may raise anything)
            _LOG.exception("campaigns of slot %s", slot)

    def _take(self, came: Seen | _Answered) -> None:
        desk = self._desks.get(came.slot)
        if isinstance(came, _Answered):
            if desk is not None:
                desk.hear(came.number, came.disagreed)
            return
        with self._lock:
            self._queued_bytes -= getattr(came.frame.data, "nbytes", 0)
        self._budgets.tick(self._boottime(), self._wall())
        signals = self._sight.put(came.frame) if self._takes_signals(came.slot) else None
        if desk is not None:
            desk.see(came, signals)

    def _takes_signals(self, slot: str) -> bool:
        return ON_BOARD[self._tables[slot].task].takes == "signals"

    def _look(self) -> None:
        """Read the shelf where it has changed."""
        now_s = self._clock()
        if now_s - self._looked_s < _LOOK_S:
            return
        self._looked_s = now_s
        if self.passed_over > self._told_passed_over and now_s >= self._tell_s:
            self._told_passed_over, self._tell_s = self.passed_over, now_s + _TELL_S
            _LOG.warning("campaigns: %d frames were not looked at so far: too many come", self.passed_over)
        try:
            stat = self._shelf.stat()
            stamp = stat.st_mtime_ns, stat.st_ino
        except OSError:
            return
        if stamp == self._stamp:
            return
        self._stamp = stamp
        wanted = read_shelf(self._shelf)
        if wanted is not None:
            found, wrong = understood(wanted)
            if wrong is not None:
                _LOG.error("campaigns %d: %s", wanted.version, wrong.detail)
            self._use(found)

    def _use(self, campaigns: Sequence[Understood]) -> None:
        """These from now on. A slot whose campaigns are the same goes on where it is."""
        desks: dict[str, _Desk] = {}
        for slot, table in self._tables.items():
            mine = tuple(one for one in campaigns if one.campaign.task == table.task)
            before = self._desks.get(slot)
            if before is not None and before.campaigns == tuple(one.campaign for one in mine):
                desks[slot] = before
                continue
            if before is not None:
                before.watch.end()
            if mine:
                desks[slot] = _Desk(slot, mine, self)
        self._desks = desks
        self._limits = {f"{slot}/{one.name}": one.budget for slot, desk in desks.items() for one in desk.campaigns}
        joined = any(VSS.keys() & one.names for one in campaigns)
        signals = {slot for slot in self._tables if joined and self._takes_signals(slot)}
        self._watched = frozenset(desks.keys() | signals)

    # What a desk asks for.

    @property
    def budgets(self) -> Budgets:
        """What was spent."""
        return self._budgets

    @property
    def board(self) -> Board:
        """The vehicle's signals now."""
        return self._sight

    def image(self, image: ImageArray) -> bytes:
        """Its file, with nothing in it that must not leave. Raises RoadloopError where that cannot be had."""
        return self._develop(image)

    def was_sent(self, sha256: str) -> bool:
        """Whether this content left before."""
        return self._post.was_sent(sha256)

    def send(self, campaign: str, item: _Made) -> None:
        """To link, in blocks; what was spent for it is on disk before. It is tried for some seconds: the pipe may be
        full for a moment."""
        if self._budgets.is_unsaved:
            self._save()
        seen = item.seen
        assert seen.stream is not None
        about = About(
            task=self._tables[seen.slot].task,
            stream=seen.stream.name,
            seq=seen.seq,
            row=list(seen.row),
            t_ms=seen.frame.t_ms,
            campaign=campaign,
        )
        until_s = self._clock() + _OFFER_S
        while not self._post.offer(item.content, item.sha256, item.media_type, about):
            if self._clock() >= until_s:
                _LOG.warning("campaign %s: %d bytes are lost: link does not take them", campaign, item.size_bytes)
                return
            self._beat()
            self._rest.wait(_AGAIN_S)

    def _save(self, ended: bool = False) -> None:
        facts = self._budgets.facts(self._limits, ended)
        with disk_errors(self._memory):
            self._memory.parent.mkdir(parents=True, exist_ok=True)
            write_durably(self._memory, json.dumps(facts).encode())


class _Desk:
    """One slot: its watch, and the last frames, which the watch may ask for."""

    def __init__(self, slot: str, campaigns: Sequence[Understood], keeper: Keeper) -> None:
        self.campaigns: tuple[Campaign, ...] = tuple(one.campaign for one in campaigns)
        self._keeper = keeper
        self._keeps = campaigns[0].watched.keeps
        self._sight = Sight(campaigns[0].watched, Novelty() if any(one.needs_novelty for one in campaigns) else None)
        self._entries: dict[int, tuple[Seen, Mapping[str, float]]] = {}
        self._held_bytes = 0
        self._number = 0
        self.watch: Watch[_Made] = Watch(slot, campaigns, keeper.budgets, self)

    def see(self, seen: Seen, signals: Mapping[str, float] | None) -> None:
        """The next frame of the slot, with the vehicle's signals where it takes them."""
        values = None
        if seen.stream is not None and seen.stream.name == self._sight.stream:
            data = seen.frame.data if self._keeps == "frames" else None
            around = self._keeper.board.now(seen.frame.t_mono_s) if signals is None else signals
            values = self._sight.values(seen.row, data, around)
        if values is None and self._keeps == "frames":
            return
        number, self._number = self._number, self._number + 1
        t_s = seen.frame.data.t_s if self._keeps == "signals" else float(number)
        self._entries[number] = seen, signals or {}
        self._held_bytes += getattr(seen.frame.data, "nbytes", 0)
        try:
            self.watch.step(Moment(number, t_s, values))
        finally:
            self._forget()

    def hear(self, frame_number: int, disagreed: bool) -> None:
        """What the shadow says of a frame."""
        for number in reversed(self._entries):
            if self._entries[number][0].frame.number == frame_number:
                self.watch.hear(number, {DISAGREEMENT: float(disagreed)})
                return

    def develop(self, about: int, numbers: Sequence[int]) -> _Made | None:
        """See Outlet. Raises RoadloopError where the image must not leave as it is."""
        entry = self._entries.get(about)
        if entry is None or entry[0].captured:
            return None
        seen = entry[0]
        if self._keeps == "frames":
            content, media_type = self._keeper.image(seen.frame.data), _IMAGE
        else:
            kept = [self._entries[number] for number in numbers if number in self._entries]
            content, media_type = pack([(one.frame.data.t_s, signals) for one, signals in kept]), MEDIA_TYPE
        if len(content) > MAX_ITEM_BYTES:
            _LOG.error("slot %s: an item of %d bytes is not sent", seen.slot, len(content))
            return None
        sha256 = hashlib.sha256(content).hexdigest()
        return None if self._keeper.was_sent(sha256) else _Made(content, sha256, media_type, seen)

    def send(self, campaign: str, item: _Made) -> None:
        """See Outlet."""
        self._keeper.send(campaign, item)

    def _forget(self) -> None:
        oldest = self.watch.oldest
        for number in list(self._entries):
            if number >= oldest and self._held_bytes <= _HELD_BYTES:
                break
            seen, _ = self._entries.pop(number)
            self._held_bytes -= getattr(seen.frame.data, "nbytes", 0)


def _read_facts(path: Path) -> dict[str, float]:
    try:
        raw = json.loads(path.read_bytes())
        return {str(name): float(value) for name, value in raw.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        _LOG.error("%s: %s; today's budgets begin anew", path, error)
        return {}
