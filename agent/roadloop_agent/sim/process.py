"""One process of twins: `python -m roadloop_agent.sim.process FLEET --vehicles N --part K/P …`, started by run.py.

Prints its status, one line of JSON a second, until SIGTERM; then the twins send what they have, and their account is
written to `--account`.
"""

import argparse
import faulthandler
import json
import logging
import os
import signal
import sys
import tempfile
import threading
from pathlib import Path

from roadloop_agent.sim.fleet_folder import provisioned_folders
from roadloop_agent.sim.scenario import Scenario, load_scenario
from roadloop_models.errors import RoadloopError


def main(arguments: list[str] | None = None) -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(prog="python -m roadloop_agent.sim.process")
    parser.add_argument("fleet", type=Path)
    parser.add_argument("--vehicles", type=int, required=True)
    parser.add_argument("--part", required=True, help="K/P: of P processes the K-th, from 0")
    parser.add_argument("--scenario", type=Path)
    parser.add_argument("--drain-s", type=float, required=True)
    parser.add_argument("--account", type=Path, required=True)
    options = parser.parse_args(arguments)
    faulthandler.enable(2)
    logging.basicConfig(level=logging.ERROR, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to all; the parent says when to stop
    part, of = (int(number) for number in options.part.split("/"))
    try:
        scenario = Scenario() if options.scenario is None else load_scenario(options.scenario)
        folders = provisioned_folders(options.fleet, options.vehicles)[part::of]
        from roadloop_agent.sim.app import build_fleet

        with tempfile.TemporaryDirectory(prefix="twins-") as memory:
            fleet = build_fleet(folders, scenario, Path(memory))
            account = fleet.run(stop.is_set, _show, options.drain_s)
    except RoadloopError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    options.account.write_text(json.dumps(account), encoding="utf-8")
    return 0


def _show(status: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(status) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    os._exit(status)  # at once: a worker may wait a minute for an answer that nobody needs any more
