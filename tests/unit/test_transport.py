"""How a file comes: the choice, and what happens where the chosen way fails."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tuf.api.exceptions import DownloadHTTPError, DownloadLengthMismatchError

from roadloop_agent.link.budget import LinkClass
from roadloop_agent.update.fetch import BlockFetcher
from roadloop_agent.update.parts import PartFile
from roadloop_agent.update.resume import FetchContext, ResumingFetcher
from roadloop_agent.update.transport import AVOID_S, HTTPS_FROM_BYTES, TransportFetcher, check_link, choose
from roadloop_models.contract.channels import BLOCK_BYTES
from roadloop_models.contract.messages import Policy
from roadloop_models.errors import FetchInterruptedError, LinkMeteredError, RetryLaterError

CONTENT = bytes(range(256)) * 300
SHA256 = hashlib.sha256(CONTENT).hexdigest()
URL = f"targets/x/2/{SHA256}.model"
BY_HTTPS = Policy(transport="https")


@dataclass
class FakeFetcher(ResumingFetcher):
    """Brings `content`, up to `brings` bytes, then raises `error`; `before` is called first."""

    content: bytes = CONTENT
    brings: int = len(CONTENT)
    error: Exception | None = None
    before: Callable[[], None] = lambda: None
    asked: list[tuple[int, int]] = field(default_factory=list)

    def download_bytes(self, url: str, max_length: int) -> bytes:
        return b"metadata"

    def fill(self, url: str, part: PartFile, context: FetchContext) -> None:
        self.asked = part.gaps()
        self.before()
        context.check(url)
        for first, end in part.gaps():
            part.append(first, self.content[first : min(end, self.brings)])
        if self.error is not None:
            raise self.error


@dataclass
class Rig:
    """A vehicle's fetchers with a clock and a link that the test turns."""

    directory: Path
    https: FakeFetcher | None
    mqtt: FakeFetcher = field(default_factory=FakeFetcher)
    link_class: LinkClass = "unmetered"
    now_s: float = 0.0

    def __post_init__(self) -> None:
        mqtt = cast(BlockFetcher, self.mqtt)
        self.fetcher = TransportFetcher(mqtt, self.https, lambda: self.link_class, lambda: self.now_s)

    def fetch(self, policy: Policy = BY_HTTPS, cancelled: Callable[[], bool] = lambda: False) -> bytes:
        context = FetchContext(self.directory, cancelled, policy=policy)
        with self.fetcher.context(context), self.fetcher.download_file(URL, len(CONTENT)) as file:
            return file.read()


@pytest.mark.parametrize("link_class", ["metered", "unmetered"])
def test_large_files_come_by_https_sooner_on_a_link_that_costs(link_class: LinkClass) -> None:
    least = HTTPS_FROM_BYTES[link_class]
    assert choose(least, Policy(), link_class, https=True) == "https"
    assert choose(least - 1, Policy(), link_class, https=True) == "mqtt"
    assert choose(least, Policy(), link_class, https=False) == "mqtt"
    assert HTTPS_FROM_BYTES["metered"] < HTTPS_FROM_BYTES["unmetered"]


@given(size=st.integers(0, 1 << 40), link_class=st.sampled_from(["metered", "unmetered"]), https=st.booleans())
def test_the_policy_has_the_last_word(size: int, link_class: LinkClass, https: bool) -> None:
    assert choose(size, Policy(transport="mqtt"), link_class, https=https) == "mqtt"
    assert choose(size, BY_HTTPS, link_class, https=https) == ("https" if https else "mqtt")


def test_a_policy_may_keep_files_from_metered_links() -> None:
    for policy, link_class in ((Policy(metered=False), "unmetered"), (Policy(), "metered"), (Policy(), "unmetered")):
        check_link(policy, cast(LinkClass, link_class))
    with pytest.raises(LinkMeteredError, match="waiting for another"):
        check_link(Policy(metered=False), "metered")


def test_https_brings_a_file(tmp_path: Path) -> None:
    rig = Rig(tmp_path, FakeFetcher())
    assert rig.fetch() == CONTENT
    assert not rig.mqtt.asked and rig.fetcher.view.https_files == 1
    assert rig.fetcher.download_bytes("metadata/timestamp.json", 100) == b"metadata"


def test_a_vehicle_without_a_file_server_uses_mqtt(tmp_path: Path) -> None:
    rig = Rig(tmp_path, None)
    assert rig.fetch() == CONTENT and rig.fetcher.view.mqtt_files == 1


@pytest.mark.parametrize(
    "error",
    [
        RetryLaterError("503"),
        FetchInterruptedError("too slow"),
        DownloadHTTPError("not there", 404),
        DownloadLengthMismatchError("endless"),
    ],
)
def test_what_https_does_not_bring_comes_by_mqtt(tmp_path: Path, error: Exception) -> None:
    rig = Rig(tmp_path, FakeFetcher(brings=BLOCK_BYTES, error=error))
    assert rig.fetch() == CONTENT
    assert rig.mqtt.asked == [(BLOCK_BYTES, len(CONTENT))], "only what is missing"
    assert (rig.fetcher.view.https_failures, rig.fetcher.view.mqtt_files) == (1, 1)
    assert rig.fetcher.view.last_failure == str(error)


def test_content_of_https_that_is_not_what_is_signed_is_fetched_by_mqtt(tmp_path: Path) -> None:
    rig = Rig(tmp_path, FakeFetcher(content=bytes(len(CONTENT))))
    assert rig.fetch() == CONTENT
    assert rig.mqtt.asked == [(0, len(CONTENT))] and rig.fetcher.view.https_failures == 1


def test_https_is_left_alone_for_a_while_after_it_failed(tmp_path: Path) -> None:
    https = FakeFetcher(error=RetryLaterError("down"), brings=0)
    rig = Rig(tmp_path, https)
    rig.fetch()
    https.asked = []
    rig.now_s = AVOID_S - 1
    rig.fetch()
    assert not https.asked
    rig.now_s = AVOID_S
    rig.fetch()
    assert https.asked


def test_a_newer_wish_ends_https_and_mqtt_does_not_begin(tmp_path: Path) -> None:
    newer = False

    def wish() -> None:
        nonlocal newer
        newer = True

    rig = Rig(tmp_path, FakeFetcher(before=wish))
    with pytest.raises(FetchInterruptedError, match="newer"):
        rig.fetch(cancelled=lambda: newer)
    assert not rig.mqtt.asked and rig.fetcher.view.https_failures == 0


def test_a_download_waits_where_the_link_becomes_metered(tmp_path: Path) -> None:
    policy = Policy(transport="https", metered=False)
    https = FakeFetcher(brings=BLOCK_BYTES)
    rig = Rig(tmp_path, https)
    https.before = lambda: setattr(rig, "link_class", "metered")
    with pytest.raises(LinkMeteredError):
        rig.fetch(policy)
    assert not rig.mqtt.asked, "not by MQTT either"
    https.asked = []
    with pytest.raises(LinkMeteredError):
        rig.fetch(policy)
    assert not https.asked, "nothing is even asked for"
    https.before = lambda: None
    https.brings, rig.link_class = len(CONTENT), "unmetered"
    assert rig.fetch(policy) == CONTENT
