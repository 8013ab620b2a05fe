"""One version on disk: opened and checked, and installed so that its directory is whole at every instant."""

from pathlib import Path

from roadloop_agent.update import disk
from roadloop_models.bundle import MANIFEST_NAME, Bundle, FileEntry, check_file
from roadloop_models.contract.messages import ReleaseRef
from roadloop_models.errors import BundleError
from roadloop_models.sealed import KEY_FILE, read_key_file

_TEMPORARY = ".tmp-"


def open_version(directory: Path, ref: ReleaseRef, variant: str) -> Bundle:
    """Open a bundle and check that it is the one which `ref` pins, and has its content key where it is sealed.

    Raises BundleError, VariantMissingError.
    """
    bundle = Bundle.open(directory, variant)
    if bundle.manifest.sealed is not None:
        read_key_file(directory)
    if bundle.manifest_sha256 != ref.manifest_sha256:
        raise BundleError(f"{directory}: its manifest is not the one that release {ref.release} names")
    if (bundle.manifest.task, bundle.manifest.version) != (ref.task, ref.version):
        raise BundleError(
            f"{directory}: {bundle.manifest.task} {bundle.manifest.version}, "
            f"release {ref.release} names {ref.task} {ref.version}"
        )
    return bundle


def install_version(source: Path, target: Path, ref: ReleaseRef, variant: str, *, link: bool) -> None:
    """Make the files of one variant durable in `target`, or add to it what it lacks. `source` is kept.

    `link`: its files may get a second name instead of being copied. Raises BundleError where `source` is not what `ref`
    and its manifest say, DiskFullError, OSError.
    """
    bundle = open_version(source, ref, variant)
    entries = bundle.manifest.files_for(bundle.variant_by_key(variant))
    paths = [MANIFEST_NAME, *(entry.path for entry in entries)]
    if bundle.manifest.sealed is not None:
        paths.append(KEY_FILE)
    if target.is_dir():
        _mend(source, target, paths, entries)
        return
    disk.require_room(target.parent, sum(entry.size_bytes for entry in entries))
    temporary = target.with_name(f"{_TEMPORARY}{ref.manifest_sha256}")
    disk.remove_tree(temporary)
    temporary.mkdir()
    for path in paths:
        _place(source / path, temporary / path, link=link)
    for directory in sorted({(temporary / path).parent for path in paths} | {temporary}, reverse=True):
        disk.sync_directory(directory)
    open_version(temporary, ref, variant)
    temporary.rename(target)
    disk.sync_directory(target.parent)


def _mend(source: Path, target: Path, paths: list[str], entries: tuple[FileEntry, ...]) -> None:
    """Add what the directory lacks: another slot may have installed another variant, or a file is damaged."""
    whole = {entry.path for entry in entries if _is_whole(target / entry.path, entry)}
    missing = [path for path in paths if path not in whole]
    disk.require_room(target.parent, sum(entry.size_bytes for entry in entries if entry.path not in whole))
    for path in missing:
        temporary = (target / path).with_name(f"{_TEMPORARY}{Path(path).name}")
        temporary.unlink(missing_ok=True)
        _place(source / path, temporary, link=False)
        temporary.rename(target / path)
        disk.sync_directory(temporary.parent)


def _is_whole(path: Path, entry: FileEntry) -> bool:
    try:
        check_file(path, entry)
    except BundleError:
        return False
    return True


def _place(source: Path, target: Path, *, link: bool) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if link:
        disk.link_or_copy(source, target)
    else:
        disk.copy(source, target)
    disk.sync_file(target)
