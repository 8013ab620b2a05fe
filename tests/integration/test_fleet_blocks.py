"""The block server: what it reads, what it refuses to read, and whose turn it is."""

import hashlib
import os
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadloop_cloud.fleet.blocks import EMPTY_SHA256, MAX_QUEUED_BLOCKS, BlockServer, OutgoingBlock
from roadloop_cloud.fleet.files import MAX_METADATA_BYTES, RepositoryFiles
from roadloop_models.contract.channels import BLOCK_BYTES
from roadloop_models.contract.messages import FetchRequest

CONTENT = os.urandom(3 * BLOCK_BYTES + 10)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
TARGET = f"targets/traffic-sign/2/{SHA256}.model.onnx"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "repository"
    (root / "metadata").mkdir(parents=True)
    (root / "metadata" / "timestamp.json").write_bytes(b"{}")
    (root / TARGET).parent.mkdir(parents=True)
    (root / TARGET).write_bytes(CONTENT)
    (tmp_path / "secret.pem").write_bytes(b"secret")
    return root


def request(path: str, *blocks: tuple[int, int]) -> FetchRequest:
    return FetchRequest(path=path, blocks=blocks or ((0, 255),))


def drain(server: BlockServer, now_s: float = 0.0) -> list[OutgoingBlock]:
    found = []
    while (block := server.next_block(now_s)) is not None:
        found.append(block)
    return found


def test_blocks_make_the_file(repository: Path) -> None:
    server = BlockServer(RepositoryFiles(repository), lambda _: 1 << 30)
    server.request("v1", request(TARGET), 0.0)
    found = drain(server)
    assert [block.n for block in found] == [0, 1, 2, 3]
    assert b"".join(block.block.data for block in found) == CONTENT
    for block in found:
        assert (block.vehicle, block.sha256, block.block.size_bytes) == ("v1", SHA256, len(CONTENT))
        assert block.block.crc32 == zlib.crc32(block.block.data)


def test_only_what_is_asked_for_and_only_once(repository: Path) -> None:
    server = BlockServer(RepositoryFiles(repository), lambda _: 1 << 30)
    server.request("v1", request(TARGET, (3, 9), (1, 1)), 0.0)
    server.request("v1", request(TARGET, (1, 3)), 0.0)
    assert [block.n for block in drain(server)] == [3, 1, 2]


def test_metadata_is_what_it_was_when_it_was_asked_for(repository: Path) -> None:
    server = BlockServer(RepositoryFiles(repository), lambda _: 1 << 30)
    server.request("v1", request("metadata/timestamp.json", (0, 7)), 0.0)
    (repository / "metadata" / "timestamp.json").write_bytes(b"newer")
    assert [(block.sha256, block.block.data) for block in drain(server)] == [(hashlib.sha256(b"{}").hexdigest(), b"{}")]


def test_a_missing_file_is_said_to_be_missing(repository: Path) -> None:
    server = BlockServer(RepositoryFiles(repository), lambda _: 1 << 30)
    server.request("v1", request("metadata/2.root.json"), 0.0)
    (found,) = drain(server)
    assert (found.sha256, found.n, found.block.missing, found.block.data) == (EMPTY_SHA256, 0, True, b"")
    assert found.block.path == "metadata/2.root.json"


@pytest.mark.parametrize(
    "path",
    [
        "../secret.pem",
        "targets/../../secret.pem",
        "metadata/../../secret.pem",
        "metadata/..",
        "/etc/passwd",
        "metadata//timestamp.json",
        "metadata/./timestamp.json",
        "metadata/timestamp.json/",
        "metadata/timestamp.json\n",
        "metadata\\timestamp.json",
        "metadata",
        "targets",
        ".lock",
        "metadata/.timestamp.json.partial",
        "metadata/link.json",
        "targets/link/secret.pem",
        "metadata/\x00",
        "",
    ],
)
def test_no_path_leads_out(repository: Path, path: str) -> None:
    (repository / ".lock").touch()
    (repository / "metadata" / ".timestamp.json.partial").write_bytes(b"half")
    (repository / "metadata" / "link.json").symlink_to(repository.parent / "secret.pem")
    (repository / "targets" / "link").symlink_to(repository.parent)
    assert RepositoryFiles(repository).find("v1", path) is None


