"""`roadloop up`."""

import signal
import sys
import threading

import click
from rich.live import Live
from rich.text import Text

from roadloop_cloud.app import Application
from roadloop_cloud.cli.options import with_application
from roadloop_cloud.cli.output import Output
from roadloop_cloud.service import FleetFigures
from roadloop_cloud.supervise import Child
from roadloop_models.errors import FailedError

POLL_S = 0.25
STATUS_S = 1.0


@click.command()
@click.option("--ingest", type=click.IntRange(1, 16), default=1, show_default=True, help="How many ingest processes.")
@click.option("--broker", "with_broker", is_flag=True, help="Run the broker too.")
@with_application
def command(app: Application, output: Output, ingest: int, with_broker: bool) -> None:
    """Run the service: ingest, fleet, files and jobs. What ends is started again; Ctrl-C or SIGTERM stops all.

    \b
    Example:
      roadloop up --broker --workspace ./fleet
    """
    from roadloop_cloud.app.processes import PROCESSES
    from roadloop_cloud.broker import write_broker_files
    from roadloop_cloud.founding import ensure_identities
    from roadloop_cloud.service import broker_answers, child_specs, fleet_figures, only_one
    from roadloop_cloud.supervise import Supervisor

    counts = {name: ingest if name == "ingest" else 1 for name in PROCESSES}
    if app.workspace.config.files.port is None:
        del counts["files"]
    with only_one(app.workspace):
        database = app.database
        write_broker_files(app.workspace, app.authority)
        ensure_identities(app, ingest)
        if with_broker and broker_answers(app.workspace):
            raise FailedError(f"port {app.workspace.config.broker.port} is taken: a broker runs already")
        if not with_broker and not broker_answers(app.workspace):
            output.note("no broker answers yet; 'roadloop broker' runs one, or use --broker")
        supervisor = Supervisor(child_specs(app.workspace, counts, broker=with_broker))
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        output.note(f"running; logs are in {app.workspace.run}, Ctrl-C stops")
        with Live(console=output.notes, auto_refresh=False, transient=True) as live:
            try:
                turn = 0
                while not stop.wait(POLL_S):
                    supervisor.poll()
                    if sys.stderr.isatty() and turn % int(STATUS_S / POLL_S) == 0:
                        live.update(_status(supervisor.children, fleet_figures(database)), refresh=True)
                    turn += 1
            finally:
                supervisor.stop()
        output.note("stopped")


def _status(children: list[Child], fleet: FleetFigures) -> Text:
    line = Text()
    for child in children:
        healthy = child.process is not None
        line.append("● ", style="green" if healthy else "red")
        line.append(f"{child.spec.name} " if child.state == "running" else f"{child.spec.name} {child.state} ")
    line.append(f"· {fleet.online} of {fleet.vehicles} vehicles online · {fleet.stored:,} samples stored")
    line.append(f" · {fleet.lost:,} lost", style="red" if fleet.lost else "")
    return line
