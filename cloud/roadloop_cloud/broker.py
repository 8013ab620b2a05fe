"""Mosquitto for a workspace: its configuration, its access list, and where its program is."""

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from roadloop_cloud.files import write_atomic
from roadloop_cloud.identity.authority import Authority
from roadloop_cloud.workspace import Workspace
from roadloop_models.contract import channels
from roadloop_models.contract.channels import FLEET, MAX_MESSAGE_BYTES, ROOT, Channel
from roadloop_models.errors import ConfigError

MAX_INGEST_PROCESSES = 16
CLOUD_PREFIX = "cloud-"
"""Names of cloud processes begin with it, and no vehicle's does."""

FLEET_PROCESS = "cloud-fleet"
FILES_PROCESS = "cloud-files"
_INGEST_READS = (channels.TELEMETRY, channels.LOST, channels.BLOB, channels.SKETCH)
_INGEST_WRITES = (channels.CURSOR,)
_FLEET_READS = (channels.STATUS, channels.REPORTED, channels.FETCH, channels.REPLY)
_FLEET_WRITES = (channels.DESIRED, channels.COMMAND, channels.CAMPAIGNS, channels.FILE)
_SOURCE_TREE = Path(__file__).resolve().parents[2]
_PACKET_OVERHEAD_BYTES = 1024
"""Topic, properties and header around the largest payload."""


def ingest_name(number: int) -> str:
    """The certificate name of the ingest process with that number, from 1. Raises ConfigError beyond the last."""
    if not 1 <= number <= MAX_INGEST_PROCESSES:
        raise ConfigError(f"ingest process {number}: 1 to {MAX_INGEST_PROCESSES} are possible")
    return f"{CLOUD_PREFIX}ingest-{number}"


def access_list() -> str:
    """Who may read and write what. %u is the name in the certificate.

    Mosquitto grants any subscription and filters what it delivers, so a forbidden one is silent, not an error.
    """
    lines = [
        "# Vehicles: only their own branch, up is theirs to write and down to read, and what all may read.",
        f"pattern write {ROOT}/%u/up/#",
        f"pattern read {ROOT}/%u/down/#",
        f"pattern read {ROOT}/{FLEET}/#",
    ]
    for number in range(1, MAX_INGEST_PROCESSES + 1):
        lines += _user(ingest_name(number), _INGEST_READS, _INGEST_WRITES)
    lines += _user(FLEET_PROCESS, _FLEET_READS, _FLEET_WRITES)
    lines.append(f"topic write {channels.FLEET_FILE.subscription(FLEET)}")
    return "\n".join(lines) + "\n"


def _user(name: str, reads: Iterable[Channel], writes: Iterable[Channel]) -> list[str]:
    return [
        "",
        f"user {name}",
        *(f"topic read {channel.subscription()}" for channel in reads),
        *(f"topic write {channel.subscription()}" for channel in writes),
    ]


def configuration(workspace: Workspace, user: str | None) -> str:
    """The text of mosquitto.conf; paths are relative to the workspace, where the broker is started."""
    broker = workspace.config.broker
    lines = [
        "# Written by 'roadloop init'. Start it with 'roadloop broker', or in the workspace's folder.",
        "per_listener_settings false",
        f"listener {broker.port} {broker.bind or broker.host}",
        "cafile ca/ca.crt",
        "certfile broker/broker.crt",
        "keyfile broker/broker.key",
        "crlfile ca/ca.crl",
        "tls_version tlsv1.2",
        "require_certificate true",
        "use_identity_as_username true",
        "# Without it one vehicle could take over another's session by its client id.",
        "use_username_as_clientid true",
        "allow_anonymous false",
        "acl_file broker/acl",
        f"max_packet_size {MAX_MESSAGE_BYTES + _PACKET_OVERHEAD_BYTES}",
        f"message_size_limit {MAX_MESSAGE_BYTES}",
        "max_inflight_messages 200",
        "max_queued_messages 10000",
        "persistent_client_expiration 30d",
        "# Persistence is a snapshot: what came since the last one is gone after a kill. Vehicles send it again.",
        "persistence true",
        "persistence_location broker/",
        "autosave_interval 5",
        "set_tcp_nodelay true",
        "log_dest stderr",
        "log_type error",
        "log_type warning",
        "log_type notice",
        "connection_messages true",
    ]
    if user is not None:
        lines += ["# Started as root, it becomes the workspace's owner, who can read these files.", f"user {user}"]
    return "\n".join(lines) + "\n"


def write_broker_files(workspace: Workspace, authority: Authority) -> None:
    """Write configuration, access list and, where missing or old, the broker's certificate. Repeatable."""
    authority.ensure_server(
        "broker",
        workspace.config.broker.names,
        workspace.broker / "broker.crt",
        workspace.broker / "broker.key",
    )
    write_atomic(workspace.broker / "acl", access_list().encode(), 0o600)
    write_atomic(workspace.broker / "mosquitto.conf", configuration(workspace, _owner(workspace.root)).encode())


@dataclass(frozen=True)
class Program:
    """Where mosquitto is, and the libraries that it needs beside the system's."""

    path: Path
    libraries: tuple[Path, ...] = ()

    def environment(self) -> dict[str, str]:
        """What to add to the environment of the child."""
        if not self.libraries:
            return {}
        found = [*map(str, self.libraries), os.environ.get("LD_LIBRARY_PATH", "")]
        return {"LD_LIBRARY_PATH": ":".join(filter(None, found))}

    def version(self) -> str:
        """`2.0.11`, for example, as the program itself says."""
        # It prints its help and exits with 3, whatever the version.
        environment = {**os.environ, **self.environment()}
        shown = subprocess.run(
            [str(self.path), "-h"], capture_output=True, text=True, timeout=10, check=False, env=environment
        ).stdout
        words = shown.splitlines()[0].split() if shown else []
        return words[words.index("version") + 1] if "version" in words else "unknown"


def find_mosquitto() -> Program:
    """The broker's program: on PATH, in an sbin that PATH often lacks, or unpacked by scripts/setup.sh.

    Raises ConfigError saying how to get it.
    """
    for candidate in (shutil.which("mosquitto"), "/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto"):
        if candidate and os.access(candidate, os.X_OK):
            return Program(Path(candidate))
    unpacked = _SOURCE_TREE / ".cache" / "mosquitto" / "usr"
    if os.access(unpacked / "sbin" / "mosquitto", os.X_OK):
        return Program(unpacked / "sbin" / "mosquitto", tuple((unpacked / "lib").glob("*-linux-gnu*")))
    raise ConfigError("no mosquitto on PATH or in /usr/sbin; install it, 2.0 or newer ('apt install mosquitto')")


def broker_arguments(program: Program) -> list[str]:
    """What to start, in the workspace's folder."""
    return [str(program.path), "-c", "broker/mosquitto.conf"]


def _owner(root: Path) -> str | None:
    try:
        return pwd.getpwuid(root.stat().st_uid).pw_name
    except KeyError:  # a container's user without a name
        return None
