"""From a release's name to its verified files in the staging directory: refresh, verify, reuse, patch, download."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from roadloop_agent.update import disk
from roadloop_agent.update.blocks import block_count
from roadloop_agent.update.content_key import place_content_key
from roadloop_agent.update.patching import PATCHES, Patches
from roadloop_agent.update.resume import USUAL_POLICY, FetchContext, ResumingFetcher
from roadloop_agent.update.store import Store, open_version
from roadloop_models.bundle import MANIFEST_NAME, FileEntry, Manifest, check_file, parse_manifest
from roadloop_models.bundle.manifest import MAX_MANIFEST_BYTES
from roadloop_models.contract.messages import Policy, ReleaseRef
from roadloop_models.errors import BundleError, TrustError, VariantMissingError

if TYPE_CHECKING:
    from roadloop_agent.update.trust import SignedTargets

_PARTS = ".parts"
Refresh: TypeAlias = "Callable[[str, ReleaseRef, bool], SignedTargets]"
"""(slot, release, whether as its shadow) -> what is signed."""


class Delivery:
    """Stages releases below `staging/<manifest_sha256>/`; one at a time, in one thread."""

    def __init__(
        self,
        *,
        staging: Path,
        store: Store,
        refresh: Refresh,
        fetcher: ResumingFetcher,
        agent_version: str,
    ) -> None:
        """`refresh` gives what is signed now, and raises where a slot (or its shadow) must not have a release."""
        self._staging = staging
        self._store = store
        self._refresh = refresh
        self._fetcher = fetcher
        self._agent_version = agent_version
        self._patches = Patches(store)

    def directory(self, ref: ReleaseRef) -> Path:
        """Where the files of a release are staged."""
        return self._staging / ref.manifest_sha256

    def fetch(
        self,
        ref: ReleaseRef,
        variant: str,
        *,
        slot: str,
        shadow: bool = False,
        cancelled: Callable[[], bool] = lambda: False,
        progress: Callable[[int, int], None] = lambda done, total: None,
        policy: Policy = USUAL_POLICY,
    ) -> Path:
        """Stage what the variant of a release needs; the directory, complete and verified. Resumes what is there.

        `slot` is where it will run, with `shadow` beside what runs there.
        Raises MetadataError and TrustError where something is not signed as it should be, BundleError and
        VariantMissingError where the release is of no use here, FetchInterruptedError, RetryLaterError, DiskFullError.
        """
        directory = self.directory(ref)
        counted = 0
        total = 0

        def arrived(path: str) -> None:
            nonlocal counted
            counted += 1
            progress(min(counted, total), total)

        context = FetchContext(directory / _PARTS, cancelled, arrived, policy)
        with self._fetcher.context(context):
            signed = self._refresh(slot, ref, shadow)
            manifest = self._manifest(signed, ref, directory)
            place_content_key(signed.keys, manifest, directory)
            entries = _entries(manifest, variant)
            targets = {entry: signed.file(ref, entry) for entry in entries}
            wanted = [entry for entry in entries if not self._reuse(entry, directory)]
            patches = {entry: self._patches.find(signed, ref, entry) for entry in wanted}
            received = [(patches[entry] or entry).size_bytes for entry in wanted]
            total, counted = sum(block_count(size_bytes) for size_bytes in received), 0
            progress(0, total)
            for entry in wanted:
                patch = patches[entry]
                if patch is not None:
                    if self._patches.make(signed, patch, directory):
                        continue
                    total += block_count(entry.size_bytes)
                signed.download(targets[entry], directory / entry.path)
        disk.remove_tree(directory / PATCHES)
        disk.remove_tree(directory / _PARTS)
        open_version(directory, ref, variant)
        return directory

    def discard(self, wanted: Iterable[ReleaseRef]) -> None:
        """Remove what is staged for releases that nobody wants any more."""
        kept = {ref.manifest_sha256 for ref in wanted}
        if not self._staging.is_dir():
            return
        for path in self._staging.iterdir():
            if path.name not in kept:
                disk.remove_tree(path)

    def _manifest(self, signed: "SignedTargets", ref: ReleaseRef, directory: Path) -> Manifest:
        target = signed.manifest(ref)
        if target.length > MAX_MANIFEST_BYTES:
            raise TrustError(f"{target.path}: {target.length} bytes, at most {MAX_MANIFEST_BYTES} are read")
        path = directory / MANIFEST_NAME
        installed = self._store.version_directory(ref) / MANIFEST_NAME
        if not path.exists() and installed.exists():
            with disk.disk_errors(path):
                directory.mkdir(parents=True, exist_ok=True)
                disk.link_or_copy(installed, path)
        signed.download(target, path)
        manifest = parse_manifest(path.read_bytes())
        if (manifest.task, manifest.version) != (ref.task, ref.version):
            raise BundleError(
                f"{target.path}: of {manifest.task} {manifest.version}, the release is {ref.task} {ref.version}"
            )
        if _numbers(manifest.min_agent_version) > _numbers(self._agent_version):
            raise BundleError(
                f"{manifest.task} {manifest.version} needs agent {manifest.min_agent_version}, "
                f"this is {self._agent_version}"
            )
        return manifest

    def _reuse(self, entry: FileEntry, directory: Path) -> bool:
        path = directory / entry.path
        try:
            check_file(path, entry)
        except BundleError:
            return self._store.provide(entry, path)
        return True


def _entries(manifest: Manifest, variant: str) -> tuple[FileEntry, ...]:
    for candidate in manifest.variants:
        if candidate.key == variant:
            return manifest.files_for(candidate)
    has = ", ".join(candidate.key for candidate in manifest.variants)
    raise VariantMissingError(f"{manifest.task} {manifest.version}: no variant {variant}; it has {has}")


def _numbers(version: str) -> tuple[int, ...]:
    """`0.2.1` as (0, 2, 1); what is not a number ends it. Raises BundleError where it does not begin with one."""
    numbers: list[int] = []
    for part in version.split("."):
        if not part.isdecimal():
            break
        numbers.append(int(part))
    if not numbers:
        raise BundleError(f"agent version {version!r} is not of the form 1.2.3")
    return tuple(numbers)
