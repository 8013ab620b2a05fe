"""The one place that builds the cloud's objects and connects them, and the entry of its processes.

`python -m roadloop_cloud.app ingest|… --workspace DIR` runs one process; `roadloop up` starts them.
"""

import argparse
import logging
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from shutil import disk_usage
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

from roadloop_cloud.store.database import Database
from roadloop_cloud.workspace import Workspace
from roadloop_models.bundle import Bundle
from roadloop_models.errors import ConfigError, NotFoundError, RoadloopError

if TYPE_CHECKING:  # imported where they are built: a command pays only for what it uses
    from roadloop_cloud.campaigns.service import CampaignService
    from roadloop_cloud.captures import Captures
    from roadloop_cloud.datasets.service import Datasets
    from roadloop_cloud.drift.service import Drift
    from roadloop_cloud.gate.records import Records
    from roadloop_cloud.gate.service import Gate
    from roadloop_cloud.identity.authority import Authority
    from roadloop_cloud.jobs import Handler, Jobs, Work
    from roadloop_cloud.labels.labelling import Labelling
    from roadloop_cloud.labels.measuring import Measuring
    from roadloop_cloud.labels.service import Labels
    from roadloop_cloud.labels.teacher import Teaching
    from roadloop_cloud.loop.service import Loops
    from roadloop_cloud.mqtt import MqttClient
    from roadloop_cloud.registry.ceremonies import Ceremonies
    from roadloop_cloud.registry.director import Directors
    from roadloop_cloud.registry.director_keys import DirectorKeys
    from roadloop_cloud.registry.keys import KeyFolder
    from roadloop_cloud.registry.models import ModelRegistry
    from roadloop_cloud.registry.releases import Releases
    from roadloop_cloud.registry.repository import ImageRepository
    from roadloop_cloud.registry.sealing import SealedReleases
    from roadloop_cloud.retrain.pipeline import Retraining
    from roadloop_cloud.rollout.previews import Previews
    from roadloop_cloud.rollout.provenance import Provenance
    from roadloop_cloud.rollout.service import Rollouts
    from roadloop_cloud.rollout.shadow_runs import ShadowRuns
    from roadloop_cloud.rollout.statements import Operators
    from roadloop_cloud.telemetry.service import Telemetry
    from roadloop_cloud.training.search import Searches
    from roadloop_cloud.vehicles import Vehicles

_log = logging.getLogger(__name__)


