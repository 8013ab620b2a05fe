"""Builds what makes and judges candidates: gate, retraining, searches, loops."""

import time
from collections.abc import Mapping
from functools import cached_property
from shutil import disk_usage
from typing import TYPE_CHECKING, Any

from roadloop_cloud.app.data import DataParts
from roadloop_cloud.app.fleet import FleetParts

if TYPE_CHECKING:  # imported where they are built: a command pays only for what it uses
    from roadloop_cloud.gate.records import Records
    from roadloop_cloud.gate.service import Gate
    from roadloop_cloud.jobs import Work
    from roadloop_cloud.loop.service import Loops
    from roadloop_cloud.retrain.pipeline import Retraining
    from roadloop_cloud.training.search import Searches


class LearningParts(FleetParts, DataParts):
    """How new models come to be."""

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
    def retraining(self) -> "Retraining":
        """The job that makes candidates."""
        from roadloop_cloud.explain.service import explain
        from roadloop_cloud.retrain.pipeline import Retraining
        from roadloop_cloud.training.run import run_training

        return Retraining(
            self.datasets,
            self.models,
            self.releases,
            self.rollouts,
            self.workspace.work,
            self.teaching.teach,
            run_training,
            self.gate,
            self.evaluations,
            explain,
            lambda task, release, target: self.previews.preview(task, release, target).bytes,
        )

    @cached_property
    def searches(self) -> "Searches":
        """The job that tries other recipes."""
        from roadloop_cloud.training.run import run_training
        from roadloop_cloud.training.search import Searches

        return Searches(self.workspace.work, run_training)

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
