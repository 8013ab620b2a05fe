"""The processes of the service: what each builds, runs until it is told to stop, and closes."""

import logging
import time
from collections.abc import Callable
from importlib.util import find_spec
from threading import Event, Thread
from typing import TYPE_CHECKING

from roadloop_cloud.app import Application
from roadloop_models.errors import ConfigError

if TYPE_CHECKING:
    from roadloop_cloud.fleet.service import FleetService
    from roadloop_cloud.ingest.service import IngestService
    from roadloop_cloud.jobs import Handler
    from roadloop_cloud.mqtt import MqttClient

_log = logging.getLogger(__name__)

DECIDE_LOOPS = "decide-loops"
DECIDE_EVERY_S = 10.0
LOOK_FOR_DRIFT = "look-for-drift"
LOOK_SHARE = 1 / 6
"""Of a period: a look says the same however often it is taken, and sketches come when they come."""
MOVE_TELEMETRY = "move-telemetry"
MOVE_EVERY_S = 10.0
STOP_S = 8.0
"""How long a job may take to notice that it shall stop; its next attempt goes on after its last step."""


def run_ingest(app: Application, number: int, stop: Event) -> None:
    """One ingest process; the first announces the cursors of all vehicles when it connects."""
    from roadloop_cloud.ingest.blobs import BlobFolder
    from roadloop_cloud.ingest.service import IngestService

    client = app.ingest_client(number)
    service = IngestService(client, app.database, BlobFolder(app.workspace.blobs), announce_all=number == 1)
    _serve(app, client, service, stop)


def run_fleet(app: Application, _number: int, stop: Event) -> None:
    """The fleet process: reports in, desired states and files out, rollouts on their way."""
    from roadloop_cloud.broker import FLEET_PROCESS
    from roadloop_cloud.fleet.blocks import BlockServer
    from roadloop_cloud.fleet.director_files import DirectorFiles
    from roadloop_cloud.fleet.files import RepositoryFiles
    from roadloop_cloud.fleet.service import FleetService, pace_of

    client = app.mqtt_client(FLEET_PROCESS)
    pace = pace_of(app.database, app.workspace.config.fetch.bytes_per_s)
    files = DirectorFiles(app.directors, RepositoryFiles(app.workspace.repository))
    blocks = BlockServer(files, pace, app.workspace.config.fetch.together_bytes_per_s)
    service = FleetService(client, app.database, app.rollouts, blocks, app.renew_online, director=app.directors)
    _serve(app, client, service, stop)


def _serve(app: Application, client: "MqttClient", service: "IngestService | FleetService", stop: Event) -> None:
    """Connect and run until it is told to stop, then close what was open."""
    client.start()
    try:
        service.run(stop)
    finally:
        client.stop()
        app.database.close()


def run_files(app: Application, _number: int, stop: Event) -> None:
    """The file server: the same files as the fleet process, over HTTPS."""
    from roadloop_cloud.broker import FILES_PROCESS
    from roadloop_cloud.fleet.director_files import DirectorFiles
    from roadloop_cloud.fleet.file_server import FileServer
    from roadloop_cloud.fleet.files import RepositoryFiles
    from roadloop_cloud.fleet.service import pace_of
    from roadloop_cloud.identity.revocations import Revocations

    workspace, config = app.workspace, app.workspace.config
    if config.files.port is None:
        raise ConfigError(f"{workspace.root}/roadloop.toml: files.port: needed to serve files")
    files = DirectorFiles(app.directors, RepositoryFiles(workspace.repository))
    revoked = Revocations(app.authority.revocations_path, time.monotonic)
    server = FileServer(files, pace_of(app.database, config.fetch.bytes_per_s), revoked.contains)
    host = config.files.bind or config.broker.bind or config.broker.host
    try:
        server.run(host, config.files.port, workspace.identity(FILES_PROCESS), stop)
    finally:
        app.database.close()


def run_jobs(app: Application, _number: int, stop: Event) -> None:
    """The jobs process: what is long has a thread of its own, so that telemetry is moved meanwhile.

    Without torch it leaves training to jobs processes on machines that have it.
    """
    from roadloop_cloud.jobs import work
    from roadloop_cloud.labels import measuring, teacher
    from roadloop_cloud.retrain import pipeline
    from roadloop_cloud.training import search

    long: dict[str, Handler] = {
        pipeline.KIND: app.retraining.run,
        search.KIND: app.searches.run,
        teacher.KIND: app.teaching.run,
        measuring.KIND: app.measuring.run,
    }
    if find_spec("torch") is None:
        del long[pipeline.KIND]
        _log.info("torch is not installed here: retraining is left to a jobs process that has it")
    every = {"periodic": {measuring.KIND: measuring.EVERY_S}}
    thread = Thread(target=work, args=(app.jobs, long, stop), kwargs=every, name="long jobs", daemon=True)
    thread.start()
    try:
        quick = {
            MOVE_TELEMETRY: app.move_telemetry,
            LOOK_FOR_DRIFT: app.drift.job,
            DECIDE_LOOPS: app.decide_loops,
        }
        look_s = max(app.workspace.config.drift.look_s * LOOK_SHARE, MOVE_EVERY_S)
        often = {MOVE_TELEMETRY: MOVE_EVERY_S, LOOK_FOR_DRIFT: look_s, DECIDE_LOOPS: DECIDE_EVERY_S}
        work(app.jobs, quick, stop, periodic=often)
    finally:
        thread.join(STOP_S)
        app.database.close()


PROCESSES: dict[str, Callable[[Application, int, Event], None]] = {
    "ingest": run_ingest,
    "fleet": run_fleet,
    "files": run_files,
    "jobs": run_jobs,
}
"""Name of a process -> what it runs until it is told to stop; the number counts processes of the same name from 1."""