class Application:
    """The services of one workspace, each built when it is first asked for."""

    def __init__(self, workspace: Workspace) -> None:
        """Nothing is opened yet."""
        self.workspace = workspace

    @cached_property
    def database(self) -> Database:
        """The checked database. Raises ConfigError or RetryLaterError where it is not usable."""
        database = Database(self.workspace.database_url)
        database.check()
        return database

    def create_database(self) -> None:
        """Make the tables of a new workspace."""
        Database(self.workspace.database_url).create()

    @cached_property
    def authority(self) -> "Authority":
        """The certificate authority."""
        from roadloop_cloud.identity.authority import Authority

        return Authority(self.workspace.ca)

    @cached_property
    def telemetry(self) -> "Telemetry":
        """Stored samples: moved, read, counted."""
        from roadloop_cloud.telemetry.service import Telemetry

        return Telemetry(self.database, self.workspace.telemetry)

    @cached_property
    def repository(self) -> "ImageRepository":
        """The TUF image repository."""
        from roadloop_cloud.registry.repository import ImageRepository

        return ImageRepository(self.workspace.repository)

    @cached_property
    def models(self) -> "ModelRegistry":
        """Registered models."""
        from roadloop_cloud.registry.models import ModelRegistry

        return ModelRegistry(self.database, self.workspace.models)

    @cached_property
    def releases(self) -> "Releases":
        """Signed releases."""
        from roadloop_cloud.registry.releases import Releases

        return Releases(
            self.database,
            self.models,
            self.repository,
            self.offline_keys,
            self.online_keys,
            sealing=self.sealing,
            sealed_tasks=self.workspace.config.sealing.tasks,
        )

    @cached_property
    def sealing(self) -> "SealedReleases":
        """Sealed forms of releases, and their content keys."""
        from roadloop_cloud.registry.sealing import SealedReleases
        from roadloop_cloud.store.ingest_tables import Vehicle

        def public_key(vehicle: str) -> bytes | None:
            with self.database.reading() as session:
                row = session.get(Vehicle, vehicle)
            return None if row is None else row.sealing_key

        return SealedReleases(self.workspace.sealed, self.workspace.content_keys, public_key)

    @cached_property
    def offline_keys(self) -> "KeyFolder":
        """Keys of root, targets and tasks, where they are in place."""
        from roadloop_cloud.registry.keys import OFFLINE_ROLES, KeyFolder

        return KeyFolder(self.workspace.offline_keys, OFFLINE_ROLES)

    @cached_property
    def online_keys(self) -> "KeyFolder":
        """Keys of snapshot and timestamp."""
        from roadloop_cloud.registry.keys import ONLINE_ROLES, KeyFolder

        return KeyFolder(self.workspace.online_keys, ONLINE_ROLES)

    @cached_property
    def ceremonies(self) -> "Ceremonies":
        """What a person does with keys."""
        from roadloop_cloud.registry.ceremonies import Ceremonies
        from roadloop_cloud.store.database import now_utc

        return Ceremonies(self.repository, self.offline_keys, self.online_keys, now_utc)

    def renew_online(self) -> bool:
        """Sign snapshot and timestamp anew where it is time, and say in the log what a person has to renew."""
        renewed = self.releases.renew_online()
        if renewed:
            for warning in (*self.ceremonies.warnings(), *self.director_keys.warnings()):
                _log.warning("%s", warning)
        return renewed

    @cached_property
    def directors(self) -> "Directors":
        """What each vehicle is told to run, signed for it alone."""
        from roadloop_cloud.registry.director import Directors, ManifestSizes

        return Directors(
            self.workspace.director,
            self.online_keys.at_hand,
            ManifestSizes(self.workspace.repository),
            wrapped_keys=self.sealing.wrapped_keys,
        )

    def create_director(self) -> None:
        """Keys and root of the director of a new workspace. Repeatable."""
        from roadloop_cloud.registry.director import DIRECTOR_OFFLINE, DIRECTOR_ONLINE
        from roadloop_cloud.registry.keys import KeyFolder

        KeyFolder(self.workspace.online_keys, DIRECTOR_ONLINE).create()
        offline = KeyFolder(self.workspace.offline_keys, DIRECTOR_OFFLINE)
        offline.create()
        self.directors.create(offline.signers())

    @cached_property
    def director_keys(self) -> "DirectorKeys":
        """What a person does with the director's keys."""
        from roadloop_cloud.registry.director_keys import DirectorKeys
        from roadloop_cloud.store.database import now_utc

        return DirectorKeys(self.directors, self.offline_keys, self.online_keys, now_utc)

    @cached_property
    def rollouts(self) -> "Rollouts":
        """Releases on their way to the fleet."""
        from roadloop_cloud.rollout.service import Rollouts

        return Rollouts(self.database, self.releases, self.workspace.config.rollout, time.time, self.operators)

    @cached_property
    def provenance(self) -> "Provenance":
        """Why a model is on a vehicle."""
        from roadloop_cloud.datasets.snapshot import Snapshots
        from roadloop_cloud.rollout.provenance import Provenance

        snapshots = Snapshots(self.workspace.snapshots)
        return Provenance(self.database, self.models, self.releases, snapshots.open, self.operators)

    @cached_property
    def previews(self) -> "Previews":
        """Rollouts before they begin."""
        from roadloop_cloud.rollout.previews import Previews

        config = self.workspace.config
        return Previews(
            self.rollouts,
            self.releases,
            lambda: {name: target.length for name, target in self.repository.targets().items()},
            bytes_per_s=config.fetch.bytes_per_s,
            cost_per_gb=config.rollout.cost_per_gb,
            clock=time.time,
        )

    @cached_property
    def operators(self) -> "Operators":
        """The people whose signature counts."""
        from roadloop_cloud.rollout.statements import Operators

        return Operators(self.workspace.operators)

    @cached_property
    def campaigns(self) -> "CampaignService":
        """What vehicles are asked to send."""
        from roadloop_cloud.campaigns.service import CampaignService

        return CampaignService(self.database)

    @cached_property
    def shadows(self) -> "ShadowRuns":
        """Releases that decide beside what vehicles run."""
        from roadloop_cloud.rollout.shadow_runs import ShadowRuns

        return ShadowRuns(self.database, self.releases)

    @cached_property
    def jobs(self) -> "Jobs":
        """Work under leases."""
        from roadloop_cloud.jobs import Jobs

        return Jobs(self.database)

    @cached_property
    def captures(self) -> "Captures":
        """Captured items, and what vehicles decided about them."""
        from roadloop_cloud.captures import Captures

        return Captures(self.database, self.workspace.blob, self.telemetry.read_stream)

    @cached_property
    def labels(self) -> "Labels":
        """What was said about items."""
        from roadloop_cloud.labels.service import Labels

        return Labels(self.database)

    @cached_property
    def labelling(self) -> "Labelling":
        """What people are asked and answer."""
        from roadloop_cloud.labels.labelling import Labelling

        return Labelling(self.labels, self.captures, self.label_names, self.quarantined)

    @cached_property
    def teaching(self) -> "Teaching":
        """The job that lets larger models label."""
        from roadloop_cloud.labels.teacher import Teaching

        return Teaching(self.labels, self.captures, self.models, self.label_names, self.quarantined)

    @cached_property
    def measuring(self) -> "Measuring":
        """The job that labels by what happened next."""
        from roadloop_cloud.labels.measuring import Measuring

        return Measuring(self.labels, self.telemetry.read_stream, self.quarantined)

    def label_names(self, task: str) -> tuple[str, ...]:
        """The classes that a task's items may have. Raises NotFoundError, ConfigError where its model names none."""
        from roadloop_models.tasks.sign_classes import SIGN_LABELS

        if task == "traffic-sign":
            return SIGN_LABELS
        labels = self.releases.bundle(self.releases.incumbent(task)).labels()
        if labels is None:
            raise ConfigError(f"the incumbent of {task} names no labels")
        return labels

    def quarantined(self) -> frozenset[str]:
        """Vehicles whose word is not believed now."""
        return frozenset(self.drift.quarantined())

    @cached_property
    def datasets(self) -> "Datasets":
        """Training snapshots."""
        from roadloop_cloud.datasets.service import Datasets
        from roadloop_cloud.datasets.snapshot import Snapshots

        def incumbent(task: str) -> Bundle:
            return self.releases.bundle(self.releases.incumbent(task))

        return Datasets(
            Snapshots(self.workspace.snapshots),
            self.telemetry.read_stream,
            self.captures,
            self.labels,
            self.labelling,
            incumbent,
            self.quarantined,
        )

    @cached_property
    def gate(self) -> "Gate":
        """Whether a candidate may replace an incumbent."""
        from roadloop_cloud.gate.bounds import bounds_of
        from roadloop_cloud.gate.latency import paired_latency_us
        from roadloop_cloud.gate.service import Gate
        from roadloop_cloud.training.evaluate import evaluate_variant

        configured = self.workspace.config.gate
        return Gate(
            evaluate_variant,
            lambda task: bounds_of(task, configured.get(task)),
            lambda task, version: self.models.bundle(task, version).manifest,
            lambda sha256: self.datasets.show(sha256).directory,
            self._fleet_profiles,
            lambda before, after, key: paired_latency_us(before, after, key, time.perf_counter_ns),
        )

    def _fleet_profiles(self) -> Mapping[str, str]:
        """Texts of the packaged profiles that vehicles of the fleet have; of all, while it has none of these."""
        from sqlalchemy import select

        from roadloop_cloud.identity.provisioning import packaged_profiles
        from roadloop_cloud.store.ingest_tables import Vehicle

        with self.database.reading() as session:
            used = set(session.scalars(select(Vehicle.profile).distinct()))
        packaged = packaged_profiles()
        return {name: packaged[name].read_text("utf-8") for name in (used & set(packaged)) or packaged}

    @cached_property
    def evaluations(self) -> "Records":
        """What was seen of registered models."""
        from roadloop_cloud.gate.records import Records

        return Records(self.workspace.evaluations)

    @cached_property
    def drift(self) -> "Drift":
        """What the fleet sees differently, and who is not believed."""
        from roadloop_cloud.drift.decide import Rules
        from roadloop_cloud.drift.service import Drift
        from roadloop_models.sketches.reference import Reference, bundle_reference

        def reference(task: str, release: int) -> Reference | None:
            try:
                return bundle_reference(self.releases.bundle(self.releases.get(task, release)).directory)
            except NotFoundError:
                return None

        config = self.workspace.config.drift
        rules = Rules(config.look_s, config.window_looks, config.false_alarms, config.least_ks)
        return Drift(self.database, reference, rules, outlier_ks=config.outlier_ks, keep_days=config.keep_days)

    @cached_property
    def retraining(self) -> "Retraining":
        """The job that makes candidates."""
        from roadloop_cloud.retrain.pipeline import Retraining
        from roadloop_cloud.training.run import run_training

        return Retraining(
            self.datasets,
            self.models,
            self.releases,
            self.rollouts,
            self.workspace.work,
            run_training,
            self.gate,
            self.evaluations,
            lambda task, release, target: self.previews.preview(task, release, target).bytes,
        )

    @cached_property
    def loops(self) -> "Loops":
        """When each task learns by itself."""
        from roadloop_cloud.loop.news import FleetNews
        from roadloop_cloud.loop.service import Loops

        news = FleetNews(self.drift, self.labels)
        return Loops(self.database, self.jobs, news, lambda: disk_usage(self.workspace.root).free)

    def decide_loops(self, _work: "Work") -> dict[str, Any]:
        """A job: begin the generations that are due."""
        return {task: decision.why for task, decision in self.loops.tick().items()}

    @cached_property
    def searches(self) -> "Searches":
        """The job that tries other recipes."""
        from roadloop_cloud.training.run import run_training
        from roadloop_cloud.training.search import Searches

        return Searches(self.workspace.work, run_training)

    def move_telemetry(self, _work: "Work") -> dict[str, Any]:
        """A job: committed batches to the Delta tables."""
        moved = self.telemetry.move()
        return {"batches": moved.batches, "samples": moved.samples}

    @cached_property
    def vehicles(self) -> "Vehicles":
        """The vehicles of the fleet. A new one starts with what the fleet runs."""
        from roadloop_cloud.identity.provisioning import InitialRelease
        from roadloop_cloud.registry.releases import release_ref
        from roadloop_cloud.vehicles import Vehicles

        def initial_release(task: str) -> InitialRelease:
            release = self.releases.incumbent(task)
            return InitialRelease(release_ref(release), self.releases.published_bundle(release))

        config = self.workspace.config
        return Vehicles(
            self.database,
            self.authority,
            initial_release,
            self._trust_files,
            config.broker,
            files_url=config.files_url,
            wrapped_key=self.sealing.wrapped_for,
        )

    def _trust_files(self, tasks: Iterable[str]) -> Mapping[str, bytes]:
        return {**self.repository.trust_files(tasks), **self.directors.trust_files()}

    def mqtt_client(self, name: str, *, session_expiry_s: int = 60) -> "MqttClient":
        """A client with the identity of one cloud process; not started."""
        from roadloop_cloud.mqtt import MqttClient

        broker = self.workspace.config.broker
        identity = self.workspace.identity(name)
        return MqttClient(name, broker.host, broker.port, identity, session_expiry_s=session_expiry_s)

    def ingest_client(self, number: int) -> "MqttClient":
        """The client of one ingest process; not started.

        Its session ends with its connection: mosquitto goes on dealing a shared subscription's messages to a session
        whose process is dead, and a vehicle's repetitions would land there again and again.
        """
        from roadloop_cloud.broker import ingest_name

        return self.mqtt_client(ingest_name(number), session_expiry_s=0)


