"""What a network has seen through its teachers, or through those that it was put together of. No torch here."""

from collections.abc import Iterable

from roadloop_models.bundle import Manifest, Source
from roadloop_models.errors import BundleError


def sources_of(manifests: Iterable[Manifest]) -> tuple[Source, ...]:
    """These versions and their own sources, each once. Raises BundleError where one name stands for two versions."""
    found: dict[str, Source] = {}
    for manifest in manifests:
        lineage = manifest.lineage
        own = Source(manifest.version, lineage.snapshot_sha256, lineage.parent_version, lineage.data)
        for source in (own, *lineage.sources):
            if found.setdefault(source.version, source) != source:
                raise BundleError(
                    f"{manifest.task}/{source.version}: two versions that were trained on other rows have this name"
                )
    return tuple(found.values())
