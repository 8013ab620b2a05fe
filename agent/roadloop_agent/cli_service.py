"""Commands of `roadloop-agent` around the service: `install` and `tail`."""

import contextlib
import itertools
import json
import os
from pathlib import Path

import click

from roadloop_agent.cli_common import CONFIG, JSON, Directory, one_line_errors, print_json, print_table


@click.command(
    epilog="Examples: roadloop-agent install --from van-1 (as root) · roadloop-agent install --root image --from van-1"
)
@click.option("--from", "provisioning", type=Directory, help="The folder that provisions the vehicle.")
@click.option("--root", type=Directory, help="Fill this tree (of an image) instead of the running system.")
@click.option("--user", default="roadloop", show_default=True, help="Who the service runs as; made where missing.")
@click.option("--program", help="Where roadloop-agent lies on the vehicle. Default: the one that runs now.")
@click.option("--force", is_flag=True, help="Replace another identity, releases and a changed configuration.")
@click.option("--dry-run", is_flag=True, help="Say what would be done.")
@JSON
@one_line_errors
def install(
    *,
    provisioning: Path | None,
    root: Path | None,
    user: str,
    program: str | None,
    force: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Lay the systemd unit, its user, the folder of the vehicle and its configuration."""
    import msgspec

    from roadloop_agent.install import Wish, install, run_command, running_program

    wish = Wish(root, provisioning, user, program or running_program(), force, dry_run)
    report = install(wish, run_command, os.geteuid())
    if as_json:
        print_json(msgspec.to_builtins(report))
        return
    print_table(("path", "action", "note"), [(step.path, step.action, step.note) for step in report.steps])
    click.echo(f"\n{'Nothing was changed (dry run). ' if dry_run else ''}Next:")
    for command in report.next:
        click.echo(f"  {command}")


@click.command(epilog="Example: roadloop-agent tail --config van-1/vehicle.toml --slot sign")
@CONFIG
@click.option("--slot", help="Only this slot.")
@click.option("--count", type=click.IntRange(min=1), help="End after so many lines. Default: at Ctrl-C.")
@JSON
@one_line_errors
def tail(config_path: Path, slot: str | None, count: int | None, as_json: bool) -> None:
    """Follow what the running agent decides; with --json one line of JSON each."""
    from roadloop_agent.config import load_config
    from roadloop_agent.tail import described, follow
    from roadloop_models.errors import ConfigError

    config = load_config(config_path)
    if slot is not None and slot not in config.profile.slots:
        raise ConfigError(f"--slot {slot}: the profile has {', '.join(config.profile.slots)}")
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        for message in itertools.islice(follow(config.results_path, slot), count):
            click.echo(json.dumps(message) if as_json else described(message))
