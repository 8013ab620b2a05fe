"""Archives: one file that becomes the same bundle again, or nothing at all."""

import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from roadloop_models.bundle import MANIFEST_NAME, Bundle
from roadloop_models.bundle.archive import pack, unpack
from roadloop_models.errors import BundleError
from tests.fakes.bundles import tiny_bundle

VECTORS = Path(__file__).parents[1] / "vectors" / "bundles"


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    pack(tiny_bundle(folder / "bundle"), folder / "bundle.tar")
    return folder / "bundle.tar"


def leaves_nothing(archive: Path, folder: Path) -> None:
    with pytest.raises(BundleError, match=archive.name):
        unpack(archive, folder / "out")
    assert [path.name for path in folder.iterdir() if path.name != archive.name] == []


def test_the_same_bundle_comes_out(packed: Path, tmp_path: Path) -> None:
    bundle = unpack(packed, tmp_path / "out")
    assert bundle.manifest_sha256 == Bundle.open(packed.parent / "bundle").manifest_sha256
    pack(bundle, tmp_path / "again.tar")
    assert (tmp_path / "again.tar").read_bytes() == packed.read_bytes()
    with pytest.raises(BundleError, match="exists already"):
        unpack(packed, tmp_path / "out")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_changed_byte_or_a_cut_leaves_nothing_wrong_behind(
    packed: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    content = bytearray(packed.read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content = content[:position]
    else:
        content[position] ^= data.draw(st.integers(1, 255))
    (folder / "damaged.tar").write_bytes(content)
    try:
        bundle = unpack(folder / "damaged.tar", folder / "out")
    except BundleError:
        assert [path.name for path in folder.iterdir()] == ["damaged.tar"]
    else:
        # Padding or an unread header field was hit; or the manifest itself, which only a signature can tell.
        original = Bundle.open(packed.parent / "bundle")
        in_manifest = 512 <= position < 512 + (original.directory / MANIFEST_NAME).stat().st_size
        assert in_manifest or bundle.manifest_sha256 == original.manifest_sha256
        Bundle.open(bundle.directory)


def rewritten(packed: Path, target: Path, extra: tarfile.TarInfo, content: bytes = b"", first: bool = False) -> Path:
    with tarfile.open(packed) as source, tarfile.open(target, "w") as tar:
        if first:
            tar.addfile(extra, io.BytesIO(content))
        for member in source:
            tar.addfile(member, source.extractfile(member))
        if not first:
            tar.addfile(extra, io.BytesIO(content))
    return target


@pytest.mark.parametrize("name", ["../outside", "/tmp-outside", "unlisted.bin", "labels.txt"])
def test_a_file_that_the_manifest_does_not_list_is_refused(packed: Path, tmp_path: Path, name: str) -> None:
    member = tarfile.TarInfo(name)
    member.size = 3
    leaves_nothing(rewritten(packed, tmp_path / "evil.tar", member, b"abc"), tmp_path)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])
def test_a_link_or_device_is_refused(packed: Path, tmp_path: Path, kind: bytes) -> None:
    member = tarfile.TarInfo("labels.txt")
    member.type, member.linkname = kind, "/etc/passwd"
    leaves_nothing(rewritten(packed, tmp_path / "evil.tar", member, first=True), tmp_path)
    leaves_nothing(rewritten(packed, tmp_path / "evil.tar", member), tmp_path)


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.tar").write_bytes(b"hello" * 1000)
    leaves_nothing(tmp_path / "text.tar", tmp_path)
    (tmp_path / "text.tar").write_bytes(b"")
    leaves_nothing(tmp_path / "text.tar", tmp_path)
    with pytest.raises(BundleError, match="missing.tar"):
        unpack(tmp_path / "missing.tar", tmp_path / "out")


BROKEN = sorted(path for path in VECTORS.glob("*.tar") if path.stem != "bundle-whole")


def test_the_whole_vector_opens(tmp_path: Path) -> None:
    assert unpack(VECTORS / "bundle-whole.tar", tmp_path / "out").manifest.version == "v1"
    assert len(BROKEN) >= 5


@pytest.mark.parametrize("path", BROKEN, ids=lambda path: path.stem)
def test_a_broken_archive_is_refused(path: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError):
        unpack(path, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
