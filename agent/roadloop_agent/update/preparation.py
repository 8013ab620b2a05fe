"""What takes long on the way to an installed release: downloads, the self-test, installing. One thread does it."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from roadloop_agent.update import events as ev
from roadloop_agent.update.delivery import Delivery
from roadloop_agent.update.refused import MetadataError
from roadloop_agent.update.selftest import Check, SelfTest
from roadloop_agent.update.store import Store, error_info
from roadloop_models.bundle.manifest import CPU_PROVIDERS
from roadloop_models.errors import BadInputError, ConfigError, RoadloopError

_LOG = logging.getLogger(__name__)
_PROGRESS_STEP = 0.1
_PROGRESS_S = 1.0

LongAction: TypeAlias = ev.Fetch | ev.Test | ev.Install


@dataclass(frozen=True)
class SlotSpec:
    """What the profile says of a slot."""

    task: str
    runtime: str
    precision: str
    providers: tuple[str, ...] = CPU_PROVIDERS

    @property
    def variant(self) -> str:
        """The key of the variant that runs there."""
        return f"{self.runtime}-{self.precision}"


class Preparation:
    """Does the long actions of the machines, and turns what goes wrong into their events."""

    def __init__(
        self,
        *,
        slots: Mapping[str, SlotSpec],
        store: Store,
        delivery: Delivery,
        selftest: SelfTest,
        make_room: Callable[[], None],
        mono: Callable[[], float],
        random: Callable[[], float],
    ) -> None:
        """`make_room`: called before a download, which may need it."""
        self._slots = slots
        self._store = store
        self._delivery = delivery
        self._selftest = selftest
        self._make_room = make_room
        self._mono = mono
        self._random = random

    def do(
        self, slot: str, action: LongAction, *, cancelled: Callable[[], bool], progress: Callable[[int, int], None]
    ) -> ev.Event:
        """Do it and say what came of it; raises nothing. `progress` gets blocks done and in all, now and then."""
        try:
            return self._do(slot, action, cancelled, progress)
        except MetadataError as error:
            return ev.Refused(action.attempt, error_info(error), final=False)
        except ConfigError as error:
            return self._failed(action.attempt, error)
        except BadInputError as error:
            return ev.Refused(action.attempt, error_info(error))
        except (RoadloopError, OSError) as error:
            return self._failed(action.attempt, error)
        except Exception as error:  # noqa: BLE001 (a fault of the agent is reported like any other)
            _LOG.exception("slot %s: %s of release %d", slot, type(action).__name__, action.ref.release)
            return self._failed(action.attempt, error)

    def _do(
        self, slot: str, action: LongAction, cancelled: Callable[[], bool], progress: Callable[[int, int], None]
    ) -> ev.Event:
        if isinstance(action, ev.Fetch):
            self._make_room()
            self._delivery.fetch(
                action.ref,
                self._slots[slot].variant,
                slot=slot,
                cancelled=cancelled,
                progress=_Progress(progress, self._mono),
                policy=action.policy,
            )
            return ev.FetchDone(action.attempt)
        if isinstance(action, ev.Test):
            self._selftest(self._check(slot, action), cancelled)
            return ev.TestPassed(action.attempt)
        self._store.install(slot, action.ref, self._delivery.directory(action.ref))
        return ev.Installed(action.attempt)

    def _check(self, slot: str, action: ev.Test) -> Check:
        spec = self._slots[slot]
        return Check(
            directory=str(self._delivery.directory(action.ref)),
            variant=spec.variant,
            incumbent=str(self._store.version_directory(action.incumbent)),
            max_latency_ratio=action.max_latency_ratio,
            providers=spec.providers,
        )

    def _failed(self, attempt: int, error: Exception) -> ev.Failed:
        return ev.Failed(attempt, error_info(error), self._random())


class _Progress:
    """Passes progress on at every tenth and every second, and at both ends."""

    def __init__(self, tell: Callable[[int, int], None], mono: Callable[[], float]) -> None:
        self._tell = tell
        self._mono = mono
        self._told = -1
        self._told_s = 0.0

    def __call__(self, done: int, total: int) -> None:
        now_s = self._mono()
        at_end = done in (0, total)
        if at_end or done - self._told >= _PROGRESS_STEP * total or now_s - self._told_s >= _PROGRESS_S:
            self._told, self._told_s = done, now_s
            self._tell(done, total)
