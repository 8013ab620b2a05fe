"""How a file comes: by HTTPS or by MQTT, or not over this link.

MQTT is open anyway and shares a block among all that wait for it; a connection of its own costs a handshake, but
resumes at the byte and leaves the line to telemetry: it pays for what is large, sooner on a link that costs. What HTTPS
does not bring as it is signed, MQTT fetches: a file server alone cannot keep a vehicle from its update, nor have it
refused.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Literal

from tuf.api.exceptions import DownloadError, LengthOrHashMismatchError

from roadloop_agent.link.budget import LinkClass
from roadloop_agent.update.fetch import BlockFetcher
from roadloop_agent.update.parts import PartFile
from roadloop_agent.update.resume import FetchContext, ResumingFetcher
from roadloop_models.contract.messages import Policy
from roadloop_models.errors import DiskFullError, LinkMeteredError, RetryLaterError

_LOG = logging.getLogger(__name__)
HTTPS_FROM_BYTES: dict[LinkClass, int] = {"metered": 512 * 1024, "unmetered": 4 * 1024 * 1024}
"""What is smaller comes by MQTT where the policy leaves the choice: on a metered link a block that is lost within
costs as much as the handshake."""
AVOID_S = 600.0
"""How long HTTPS is left alone after it failed."""


def choose(size_bytes: int, policy: Policy, link_class: LinkClass, *, https: bool) -> Literal["mqtt", "https"]:
    """The transport of one target; `https`: whether there is a file server that has not just failed."""
    if policy.transport == "mqtt" or not https:
        return "mqtt"
    return "https" if policy.transport == "https" or size_bytes >= HTTPS_FROM_BYTES[link_class] else "mqtt"


def check_link(policy: Policy, link_class: LinkClass) -> None:
    """Raises LinkMeteredError where files may not come over the present link."""
    if link_class == "metered" and not policy.metered:
        raise LinkMeteredError("files may not come over a metered link; waiting for another one")


@dataclass(frozen=True)
class TransportView:
    """How files came since the start, as `status` shows it."""

    mqtt_files: int = 0
    https_files: int = 0
    https_failures: int = 0
    last_failure: str = ""


class TransportFetcher(ResumingFetcher):
    """See the module. `https` is None where the vehicle knows no file server. Metadata comes by MQTT: it is small."""

    def __init__(
        self,
        mqtt: BlockFetcher,
        https: ResumingFetcher | None,
        link_class: Callable[[], LinkClass],
        mono: Callable[[], float],
        show: Callable[[TransportView], None] = lambda view: None,
    ) -> None:
        """`show` hears of every file how files came so far."""
        self._mqtt = mqtt
        self._https = https
        self._link_class = link_class
        self._mono = mono
        self._show = show
        self._avoid_until_s = mono()
        self.view = TransportView()

    @contextmanager
    def context(self, context: FetchContext) -> Iterator[None]:
        """What the downloads within belong to; each looks at the link that there is at its time."""
        gated = replace(context, allowed=lambda: check_link(context.policy, self._link_class()))
        with ExitStack() as stack:
            stack.enter_context(super().context(gated))
            stack.enter_context(self._mqtt.context(gated))
            yield

    def download_bytes(self, url: str, max_length: int) -> bytes:
        """A metadata file."""
        return self._mqtt.download_bytes(url, max_length)

    def fill(self, url: str, part: PartFile, context: FetchContext) -> None:
        """Fetch what is missing of a target, by what suits it; what HTTPS began, MQTT ends."""
        context.check(url)
        if not part.gaps():
            return
        usable = self._https is not None and self._mono() >= self._avoid_until_s
        chosen = choose(part.size_bytes, context.policy, self._link_class(), https=usable)
        if chosen == "https" and self._by_https(url, part, context):
            return
        self._mqtt.fill(url, part, context)
        self._tell(replace(self.view, mqtt_files=self.view.mqtt_files + 1))

    def _by_https(self, url: str, part: PartFile, context: FetchContext) -> bool:
        assert self._https is not None
        try:
            self._https.fill(url, part, context)
            if not part.is_sound():
                part.begin_anew()
                raise LengthOrHashMismatchError(f"{url}: its content does not have the signed hash")
        except DiskFullError:
            raise
        except (RetryLaterError, DownloadError, LengthOrHashMismatchError) as error:
            context.check(url)  # where it was ended on purpose, MQTT shall not begin
            self._avoid_until_s = self._mono() + AVOID_S
            failures = self.view.https_failures + 1
            self._tell(replace(self.view, https_failures=failures, last_failure=str(error)[:200]))
            _LOG.warning("HTTPS fails, MQTT goes on: %s", error)
            return False
        self._tell(replace(self.view, https_files=self.view.https_files + 1))
        return True

    def _tell(self, view: TransportView) -> None:
        self.view = view
        self._show(view)
