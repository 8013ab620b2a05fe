"""Builds the update service of link."""

import random
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from roadloop_agent.app.store import open_store
from roadloop_agent.app.tls import vehicle_tls
from roadloop_agent.config import Config
from roadloop_agent.link.budget import LinkClass
from roadloop_agent.link.mailroom import Mailroom
from roadloop_agent.update.apart import ask_apart
from roadloop_agent.update.check import CheckSchedule, DirectorCheck
from roadloop_agent.update.conditions import Surroundings
from roadloop_agent.update.consent import Consents
from roadloop_agent.update.delivery import Delivery
from roadloop_agent.update.director_memory import FLOOR_NAME
from roadloop_agent.update.disk import disk_errors
from roadloop_agent.update.fetch import BlockFetcher, Inbox
from roadloop_agent.update.floor import read_floor
from roadloop_agent.update.glance import unchanged
from roadloop_agent.update.selftest import SelfTest, SubprocessSelfTest
from roadloop_agent.update.service import SlotSpec, UpdateService
from roadloop_agent.update.shadows import ShadowFile, Shadows
from roadloop_agent.update.surroundings import LocalClock, VehicleSurroundings
from roadloop_agent.update.transport import TransportFetcher
from roadloop_agent.update.trusted_time import BUILT, TrustedTime
from roadloop_agent.watch import child_command
from roadloop_models import __version__
from roadloop_models.contract.messages import ReleaseRef

if TYPE_CHECKING:
    from roadloop_agent.update.director import Assignment
    from roadloop_agent.update.https import HttpsFetcher
    from roadloop_agent.update.trust import SignedTargets
    from roadloop_agent.update.tuf_client import Fetcher


def build_surroundings(config: Config, clock: Callable[[], float]) -> VehicleSurroundings:
    """What the vehicle knows of itself and of its owner's wishes before an update."""

    def least_time() -> datetime:
        floors = [read_floor(config.state_dir / client / "floor.json") for client in ("trust", "director")]
        return max([BUILT, *(floor.time for floor in floors if floor is not None)])

    uptime = partial(time.clock_gettime, time.CLOCK_BOOTTIME)
    local = LocalClock(lambda: datetime.now().astimezone(), uptime, least_time)
    return VehicleSurroundings(Consents(config.state_dir), local, clock)


def build_updates(
    config: Config,
    mailroom: Mailroom,
    clock: Callable[[], float],
    link_class: Callable[[], LinkClass],
    surroundings: Surroundings,
    *,
    selftest: SelfTest | None = None,
    read_images: "Callable[[Fetcher, TrustedTime], SignedTargets] | None" = None,
    inbox: Inbox | None = None,
    tick_s: float = 0.5,
) -> UpdateService:
    """The update service and all that it needs.

    Digital twins have another `selftest` (by default a process of its own runs it), another way to read what the image
    repository signs (by default a client of this vehicle's own), and an `inbox` of blocks that they share turns at.
    """
    store = open_store(config)
    blocks = BlockFetcher(mailroom.send_fetch, clock, inbox=inbox, hear=mailroom.hear)
    https = None if config.files.url is None else _https_fetcher(config, config.files.url, mailroom, clock)
    fetcher = TransportFetcher(blocks, https, link_class, clock, lambda view: mailroom.show_files(asdict(view)))

    # python-tuf and its cryptography take 7 MB: they are loaded here when the first update comes.
    told = TrustedTime(lambda: datetime.now(UTC), clock)
    provisioned, memory = config.directory / "trust", config.state_dir / "director"

    def look() -> int:
        seen = unchanged(memory, blocks, told)
        if seen is not None:
            return seen
        if read_images is not None:  # of twins there are many in one process, which has it loaded
            return ask_director().version
        return ask_apart(child_command("director", str(config.path)), blocks, told)

    def ask_director() -> "Assignment":
        from roadloop_agent.app.director import open_director

        return open_director(config, fetcher, told).refresh()

    def images() -> "SignedTargets":
        from roadloop_agent.update.trust import Trust

        if read_images is not None:
            return read_images(fetcher, told)
        return Trust(config.state_dir / "trust", provisioned, fetcher, told.now).refresh()

    def accept(slot: str, ref: ReleaseRef, shadow: bool) -> "SignedTargets":
        from roadloop_agent.update.acceptance import Acceptance

        return Acceptance(check.assignment, images, store.slot)(slot, ref, shadow)

    chance = random.SystemRandom().random
    with disk_errors(config.state_dir):
        seen = read_floor(memory / FLOOR_NAME)
    version = 0 if seen is None else seen.versions.get("targets", 0)
    check = DirectorCheck(look, ask_director, mailroom.director, CheckSchedule(chance), mono=clock, version=version)
    slots = {name: SlotSpec(t.task, t.runtime, t.precision, t.providers) for name, t in config.profile.slots.items()}
    delivery = Delivery(
        staging=config.state_dir / "staging",
        store=store,
        refresh=accept,
        fetcher=fetcher,
        agent_version=__version__,
    )
    selftest = selftest or SubprocessSelfTest(sealing_key=config.sealing_key_path)
    return UpdateService(
        slots=slots,
        store=store,
        delivery=delivery,
        fetcher=blocks,
        selftest=selftest,
        shadows=Shadows(
            slots=slots,
            file=ShadowFile(config.state_dir / "shadows.json"),
            store=store,
            delivery=delivery,
            selftest=selftest,
            ask=mailroom.shadow,
            mono=clock,
            random=chance,
        ),
        report=mailroom.report,
        switch=mailroom.switch,
        mono=clock,
        random=chance,
        director=check,
        surroundings=surroundings,
        tick_s=tick_s,
    )


def _https_fetcher(config: Config, url: str, mailroom: Mailroom, clock: Callable[[], float]) -> "HttpsFetcher":
    from roadloop_agent.update.https import HttpsFetcher, connector

    return HttpsFetcher(connector(url, vehicle_tls(config)), clock, time.sleep, spent=mailroom.files_came)
