"""Builds what turns telemetry into training data: drift, labels, snapshots."""

from functools import cached_property
from typing import TYPE_CHECKING

from roadloop_cloud.app.registry import RegistryParts
from roadloop_models.bundle import Bundle
from roadloop_models.errors import ConfigError, NotFoundError

if TYPE_CHECKING:  # imported where they are built: a command pays only for what it uses
    from roadloop_cloud.datasets.service import Datasets
    from roadloop_cloud.drift.decide import Rules
    from roadloop_cloud.drift.service import Drift
    from roadloop_cloud.labels.labelling import Labelling
    from roadloop_cloud.labels.measuring import Measuring
    from roadloop_cloud.labels.service import Labels
    from roadloop_cloud.labels.teacher import Teaching
    from roadloop_cloud.labels.watch import LabelWatch


class DataParts(RegistryParts):
    """What the fleet saw, whom to believe, and what it is called."""

    @cached_property
    def drift(self) -> "Drift":
        """What the fleet sees differently, and who is not believed."""
        from roadloop_cloud.drift.service import Drift
        from roadloop_models.sketches.reference import Reference, bundle_reference

        def reference(task: str, release: int) -> Reference | None:
            try:
                return bundle_reference(self.releases.bundle(self.releases.get(task, release)).directory)
            except NotFoundError:
                return None

        config = self.workspace.config.drift
        return Drift(
            self.database, reference, self.drift_rules, outlier_ks=config.outlier_ks, keep_days=config.keep_days
        )

    @cached_property
    def drift_rules(self) -> "Rules":
        """How much must have changed, and how sure that must be."""
        from roadloop_cloud.drift.decide import Rules

        config = self.workspace.config.drift
        return Rules(config.look_s, config.window_looks, config.false_alarms, config.least_ks)

    def quarantined(self) -> frozenset[str]:
        """Vehicles whose word is not believed now."""
        return frozenset(self.drift.quarantined())

    @cached_property
    def labels(self) -> "Labels":
        """What was said about items."""
        from roadloop_cloud.labels.service import Labels

        return Labels(self.database)

    def label_names(self, task: str) -> tuple[str, ...]:
        """The classes that a task's items may have. Raises NotFoundError, ConfigError where its model names none."""
        from roadloop_models.tasks.sign_classes import SIGN_LABELS

        if task == "traffic-sign":
            return SIGN_LABELS
        labels = self.releases.bundle(self.releases.incumbent(task)).labels()
        if labels is None:
            raise ConfigError(f"the incumbent of {task} names no labels")
        return labels

    @cached_property
    def labelling(self) -> "Labelling":
        """What people are asked and answer."""
        from roadloop_cloud.labels.labelling import Labelling

        return Labelling(self.labels, self.captures, self.label_names, self.quarantined)

    @cached_property
    def teaching(self) -> "Teaching":
        """The job that lets larger models label."""
        from roadloop_cloud.labels.teacher import Teaching

        watch = self.label_watch.look
        return Teaching(self.labels, self.captures, self.models, self.label_names, self.quarantined, watch=watch)

    @cached_property
    def label_watch(self) -> "LabelWatch":
        """Whose labels are not believed."""
        from roadloop_cloud.labels.watch import LabelWatch
        from roadloop_cloud.store.database import now_utc

        return LabelWatch(
            self.labels,
            self.captures,
            self.label_names,
            self.drift.hardware,
            self.quarantined,
            lambda vehicle, why: self.drift.quarantine(vehicle, why, "labels", by_itself=True),
            self.drift_rules,
            self.workspace.config.drift.outlier_ks,
            now_utc,
        )

    @cached_property
    def measuring(self) -> "Measuring":
        """The job that labels by what happened next."""
        from roadloop_cloud.labels.measuring import Measuring

        return Measuring(self.labels, self.telemetry.read_stream, self.quarantined, self.label_watch.look)

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
            self.drift.hardware,
        )
