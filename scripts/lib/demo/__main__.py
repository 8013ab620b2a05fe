"""The demo's command line: which data, how many vehicles, where to write."""

import json
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import world
from processes import DemoError
from screen import Screen
from story import Story

from roadloop_models.errors import RoadloopError

ROOT = Path(__file__).resolve().parents[3]
SEED = 20
MIN_VEHICLES = 6
MADE = "none"


@click.command()
@click.option(
    "--data", envvar="ROADLOOP_DATA", default=MADE, help="Folder with gtsrb32/ and losloop/; 'none': made data."
)
@click.option("--vehicles", type=click.IntRange(MIN_VEHICLES, 40), default=MIN_VEHICLES, show_default=True)
@click.option("--workspace", type=click.Path(path_type=Path), help="Fleet workspace to make; default build/demo/fleet.")
def main(data: str, vehicles: int, workspace: Path | None) -> None:
    """Run the whole loop with real processes: drive, send, learn, sign, roll out, and survive three faults.

    \b
    Example: scripts/demo --data /data --vehicles 8
    """
    directory = ROOT / "build" / "demo"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    workspace = (workspace or directory / "fleet").resolve()
    made = data == MADE
    kind, broker = "made" if made else "real", _broker()
    screen = Screen(f"Roadloop demo · {kind} data · {vehicles} vehicles · {broker['name']} {broker['version']}, TLS")
    try:
        with screen.shown():
            if made:
                with screen.step("make data (no ROADLOOP_DATA, no --data)"):
                    data_dir = world.made_data(directory / "data", SEED)
            else:
                data_dir = Path(data).resolve()
            told = Story(screen, data_dir, directory / "vehicles", workspace, vehicles, _free_port()).run()
    except DemoError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
    except RoadloopError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        click.echo("stopped; everything that the demo had started has ended", err=True)
        sys.exit(130)
    summary = {
        "data": kind,
        "broker": broker | {"tls": told.pop("tls") is not None},
        **told,
        "seconds": screen.seconds(),
    }
    path = directory / "summary.json"
    path.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    _say(summary, path)


def _say(summary: dict[str, Any], path: Path) -> None:
    total_s = sum(summary["seconds"].values())
    click.echo(f"\nThe whole loop took {total_s:.0f} s on {summary['data']} data.")
    for task, outcome in summary["tasks"].items():
        before, after = outcome["incumbent"]["value"], outcome["candidate"]["value"]
        click.echo(f"  {task}: {outcome['metric']} {before:.4g} -> {after:.4g} on {outcome['rows']} held-out rows")
    for fault in summary["faults"]:
        click.echo(f"  {fault['fault']}: {fault['outcome']}")
    click.echo(f"  {path.relative_to(ROOT)} has it all; next: docs/first-fleet.md")


def _broker() -> dict[str, Any]:
    program = shutil.which("mosquitto")
    if program is None:
        raise click.ClickException("no mosquitto on PATH; scripts/demo installs it")
    text = subprocess.run([program, "-h"], check=False, capture_output=True, text=True).stdout
    return {"name": "mosquitto", "version": text.split("version", 1)[1].split()[0]}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    # A polite kill stops what was started, as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    main()
