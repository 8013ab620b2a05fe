"""`rollout plan`: gathers what the preview of a rollout needs. Nothing is written."""

from collections.abc import Callable, Mapping, Sequence

from roadloop_cloud.registry.releases import Releases
from roadloop_cloud.rollout.members import slots_of
from roadloop_cloud.rollout.preview import Known, Preview, preview
from roadloop_cloud.rollout.service import Prepared, Rollouts
from roadloop_cloud.rollout.settings import Settings
from roadloop_cloud.rollout.spec import Target
from roadloop_models.bundle.manifest import Manifest
from roadloop_models.errors import NotFoundError


class Previews:
    """Application service beside Rollouts."""

    def __init__(
        self,
        rollouts: Rollouts,
        releases: Releases,
        target_sizes: Callable[[], Mapping[str, int]],
        *,
        bytes_per_s: int,
        cost_per_gb: float,
        clock: Callable[[], float],
    ) -> None:
        """`target_sizes`: name of every signed target -> bytes."""
        self._rollouts = rollouts
        self._releases = releases
        self._target_sizes = target_sizes
        self._bytes_per_s = bytes_per_s
        self._cost_per_gb = cost_per_gb
        self._clock = clock

    def preview(
        self,
        task: str,
        release: int,
        target: Target,
        settings: Settings | None = None,
        *,
        also: Sequence[tuple[str, int]] = (),
    ) -> Preview:
        """What `Rollouts.create` would do with the same arguments. Raises as it does, collisions aside."""
        prepared = self._rollouts.prepare(task, release, target, settings, also=also)
        known = Known(
            sizes=self._target_sizes(),
            held=self._held(prepared),
            fleet=prepared.fleet,
            bytes_per_s=self._bytes_per_s,
            cost_per_gb=self._cost_per_gb,
            now_s=self._clock(),
        )
        return preview(prepared.spec, prepared.order, prepared.requirements, prepared.selection, known)

    def _held(self, prepared: Prepared) -> dict[tuple[str, int], Manifest]:
        """The manifests of what the vehicles run; of a release that is no longer known nothing is reused."""
        running = {
            (slot.task, slot.running.release)
            for one in prepared.order
            for task in prepared.spec.tasks
            for slot in slots_of(task, one.report)
            if slot.running is not None
        }
        found = {}
        for task, release in sorted(running):
            try:
                row = self._releases.get(task, release)
                found[(task, release)] = self._releases.published_bundle(row).manifest
            except NotFoundError:
                continue
        return found
