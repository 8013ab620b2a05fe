"""The fleet's vehicles: added, listed, tagged. The command line calls this, and later the API does."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from roadloop_cloud.broker import CLOUD_PREFIX
from roadloop_cloud.config import BrokerConfig
from roadloop_cloud.fleet import desired
from roadloop_cloud.identity.authority import Authority
from roadloop_cloud.identity.provisioning import (
    InitialRelease,
    Profile,
    Provisioning,
    write_provisioning,
)
from roadloop_cloud.store.database import Database, now_utc
from roadloop_cloud.store.ingest_tables import Vehicle
from roadloop_models.contract.channels import check_vehicle_id
from roadloop_models.contract.messages import Policy, ReleaseRef
from roadloop_models.errors import BadInputError, ConflictError, NotFoundError
from roadloop_models.sealed import new_key_pair

_TAG = re.compile(r"^[a-z0-9][a-z0-9.:_-]{0,39}$")


class Vehicles:
    """Application service on the vehicle table."""

    def __init__(
        self,
        database: Database,
        authority: Authority,
        initial_release: Callable[[str], InitialRelease],
        trust_files: Callable[[Iterable[str]], Mapping[str, bytes]],
        broker: BrokerConfig,
        *,
        files_url: str | None = None,
        wrapped_key: Callable[[bytes, ReleaseRef], bytes | None],
    ) -> None:
        """`initial_release` gives, for a task, the release that a new vehicle starts with; `trust_files` what a
        vehicle with these tasks trusts (relative path below trust/ -> content), `files_url` where it may fetch files by
        HTTPS. `wrapped_key` is the content key of a release for the holder of a public key, None where the release is
        in clear."""
        self._database = database
        self._authority = authority
        self._initial_release = initial_release
        self._trust_files = trust_files
        self._broker = broker
        self._wrapped_key = wrapped_key
        self._files_url = files_url

    def add(self, vehicle_id: str, profile: Profile, output: Path, tags: Iterable[str] = ()) -> Vehicle:
        """Add a vehicle and write the folder that provisions it.

        Raises ConflictError where the id is taken or `output` is not empty, BadInputError where id or tag is no name.
        """
        return self._add({vehicle_id: output}, profile, _tags(tags))[0]

    def add_many(
        self, prefix: str, count: int, profile: Profile, output: Path, tags: Iterable[str] = ()
    ) -> Sequence[Vehicle]:
        """Add `prefix`-1, -2, … (with as many digits as the last has), each in a folder of its name below `output`.

        All or none. Raises as `add`.
        """
        digits = len(str(count))
        ids = [f"{prefix}-{number:0{digits}d}" for number in range(1, count + 1)]
        return self._add({vehicle_id: output / vehicle_id for vehicle_id in ids}, profile, _tags(tags))

    def _add(self, outputs: Mapping[str, Path], profile: Profile, tags: Sequence[str]) -> Sequence[Vehicle]:
        for vehicle_id in outputs:
            check_vehicle_id(vehicle_id)
            if vehicle_id.startswith(CLOUD_PREFIX):
                raise BadInputError(f"vehicle id {vehicle_id!r}: '{CLOUD_PREFIX}…' names the cloud's own processes")
        releases = {slot: self._initial_release(task) for slot, task in profile.tasks.items()}
        trust = self._trust_files({release.ref.task for release in releases.values()})
        with self._database.transaction() as session:
            for vehicle_id in outputs:
                if session.get(Vehicle, vehicle_id) is not None:
                    raise ConflictError(f"vehicle {vehicle_id} exists already")
            # Inside the transaction: no folder, no vehicle.
            return [
                self._add_one(session, vehicle_id, output, profile=profile, tags=tags, releases=releases, trust=trust)
                for vehicle_id, output in outputs.items()
            ]

    def _add_one(
        self,
        session: Session,
        vehicle_id: str,
        output: Path,
        *,
        profile: Profile,
        tags: Sequence[str],
        releases: Mapping[str, InitialRelease],
        trust: Mapping[str, bytes],
    ) -> Vehicle:
        private_key, public_key = new_key_pair()
        row = Vehicle(
            id=vehicle_id,
            hardware=profile.hardware,
            profile=profile.name,
            tags=list(tags),
            created=now_utc(),
            sealing_key=public_key,
            online=False,
        )
        session.add(row)
        session.flush()
        # From its first day the fleet service knows its slots, so a rollout may target it before it has reported.
        desired.assign(session, row, {slot: release.ref for slot, release in releases.items()}, Policy())
        content_keys = {
            release.ref.manifest_sha256: wrapped
            for release in releases.values()
            if (wrapped := self._wrapped_key(public_key, release.ref)) is not None
        }
        provisioning = Provisioning(
            vehicle=vehicle_id,
            broker_host=self._broker.host,
            broker_port=self._broker.port,
            files_url=self._files_url,
            profile=profile,
            identity=self._authority.issue_client(vehicle_id),
            authority=self._authority.certificate_path.read_bytes(),
            sealing_key=private_key,
            content_keys=content_keys,
            trust=trust,
            releases=releases,
        )
        write_provisioning(output, provisioning)
        return row

    def list(self, tag: str | None = None) -> Sequence[Vehicle]:
        """All vehicles by id; with `tag` those that carry it."""
        with self._database.reading() as session:
            rows = session.scalars(select(Vehicle).order_by(Vehicle.id)).all()
        return [row for row in rows if tag is None or tag in row.tags]

    def get(self, vehicle_id: str) -> Vehicle:
        """One vehicle. Raises NotFoundError."""
        with self._database.reading() as session:
            row = session.get(Vehicle, vehicle_id)
        if row is None:
            raise NotFoundError(f"no vehicle {vehicle_id}; 'roadloop vehicles list' shows those there are")
        return row

    def tag(self, vehicle_id: str, add: Iterable[str], remove: Iterable[str]) -> Vehicle:
        """Add and remove tags. Raises NotFoundError, BadInputError where a tag is no name."""
        added, removed = set(_tags(add)), set(remove)
        with self._database.transaction() as session:
            row = session.get(Vehicle, vehicle_id)
            if row is None:
                raise NotFoundError(f"no vehicle {vehicle_id}; 'roadloop vehicles list' shows those there are")
            row.tags = sorted((set(row.tags) | added) - removed)
        return row


def _tags(tags: Iterable[str]) -> list[str]:
    found = sorted(set(tags))
    for tag in found:
        if not _TAG.match(tag):
            raise BadInputError(f"tag {tag!r}: 1 to 40 lower-case letters, digits and . : _ - are allowed")
    return found
