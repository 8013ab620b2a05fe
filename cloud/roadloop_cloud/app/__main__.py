"""`python -m roadloop_cloud.app ingest|… --workspace DIR` runs one process; `roadloop up` starts them."""

import argparse
import faulthandler
import logging
import signal
import sys
from pathlib import Path
from threading import Event

from roadloop_cloud.app import Application
from roadloop_cloud.app.processes import PROCESSES
from roadloop_cloud.workspace import Workspace
from roadloop_models.errors import RoadloopError


def main(arguments: list[str] | None = None) -> int:
    """Run one process until SIGTERM or Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m roadloop_cloud.app", description="One process of the service.")
    parser.add_argument("process", choices=sorted(PROCESSES))
    parser.add_argument("--workspace", type=Path, required=True)
    parser.add_argument("--number", type=int, default=1, help="which of several processes of this name, from 1")
    options = parser.parse_args(arguments)
    faulthandler.enable(2)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        PROCESSES[options.process](Application(Workspace.open(options.workspace)), options.number, stop)
    except RoadloopError as error:
        logging.getLogger(__name__).error("%s", error)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
