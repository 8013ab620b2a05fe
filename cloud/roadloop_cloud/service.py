"""What `roadloop up` keeps running, and what there is to say about it meanwhile."""

import fcntl
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import func, select

from roadloop_cloud.broker import broker_arguments, find_mosquitto
from roadloop_cloud.store.database import Database
from roadloop_cloud.store.ingest_tables import LedgerStream, Vehicle
from roadloop_cloud.supervise import ChildSpec
from roadloop_cloud.workspace import Workspace
from roadloop_models.contract.messages import NOT_SAMPLES
from roadloop_models.errors import ConflictError


@dataclass(frozen=True)
class FleetFigures:
    """One look at the whole."""

    vehicles: int
    online: int
    stored: int
    lost: int


def child_specs(workspace: Workspace, processes: dict[str, int], *, broker: bool) -> list[ChildSpec]:
    """The programs to run: `processes` maps a process of app/processes.py to how many of it."""
    specs = []
    if broker:
        program = find_mosquitto()
        arguments = broker_arguments(program)
        specs.append(
            ChildSpec(
                "broker",
                arguments,
                workspace.root,
                _log(workspace, "broker"),
                environment=program.environment(),
                serves_others=True,
            )
        )
    for process, count in processes.items():
        for number in range(1, count + 1):
            name = process if count == 1 else f"{process}-{number}"
            arguments = [sys.executable, "-P", "-m", "roadloop_cloud.app", process, "--workspace", str(workspace.root)]
            arguments += ["--number", str(number)]
            specs.append(ChildSpec(name, arguments, workspace.root, _log(workspace, name)))
    return specs


@contextmanager
def only_one(workspace: Workspace) -> Iterator[None]:
    """Hold the workspace's lock. Raises ConflictError where another `roadloop up` runs on it."""
    workspace.run.mkdir(exist_ok=True)
    with (workspace.run / "up.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConflictError(f"{workspace.root}: 'roadloop up' runs on it already") from error
        yield


def broker_answers(workspace: Workspace) -> bool:
    """Whether anything listens where the broker should."""
    try:
        with socket.create_connection((workspace.config.broker.host, workspace.config.broker.port), timeout=2.0):
            return True
    except OSError:
        return False


def fleet_figures(database: Database) -> FleetFigures:
    """Vehicles and samples, as recorded now."""
    with database.reading() as session:
        vehicles = session.scalar(select(func.count()).select_from(Vehicle)) or 0
        online = session.scalar(select(func.count()).where(Vehicle.online)) or 0
        sums = select(func.sum(LedgerStream.stored), func.sum(LedgerStream.lost))
        stored, lost = session.execute(sums.where(LedgerStream.stream.not_in(NOT_SAMPLES))).one()
    return FleetFigures(vehicles, online, int(stored or 0), int(lost or 0))


def _log(workspace: Workspace, name: str) -> Path:
    return workspace.run / f"{name}.log"
