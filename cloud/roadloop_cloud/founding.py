"""Makes a workspace: everything that `roadloop up` and `roadloop vehicles add` expect to be there."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from roadloop_cloud.app import Application
from roadloop_cloud.broker import FILES_PROCESS, FLEET_PROCESS, ingest_name, write_broker_files
from roadloop_cloud.config import CONFIG_NAME, Config
from roadloop_cloud.files import write_atomic
from roadloop_cloud.registry.releases import release_ref
from roadloop_cloud.workspace import Workspace
from roadloop_models.contract.messages import ReleaseRef
from roadloop_models.errors import ConflictError


def found_workspace(
    root: Path, config: Config, bundles: Mapping[str, Path], step: Callable[[str, float], None]
) -> list[ReleaseRef]:
    """Make the workspace at `root`, which may exist but must be empty, with each task's bundle signed as release 1.

    `step` is told what is done now and how much of all (0..1). Raises ConflictError where something is there already.
    What was made is removed again where anything fails, Ctrl-C included.
    """
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise ConflictError(f"{root}: exists and is not empty; a workspace begins in an empty folder")
    existed = root.exists()
    root.mkdir(parents=True, exist_ok=True)
    try:
        return _found(Workspace(root.resolve(), config), bundles, step)
    except BaseException:
        for path in root.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if not existed:
            root.rmdir()
        raise


def _found(workspace: Workspace, bundles: Mapping[str, Path], step: Callable[[str, float], None]) -> list[ReleaseRef]:
    app = Application(workspace)
    step("certificate authority", 0.0)
    app.authority.create(f"Roadloop {workspace.root.name}")
    step("broker and identities", 0.1)
    write_broker_files(workspace, app.authority)
    ensure_identities(app, ingest=1)
    step("database", 0.2)
    app.create_database()
    step("signing keys and image repository", 0.3)
    app.releases.create_repository(bundles)
    app.create_director()
    made = []
    for number, (task, directory) in enumerate(sorted(bundles.items())):
        step(f"signing {task}", 0.4 + 0.6 * number / len(bundles))
        model = app.models.register(directory)
        made.append(release_ref(app.releases.publish(task, model.version)))
    for folder in (workspace.blobs, workspace.snapshots, workspace.run):
        folder.mkdir(exist_ok=True)
    # Last: a folder without it is no workspace.
    write_atomic(workspace.root / CONFIG_NAME, config_text(workspace.config).encode())
    step("done", 1.0)
    return made


def ensure_identities(app: Application, ingest: int) -> None:
    """Certificates for the processes of the service, made where missing and renewed before they end."""
    for name in [FLEET_PROCESS, *(ingest_name(number) for number in range(1, ingest + 1))]:
        files = app.workspace.identity(name)
        app.authority.ensure_client(name, files.certificate, files.key)
    if app.workspace.config.files.port is not None:
        server = app.workspace.identity(FILES_PROCESS)
        names = app.workspace.config.broker.names
        app.authority.ensure_server(FILES_PROCESS, names, server.certificate, server.key)


def config_text(config: Config) -> str:
    """roadloop.toml for a new workspace: what was chosen, the rest as comments."""
    broker = config.broker
    bind = "" if broker.bind is None else f"\nbind = {json.dumps(broker.bind)}"
    files = "# port = 8884" if config.files.port is None else f"port = {config.files.port}"
    if config.files.bind is not None:
        files += f"\nbind = {json.dumps(config.files.bind)}"
    return f"""\
# A Roadloop workspace. Relative paths are below this folder; unknown keys are refused.

[broker]
host = {json.dumps(broker.host)}
port = {broker.port}{bind}
names = {json.dumps(list(broker.names))}

[database]
# PostgreSQL: postgresql+psycopg://user@host/name
url = {json.dumps(config.database.url)}

[telemetry]
# An object store: s3://bucket/folder
delta_dir = {json.dumps(config.telemetry.delta_dir)}

[rollout]
waves = {json.dumps(list(config.rollout.waves))}
success_threshold = {config.rollout.success_threshold}
error_threshold = {config.rollout.error_threshold}
min_executed = {config.rollout.min_executed}
soak_s = {config.rollout.soak_s}
timeout_s = {config.rollout.timeout_s}
health_window_s = {config.rollout.health_window_s}
# Where too many fail: "cohort" (hardware x profile x previous version), "all" or "pause".
on_failure = {json.dumps(config.rollout.on_failure)}
# How many people other than its creator must approve each wave: see 'roadloop operators'.
approvals = {config.rollout.approvals}
# Of data to vehicles, in your currency.
cost_per_gb = {config.rollout.cost_per_gb}

[sealing]
# Tasks whose releases are sealed, for example ["traffic-sign"].
tasks = {json.dumps(list(config.sealing.tasks))}

[fetch]
bytes_per_s = {config.fetch.bytes_per_s}
together_bytes_per_s = {config.fetch.together_bytes_per_s}

[files]
# Files by HTTPS as well, at this port under the broker's names; vehicles that are added from then on know of it.
{files}
"""
