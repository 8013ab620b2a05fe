"""The campaigns that the cloud wants, on disk: link puts them there, drive looks once a second.

The file is all that the two processes share of campaigns: a vehicle that starts without a network goes on with them.
"""

import logging
from pathlib import Path

import msgspec

from roadloop_agent.update.disk import disk_errors, write_durably
from roadloop_models.campaigns.campaign import Campaign, Understood, understand
from roadloop_models.contract.messages import Campaigns, CampaignsReport, ErrorInfo
from roadloop_models.errors import ConfigError, RoadloopError
from roadloop_models.typed import from_json

_LOG = logging.getLogger(__name__)
_MAX_BYTES = 128 * 1024


class Shelf:
    """Link's side. One thread owns it."""

    def __init__(self, path: Path) -> None:
        """`path` is the file; it need not be there."""
        self._path = path
        wanted = read_shelf(path)
        self.report = _report(wanted) if wanted is not None else CampaignsReport()

    def take(self, wanted: Campaigns) -> bool:
        """The cloud's word; whether anything changed. An older version than the one that is here is ignored."""
        if wanted.version <= self.report.version:
            return False
        try:
            with disk_errors(self._path):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                write_durably(self._path, msgspec.json.encode(wanted))
        except RoadloopError as error:  # the broker has it still: the next connection brings it again
            _LOG.error("campaigns %d: %s", wanted.version, error)
            return False
        self.report = _report(wanted)
        return True


def read_shelf(path: Path) -> Campaigns | None:
    """What is on the shelf; None where nothing is, or nothing that can be read: the cloud's word comes again."""
    try:
        with path.open("rb") as file:
            return from_json(file.read(_MAX_BYTES), Campaigns)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        _LOG.error("%s: %s", path, error)
        return None


def understood(wanted: Campaigns) -> tuple[list[Understood], ErrorInfo | None]:
    """Those that this agent understands, and what is wrong with the first that it does not."""
    found: list[Understood] = []
    wrong: ErrorInfo | None = None
    for campaign in wanted.campaigns:
        try:
            found.append(_checked(campaign))
        except ConfigError as error:
            wrong = wrong or ErrorInfo(code=error.code, detail=str(error)[:500])
    return found, wrong


def _checked(campaign: Campaign) -> Understood:
    return understand(campaign, f"campaign {campaign.name}")


def _report(wanted: Campaigns) -> CampaignsReport:
    return CampaignsReport(version=wanted.version, error=understood(wanted)[1])
