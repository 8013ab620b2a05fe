"""The demo from an empty folder to a fleet on its new releases, step by step."""

import csv
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import world
from faults import Fault, kill_in_download, offer_tampered, restart_broker
from processes import DemoError, Service, run_json, tls_version, wait_for
from screen import Screen
from sqlalchemy import select
from watcher import Seen, Watcher
from world import SIGN, SPEED, VehiclePlan

from roadloop_cloud.app import Application
from roadloop_cloud.rollout.service import RolloutView
from roadloop_cloud.store.ingest_tables import Capture
from roadloop_cloud.workspace import Workspace
from roadloop_models.bundle import Bundle
from roadloop_models.contract.messages import ReleaseRef
from roadloop_models.contract.streams import ROAD_SPEED, SIGN_DECISION, SPEEDS_PER_SAMPLE
from roadloop_models.packaged import packaged_bundles
from roadloop_models.typed import from_builtins

WAVES = "1,50%,100%"
FETCH_BYTES_PER_S = 192 * 1024
"""Slow enough that a person sees a download, and that a kill can hit it."""
HEALTH_WINDOW_S = 4
SOAK_S = 1


@dataclass
class Story:
    """What is given to the demo, and what it has come to know."""

    screen: Screen
    data_dir: Path
    directory: Path
    """What the vehicles replay and where they are provisioned."""
    workspace_dir: Path
    vehicles: int
    port: int
    faults: list[Fault] = field(default_factory=list)
    tasks: dict[str, Any] = field(default_factory=dict)
    rollouts: list[Any] = field(default_factory=list)
    agents: dict[str, Service] = field(default_factory=dict)

    def run(self) -> dict[str, Any]:
        """Tell it; returns what is particular to summary.json. Whatever was started is stopped, come what may."""
        step = self.screen.step
        with ExitStack() as running:
            with step("make a workspace, sign the starter releases"):
                run_json("roadloop", "init", self.workspace_dir, "--releases", "starter", "--port", str(self.port))
                app = Application(Workspace.open(self.workspace_dir))
                running.callback(app.database.close)
            with step("start broker and fleet service"):
                broker = self._service(running, "broker", "roadloop", "broker", "--workspace", self.workspace_dir)
                self._service(running, "up", "roadloop", "up", "--workspace", self.workspace_dir)
            watcher = Watcher(app, self.screen)
            running.enter_context(watcher)
            with step(f"provision and start {self.vehicles} vehicles"):
                plans = self._provision(running)
                self._wait_fleet(watcher, "every vehicle online", lambda seen: seen.online, 120)
            with step("drive: infer on board, send what was seen"):
                self._drive(watcher, broker, plans)
            with step("label what was captured"):
                labels = self._label(app)
            for task, arguments in ((SIGN, ("--labels", labels)), (SPEED, ())):
                with step(f"learn: {task}"):
                    self._learn(task, *arguments)
            for task in (SIGN, SPEED):
                with step(f"roll out: {task}"):
                    self._roll_out(app, watcher, task)
            with step("offer a tampered release"):
                self._tamper(app, plans[-1])
            tls = tls_version(self.port, self._folder(plans[0].id) / "identity")
            vehicles = [_vehicle_row(seen, plan) for seen, plan in zip(watcher.look(), plans, strict=True)]
            with step("stop the fleet, account for every sample"):
                telemetry = self._account()
        return {
            "tls": tls,
            "vehicles": vehicles,
            "tasks": self.tasks,
            "rollout": self.rollouts,
            "telemetry": telemetry,
            "faults": [asdict(fault) for fault in self.faults],
        }

    def _service(self, running: ExitStack, name: str, *command: str | Path) -> Service:
        service = Service(self.workspace_dir.parent / "logs" / f"{name}.log", *command)
        running.callback(service.stop)
        return service

    def _provision(self, running: ExitStack) -> list[VehiclePlan]:
        plans = world.equip(self.data_dir, self.directory, self.vehicles)
        for plan in plans:
            folder = self._folder(plan.id)
            options = ("--profile", plan.profile, "--output", folder, "--tag", plan.runtime)
            run_json("roadloop", "vehicles", "add", plan.id, *options, "--workspace", self.workspace_dir)
            config = folder / "vehicle.toml"
            self.agents[plan.id] = self._service(running, plan.id, "roadloop-agent", "run", "--config", config)
            self.screen.event(f"{plan.id} drives on {plan.runtime}: {plan.signs} signs, {plan.speed_rows} road steps")
        return plans

    def _folder(self, vehicle: str) -> Path:
        return self.directory / vehicle / "provisioned"

    def _drive(self, watcher: Watcher, broker: Service, plans: list[VehiclePlan]) -> None:
        """Until the cloud has every sign and road step at least once; the broker is killed about half-way."""
        goal = {plan.id: plan for plan in plans}

        def done(seen: Seen, share: float = 1.0) -> bool:
            plan = goal[seen.id]
            steps = plan.speed_rows * -(-plan.sensors // SPEEDS_PER_SAMPLE)
            return (
                seen.stored.get(SIGN_DECISION.name, 0) >= share * plan.signs
                and seen.stored.get(ROAD_SPEED.name, 0) >= share * steps
            )

        self._wait_fleet(watcher, "half of the drive", lambda seen: done(seen, 0.4), 180)
        self.faults.append(restart_broker(broker, watcher, self.screen))
        self._wait_fleet(watcher, "all of the drive", done, 240)

    def _label(self, app: Application) -> Path:
        """Where a person would look at each captured image, the demo looks into the data set."""
        known = world.labels_by_picture(self.data_dir)
        with app.database.reading() as session:
            captured = sorted(set(session.scalars(select(Capture.sha256).where(Capture.task == SIGN))))
        path = self.directory / "labels.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("sha256", "label", "track"))
            for sha256 in captured:
                image = cv2.imread(str(app.workspace.blob(sha256)), cv2.IMREAD_COLOR)
                assert image is not None
                label, track = known[world.picture_key(np.ascontiguousarray(image[:, :, ::-1]))]
                writer.writerow((sha256, label, track))
        self.screen.event(f"{len(captured):,} captured images are labelled; the labels are taken from the data set")
        return path

    def _learn(self, task: str, *arguments: str | Path) -> None:
        options = ("--task", task, "--data", self.data_dir, "--publish", "--workspace", self.workspace_dir)
        result = run_json("roadloop", "retrain", *options, *arguments)
        if not result["accepted"]:
            raise DemoError(f"the candidate for {task} was refused: {'; '.join(result['refusals'])}")
        self.tasks[task] = {
            "metric": result["metric"],
            **{side: {key: result[side][key] for key in ("version", "value")} for side in ("incumbent", "candidate")},
            **{key: result[key] for key in ("rows", "evaluated_sha256", "release")},
        }
        before, after = result["incumbent"], result["candidate"]
        self.screen.event(
            f"{task}: {result['metric']} [bold]{before['value']:.4g} → {after['value']:.4g}[/bold] on {result['rows']} "
            f"held-out rows, quantized files, the vehicle's runner; signed as release {result['release']}"
        )

    def _roll_out(self, app: Application, watcher: Watcher, task: str) -> None:
        release = self.tasks[task]["release"]
        options = ("--waves", WAVES, "--soak", str(SOAK_S), "--health-window", str(HEALTH_WINDOW_S))
        pace = ("--fetch-rate", str(FETCH_BYTES_PER_S))
        created = run_json(
            "roadloop", "rollout", "create", "--task", task, "--release", str(release), "--all", *options, *pace,
            "--workspace", self.workspace_dir,
        )  # fmt: skip
        rollout = created["id"]
        self.screen.event(f"release {release} of {task} goes out in waves of {WAVES}")
        if task == SIGN:
            victim = self._first_downloading(app, rollout)
            offered = app.rollouts.show(rollout).spec.release
            folder = self._folder(victim)
            self.faults.append(
                kill_in_download(self.agents[victim], folder, victim, offered, watcher=watcher, screen=self.screen)
            )

        def ended() -> bool:
            view = app.rollouts.show(rollout)
            counts = [f"{number} {state}" for state, number in Counter(m.state for m in view.members).items()]
            self.screen.view.rollout = f"rollout {rollout}: wave {view.wave + 1}, {', '.join(counts)}"
            return view.state not in ("running", "paused")

        wait_for(f"rollout {rollout} of {task} to end", ended, 240)
        self.screen.view.rollout = ""
        view = app.rollouts.show(rollout)
        if view.state != "succeeded":
            raise DemoError(f"rollout {rollout} of {task} ended as {view.state}: {view.reason}")
        self.rollouts.append(_rollout_row(view))
        self.screen.event(f"[green]all {len(view.members)} vehicles run release {release} of {task}[/green]")

    def _first_downloading(self, app: Application, rollout: int) -> str:
        """The vehicle of the first wave, which downloads alone."""
        found: list[str] = []

        def offered() -> bool:
            found[:] = [member.vehicle for member in app.rollouts.show(rollout).members if member.state == "offered"]
            return bool(found)

        wait_for("the first wave to be offered", offered, 60, every_s=0.02)
        return found[0]

    def _tamper(self, app: Application, plan: VehiclePlan) -> None:
        """Sign one more release that nobody has yet, the factory's, and offer it with a byte changed."""
        path = packaged_bundles("factory")[SIGN]
        workspace = ("--workspace", self.workspace_dir)
        version = run_json("roadloop", "models", "import", path, *workspace)["version"]
        published = run_json("roadloop", "models", "publish", SIGN, version, *workspace)
        ref = from_builtins(published, ReleaseRef)
        manifest = Bundle.open(path).manifest
        weights = next(variant.file for variant in manifest.variants if variant.key == f"{plan.runtime}-int8")
        self.faults.append(offer_tampered(app, ref, manifest.file_entry(weights), plan.id, self.screen))

    def _account(self) -> dict[str, Any]:
        """Stop every agent, see that nothing is left on its disk, and count what the cloud has."""
        for agent in self.agents.values():
            agent.stop()
        for vehicle in self.agents:
            status = run_json("roadloop-agent", "status", "--config", self._folder(vehicle) / "vehicle.toml")
            left = status["spool"]["pending_samples"]
            if left:
                raise DemoError(f"{vehicle} stopped with {left} samples that the cloud has not committed")
        run_json("roadloop", "telemetry", "move", "--workspace", self.workspace_dir)
        totals: dict[str, Any] = run_json("roadloop", "telemetry", "totals", "--workspace", self.workspace_dir)
        self.screen.event(
            f"{totals['produced']:,} samples were produced, {totals['stored']:,} are stored, {totals['duplicates']} "
            f"twice, {totals['lost']} lost; {totals['bytes_per_sample']} bytes a sample on the wire"
        )
        return totals

    def _wait_fleet(self, watcher: Watcher, what: str, reached: Callable[[Seen], bool], timeout_s: float) -> None:
        def all_reached() -> bool:
            for service in self.agents.values():
                service.check()
            fleet = watcher.look()
            return len(fleet) == self.vehicles and all(map(reached, fleet))

        wait_for(what, all_reached, timeout_s)


def _vehicle_row(seen: Seen, plan: VehiclePlan) -> dict[str, Any]:
    versions = {slot["task"]: slot["running"]["version"] for slot in seen.reported.values() if slot["running"]}
    return {"id": seen.id, "hardware": seen.hardware, "runtime": plan.runtime, "versions": versions}


def _rollout_row(view: RolloutView) -> dict[str, Any]:
    waves = [
        {"size": size, **{state: _count(view, wave, state) for state in ("succeeded", "failed")}}
        for wave, size in enumerate(view.spec.wave_sizes)
    ]
    return {"id": view.id, "task": view.spec.release.task, "state": view.state, "waves": waves}


def _count(view: RolloutView, wave: int, state: str) -> int:
    return sum(member.wave == wave and member.state == state for member in view.members)