@given(st.text(alphabet="./abc%\\~", max_size=30))
def test_whatever_is_asked_for_lies_in_the_repository(path: str) -> None:
    assert RepositoryFiles(Path(__file__).parent).find("v1", f"metadata/{path}") is None


def test_an_altered_target_keeps_the_name_of_what_was_signed(repository: Path) -> None:
    """The server is no judge: the vehicle finds that the content is not what its name says."""
    (repository / TARGET).write_bytes(bytes(len(CONTENT)))
    server = BlockServer(RepositoryFiles(repository), lambda _: 1 << 30)
    server.request("v1", request(TARGET, (0, 0)), 0.0)
    (found,) = drain(server)
    assert (found.sha256, found.block.data) == (SHA256, bytes(BLOCK_BYTES))


def test_oversize_metadata_is_not_served(repository: Path) -> None:
    (repository / "metadata" / "9.root.json").write_bytes(bytes(MAX_METADATA_BYTES + 1))
    assert RepositoryFiles(repository).find("v1", "metadata/9.root.json") is None


def test_a_file_that_goes_meanwhile_is_missing(repository: Path) -> None:
    server = BlockServer(RepositoryFiles(repository), lambda _: 1 << 30)
    server.request("v1", request(TARGET, (0, 0)), 0.0)
    (repository / TARGET).unlink()
    (found,) = drain(server)
    assert found.block.missing


def test_vehicles_take_turns(repository: Path) -> None:
    server = BlockServer(RepositoryFiles(repository), lambda _: 1 << 30)
    server.request("v1", request(TARGET), 0.0)
    server.request("v2", request(TARGET), 0.0)
    assert [block.vehicle for block in drain(server)] == ["v1", "v2"] * 4


def test_each_vehicle_has_its_own_pace(repository: Path) -> None:
    paces = {"slow": BLOCK_BYTES, "fast": 4 * BLOCK_BYTES}
    server = BlockServer(RepositoryFiles(repository), paces.__getitem__)
    for vehicle in paces:
        server.request(vehicle, request(TARGET), 0.0)
    times: dict[str, list[float]] = {"slow": [], "fast": []}
    for step in range(600):
        for block in drain(server, step / 100):
            times[block.vehicle].append(step / 100)
    assert [len(found) for found in times.values()] == [4, 4]
    # The last blocks wait for all the bytes before them, less the burst of a quarter of a second.
    assert times["slow"][-1] == pytest.approx(3 - 0.25, abs=0.1)
    assert times["fast"][-1] == pytest.approx(3 / 4 - 0.25, abs=0.1)
    assert server.wait_s(6.0) is None


def test_waiting_is_as_long_as_the_pace_needs(repository: Path) -> None:
    server = BlockServer(RepositoryFiles(repository), lambda _: BLOCK_BYTES)
    assert server.wait_s(0.0) is None
    server.request("v1", request(TARGET), 0.0)
    assert server.wait_s(0.0) == 0.0
    assert len(drain(server)) == 1
    wait_s = server.wait_s(0.0)
    assert wait_s is not None
    assert wait_s == pytest.approx(0.75)
    assert drain(server, wait_s + 1e-6) != []


def test_the_queue_of_a_vehicle_is_bounded(repository: Path) -> None:
    server = BlockServer(RepositoryFiles(repository), lambda _: 1 << 40)
    for index in range(30):
        digest = f"{index:064x}"
        (repository / "targets" / "x").mkdir(exist_ok=True)
        with (repository / "targets" / "x" / f"{digest}.big").open("wb") as file:
            file.truncate(100 * BLOCK_BYTES)
        server.request("v1", request(f"targets/x/{digest}.big", (0, 99)), 0.0)
    assert len(drain(server)) == MAX_QUEUED_BLOCKS
