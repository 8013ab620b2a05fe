"""Looks at the fleet through the cloud's own records, for the screen and for the steps that wait for something."""

import threading
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from screen import FleetView, Screen, VehicleLine
from sqlalchemy import func, select

from roadloop_cloud.app import Application
from roadloop_cloud.store.ingest_tables import Capture, LedgerStream, Vehicle
from roadloop_models.contract.messages import BLOB_STREAM

PERIOD_S = 1.0


@dataclass(frozen=True)
class Seen:
    """What the cloud knows of one vehicle."""

    id: str
    hardware: str
    online: bool
    boot: int
    """Of its last report."""
    last_seen: datetime | None
    """When the cloud last had word from it: its status, or a report."""
    reported: dict[str, dict[str, Any]]
    stored: dict[str, int]
    """Samples stored by stream."""


class Watcher:
    """Within its `with` block, refreshes the screen once a second from a thread of its own."""

    def __init__(self, app: Application, screen: Screen) -> None:
        self._app = app
        self._screen = screen
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Watcher":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def look(self) -> list[Seen]:
        """The fleet as it is recorded now."""
        with self._app.database.reading() as session:
            vehicles = session.scalars(select(Vehicle).order_by(Vehicle.id)).all()
            totals = session.execute(
                select(LedgerStream.vehicle, LedgerStream.stream, func.sum(LedgerStream.stored)).group_by(
                    LedgerStream.vehicle, LedgerStream.stream
                )
            ).all()
        stored: dict[str, dict[str, int]] = {}
        for vehicle, stream, count in totals:
            stored.setdefault(vehicle, {})[stream] = int(count)
        return [
            Seen(
                row.id,
                row.hardware,
                row.online,
                (row.reported or {}).get("boot", 0),
                row.last_seen,
                (row.reported or {}).get("slots", {}),
                stored.get(row.id, {}),
            )
            for row in vehicles
        ]

    def vehicle(self, vehicle: str) -> Seen:
        """One vehicle as it is recorded now."""
        return next(seen for seen in self.look() if seen.id == vehicle)

    def captures(self) -> int:
        """How many captured images have arrived whole."""
        with self._app.database.reading() as session:
            return session.scalar(select(func.count()).select_from(Capture)) or 0

    def _run(self) -> None:
        while not self._stop.wait(PERIOD_S):
            self._screen.view = self._view(self.look())

    def _view(self, fleet: list[Seen]) -> FleetView:
        samples = sum(count for seen in fleet for stream, count in seen.stored.items() if stream != BLOB_STREAM)
        lines = [
            VehicleLine(seen.id, seen.hardware, seen.online, tuple(map(_slot, seen.reported.values())), _samples(seen))
            for seen in fleet
        ]
        totals = f"{samples:,} samples and {self.captures():,} images stored"
        return FleetView(lines, totals, self._screen.view.rollout, self._job())

    def _job(self) -> str:
        running = [job for job in self._app.jobs.list() if job.state == "running" and job.kind == "retrain"]
        progress = running[0].progress if running else None
        if progress is None:
            return ""
        share = "" if progress["done"] is None else f" {progress['done']:.0%}"
        return f"[cyan]{progress['text']}{share}[/cyan]"


def _samples(seen: Seen) -> int:
    return sum(count for stream, count in seen.stored.items() if stream != BLOB_STREAM)


def _slot(slot: dict[str, Any]) -> str:
    running = slot.get("running")
    release = running.get("release") if isinstance(running, dict) else None
    text = f"{str(slot.get('task', '')).removeprefix('traffic-')} r{release or '-'}"
    state = slot.get("state")
    if state == "fetching":
        return f"[yellow]{text} fetching {slot.get('blocks_done')}/{slot.get('blocks_total')}[/yellow]"
    if state in ("refused", "rolled-back"):
        return f"[red]{text} {state}[/red]"
    return text if state == "idle" else f"[yellow]{text} {state}[/yellow]"
