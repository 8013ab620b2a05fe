"""`roadloop-agent consent`: somebody at the vehicle says yes or no to a release that waits for it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from roadloop_agent.cli_common import CONFIG, JSON, one_line_errors, print_json


@click.command(epilog="Example: roadloop-agent consent --config van-1/vehicle.toml --slot sign --release 2")
@CONFIG
@click.option("--slot", help="Only this slot. Default: every slot that waits for consent.")
@click.option(
    "--release", type=click.IntRange(min=1), help="Only this release, so that no other one is meant by mistake."
)
@click.option("--refuse", is_flag=True, help="Say no. It is final for this release.")
@JSON
@one_line_errors
def consent(config_path: Path, slot: str | None, release: int | None, refuse: bool, as_json: bool) -> None:
    """Say yes or no to what is installed and waits for somebody's consent."""
    import msgspec

    from roadloop_agent.config import load_config
    from roadloop_agent.link.cache import read_cache
    from roadloop_agent.update.consent import Consents, Word
    from roadloop_models.contract.messages import ReportedSlot
    from roadloop_models.typed import from_builtins

    config = load_config(config_path)
    status = read_cache(config.cache_path, "status")
    words = [
        Word(slot=name, ref=ref, granted=not refuse)
        for name, ref in asked(from_builtins(status["slots"], dict[str, ReportedSlot]), slot, release)
    ]
    consents = Consents(config.state_dir)
    for word in words:
        consents.say(word)
    if as_json:
        print_json(msgspec.to_builtins(words))
        return
    for word in words:
        said = "consent to" if word.granted else "no to"
        click.echo(f"slot {word.slot}: {said} {word.ref.task} release {word.ref.release} ({word.ref.version})")


def asked(slots: Mapping[str, Any], slot: str | None, release: int | None) -> list[tuple[str, Any]]:
    """The slots that wait for consent (as they were reported), and to which release. Raises NotFoundError."""
    from roadloop_agent.update.conditions import CONSENT
    from roadloop_models.errors import NotFoundError

    waiting = [
        (name, reported.target)
        for name, reported in slots.items()
        if reported.state == "ready" and reported.target is not None and CONSENT in reported.waits_for.split(", ")
    ]
    found = [(name, ref) for name, ref in waiting if slot in (None, name) and release in (None, ref.release)]
    if not found:
        others = "; ".join(f"slot {name}: release {ref.release}" for name, ref in waiting) or "nothing"
        raise NotFoundError(f"no such release waits for consent here; what waits for it: {others}")
    return found