def run_ingest(app: Application, number: int, stop: Event) -> None:
    """One ingest process; the first announces the cursors of all vehicles when it connects."""
    from roadloop_cloud.ingest.blobs import BlobFolder
    from roadloop_cloud.ingest.service import IngestService

    client = app.ingest_client(number)
    service = IngestService(client, app.database, BlobFolder(app.workspace.blobs), announce_all=number == 1)
    client.start()
    try:
        service.run(stop)
    finally:
        client.stop()
        app.database.close()


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


DECIDE_LOOPS = "decide-loops"
DECIDE_EVERY_S = 10.0
LOOK_FOR_DRIFT = "look-for-drift"
LOOK_SHARE = 1 / 6
"""Of a period: a look says the same however often it is taken, and sketches come when they come."""
MOVE_TELEMETRY = "move-telemetry"
MOVE_EVERY_S = 10.0
STOP_S = 8.0
"""How long a job may take to notice that it shall stop; its next attempt goes on after its last step."""

PROCESSES: dict[str, Callable[[Application, int, Event], None]] = {
    "ingest": run_ingest,
    "fleet": run_fleet,
    "files": run_files,
    "jobs": run_jobs,
}
"""Name of a process -> what it runs until it is told to stop; the number counts processes of the same name from 1."""


def main(arguments: list[str] | None = None) -> int:
    """Run one process until SIGTERM or Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m roadloop_cloud.app", description="One process of the service.")
    parser.add_argument("process", choices=sorted(PROCESSES))
    parser.add_argument("--workspace", type=Path, required=True)
    parser.add_argument("--number", type=int, default=1, help="which of several processes of this name, from 1")
    options = parser.parse_args(arguments)
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
