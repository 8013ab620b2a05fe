"""`roadloop-agent sim`: digital twins."""

import signal
import sys
import threading
from pathlib import Path
from typing import Any

import click

from roadloop_agent.cli_common import JSON, Directory, one_line_errors, print_json


@click.command(epilog="Example: roadloop-agent sim --fleet ./twins --vehicles 200 --scenario rough-roads.toml")
@click.option("--fleet", type=Directory, required=True, help="Folder of provisioning folders, one for each vehicle.")
@click.option("--vehicles", type=click.IntRange(min=1), help="How many of them. Default: all.")
@click.option(
    "--scenario",
    type=click.Path(path_type=Path, dir_okay=False),
    help="What happens to them (TOML); without it nothing does.",
)
@click.option("--processes", type=click.IntRange(1, 64), help="Default: one for every 1500 vehicles.")
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), help="Default: until Ctrl-C or SIGTERM.")
@click.option(
    "--drain",
    "drain_s",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    help="At the end, for how many seconds what is not committed yet is sent.",
)
@click.option(
    "--account",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write down, for every twin, which numbers it gave to samples, and what it runs (JSON).",
)
@JSON
@one_line_errors
def sim(
    *,
    fleet: Path,
    vehicles: int | None,
    scenario: Path | None,
    processes: int | None,
    seconds: float | None,
    drain_s: float,
    account: Path | None,
    as_json: bool,
) -> None:
    """Run digital twins: the real contract and update machine of many vehicles, with models that are not run."""
    import json

    from roadloop_agent.sim.run import run_twins

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    done = run_twins(
        fleet,
        vehicles=vehicles,
        scenario=scenario,
        processes=processes,
        stop=stop,
        seconds=seconds,
        drain_s=drain_s,
        show=_show,
    )
    if sys.stderr.isatty():
        click.echo(err=True)
    if account is not None:
        account.write_text(json.dumps(done), encoding="utf-8")
    if as_json:
        print_json(done["status"])
    else:
        click.echo(_line(done["status"]))


def _show(status: dict[str, Any]) -> None:
    if sys.stderr.isatty():
        click.echo(f"\r\x1b[K{_line(status)}", nl=False, err=True)


def _line(status: dict[str, Any]) -> str:
    runs = ", ".join(f"{count} run {name}" for name, count in status["running"].items())
    states = ", ".join(f"{count} {name}" for name, count in status["states"].items())
    return (
        f"{status['connected']} of {status['twins']} twins connected; {runs or 'none runs yet'}; {states}; "
        f"{status['produced']} samples, {status['pending']} not committed yet, {status['lost']} declared lost"
    )
