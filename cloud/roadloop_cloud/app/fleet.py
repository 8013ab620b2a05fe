"""Builds what speaks to vehicles: identities, rollouts, campaigns, MQTT clients."""

import time
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from roadloop_cloud.app.registry import RegistryParts

if TYPE_CHECKING:  # imported where they are built: a command pays only for what it uses
    from roadloop_cloud.campaigns.service import CampaignService
    from roadloop_cloud.identity.authority import Authority
    from roadloop_cloud.mqtt import MqttClient
    from roadloop_cloud.rollout.previews import Previews
    from roadloop_cloud.rollout.provenance import Provenance
    from roadloop_cloud.rollout.service import Rollouts
    from roadloop_cloud.rollout.shadow_runs import ShadowRuns
    from roadloop_cloud.rollout.statements import Operators
    from roadloop_cloud.vehicles import Vehicles


class FleetParts(RegistryParts):
    """Vehicles, and what is on its way to them."""

    @cached_property
    def authority(self) -> "Authority":
        """The certificate authority."""
        from roadloop_cloud.identity.authority import Authority

        return Authority(self.workspace.ca)

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

    @cached_property
    def operators(self) -> "Operators":
        """The people whose signature counts."""
        from roadloop_cloud.rollout.statements import Operators

        return Operators(self.workspace.operators)

    @cached_property
    def rollouts(self) -> "Rollouts":
        """Releases on their way to the fleet."""
        from roadloop_cloud.rollout.service import Rollouts

        return Rollouts(self.database, self.releases, self.workspace.config.rollout, time.time, self.operators)

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
    def provenance(self) -> "Provenance":
        """Why a model is on a vehicle."""
        from roadloop_cloud.datasets.snapshot import Snapshots
        from roadloop_cloud.rollout.provenance import Provenance

        snapshots = Snapshots(self.workspace.snapshots)
        return Provenance(self.database, self.models, self.releases, snapshots.open, self.operators)

    @cached_property
    def shadows(self) -> "ShadowRuns":
        """Releases that decide beside what vehicles run."""
        from roadloop_cloud.rollout.shadow_runs import ShadowRuns

        return ShadowRuns(self.database, self.releases)

    @cached_property
    def campaigns(self) -> "CampaignService":
        """What vehicles are asked to send."""
        from roadloop_cloud.campaigns.service import CampaignService

        return CampaignService(self.database)

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
