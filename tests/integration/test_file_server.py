"""The file server behind real TLS: who is let in, what they get, how fast, and what it costs to be rude."""

import hashlib
import http.client
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from roadloop_cloud.fleet.director_files import DirectorFiles
from roadloop_cloud.fleet.file_server import ServerLimits
from roadloop_cloud.fleet.files import RepositoryFiles
from roadloop_cloud.identity.authority import Authority
from roadloop_models.contract.channels import BLOCK_BYTES
from roadloop_models.contract.messages import Desired, ReleaseRef
from tests.fakes.live_cloud import LiveCloud, wait_until
from tests.fakes.served_files import ServedFiles

CONTENT = bytes(range(256)) * 1024
PATH = f"targets/x/{hashlib.sha256(CONTENT).hexdigest()}.model"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[ServedFiles]:
    with ServedFiles(tmp_path) as made:
        made.files.contents[PATH] = CONTENT
        yield made


def connection(served: ServedFiles, name: str = "van-1") -> http.client.HTTPSConnection:
    return http.client.HTTPSConnection("127.0.0.1", served.port, timeout=10, context=served.client_tls(name))


def plain(served: ServedFiles) -> ssl.SSLSocket:
    """A connection without HTTP."""
    connected = socket.create_connection(("127.0.0.1", served.port), timeout=10)
    return served.client_tls("van-1").wrap_socket(connected, server_hostname="127.0.0.1")


def get(client: http.client.HTTPSConnection, path: str, **fields: str) -> tuple[int, bytes]:
    client.request("GET", path, headers=fields)
    response = client.getresponse()
    return response.status, response.read()


def test_a_vehicle_gets_files_and_ranges_over_one_connection(served: ServedFiles) -> None:
    with closing(connection(served)) as client:
        assert get(client, f"/{PATH}") == (200, CONTENT)
        assert get(client, f"/{PATH}", Range="bytes=1000-1999") == (206, CONTENT[1000:2000])
        assert get(client, "/targets/x/none") == (404, b"")
        assert get(client, f"/{PATH}", Range=f"bytes={len(CONTENT)}-") == (416, b"")
        assert get(client, f"/{PATH}", Range="bytes=262000-") == (206, CONTENT[262000:])
    assert {vehicle for vehicle, _ in served.files.asked} == {"van-1"}, "the name in the certificate"


def refused(served: ServedFiles, context: ssl.SSLContext) -> None:
    """With TLS 1.3 the server's refusal comes with its first answer."""
    client = http.client.HTTPSConnection("127.0.0.1", served.port, timeout=10, context=context)
    with closing(client), pytest.raises((ssl.SSLError, ConnectionError, http.client.HTTPException)):
        get(client, f"/{PATH}")
    assert not served.files.asked


def test_who_has_no_certificate_is_refused(served: ServedFiles) -> None:
    context = ssl.create_default_context(cafile=str(served.authority.certificate_path))
    refused(served, context)
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # where the refusal belongs to the handshake itself
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as connected, pytest.raises(ssl.SSLError):
        context.wrap_socket(connected, server_hostname="127.0.0.1")


def test_a_certificate_of_another_authority_is_refused(served: ServedFiles, tmp_path: Path) -> None:
    rogue = Authority(tmp_path / "rogue")
    (tmp_path / "rogue").mkdir()
    rogue.create("test CA")
    served.identity("van-1", rogue)
    refused(served, served.client_tls("van-1"))


def test_a_revoked_certificate_is_refused_without_a_restart_and_on_open_connections(served: ServedFiles) -> None:
    with closing(connection(served)) as open_before, closing(connection(served, "van-2")) as other:
        assert get(open_before, f"/{PATH}")[0] == get(other, f"/{PATH}")[0] == 200
        served.authority.revoke(served.identity("van-1").certificate)

        def is_refused() -> bool:
            with closing(connection(served)) as client:
                return get(client, f"/{PATH}") == (403, b"")

        wait_until("the revoked vehicle is refused", is_refused)
        assert get(open_before, f"/{PATH}") == (403, b"")
        assert get(other, f"/{PATH}")[0] == 200, "others are not"


@pytest.mark.parametrize("path", ["/../secret.pem", "/targets/../../secret.pem", "/metadata/%2e%2e/x", "//etc/passwd"])
def test_no_path_leads_out(served: ServedFiles, tmp_path: Path, path: str) -> None:
    (tmp_path / "secret.pem").write_bytes(b"secret")
    (tmp_path / "repository" / "targets").mkdir(parents=True)
    served.files.find = RepositoryFiles(tmp_path / "repository").find  # type: ignore[method-assign]
    with closing(connection(served)) as client:
        client.putrequest("GET", path, skip_host=True)
        client.endheaders()
        assert client.getresponse().status == 404


def test_a_vehicle_gets_its_own_director_and_can_name_no_other(served: ServedFiles, tmp_path: Path) -> None:
    cloud = LiveCloud(tmp_path / "cloud", "van-1", "van-2")
    app, name = cloud.app, "metadata/timestamp.json"
    ref = ReleaseRef(task="traffic-sign", release=1, version="tiny-1", manifest_sha256="a" * 64)
    for vehicle in ("van-1", "van-2"):
        app.directors.assign(vehicle, Desired(version=1, slots={"sign": ref}))
    files = DirectorFiles(app.directors, RepositoryFiles(app.workspace.repository))
    served.files.find = files.find  # type: ignore[method-assign]
    for vehicle in ("van-1", "van-2"):
        with closing(connection(served, vehicle)) as client:
            assert get(client, f"/director/{name}") == (200, app.directors.read(vehicle, name))
            for other in ("van-1", "van-2"):
                assert get(client, f"/director/{other}/{name}")[0] == 404
                assert get(client, f"/director/vehicles/{other}.json")[0] == 404
    assert app.directors.read("van-1", name) != app.directors.read("van-2", name)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /x HTTP/1.1\r\nX: " + b"y" * 20_000 + b"\r\n\r\n", b"431"),
        (b"DELETE /x HTTP/1.1\r\n\r\n", b"405"),
        (b"\x00\x01\x02\r\n\r\n", b"400"),
    ],
)
def test_what_is_no_request_ends_the_connection(served: ServedFiles, sent: bytes, status: bytes) -> None:
    received = b""
    with plain(served) as client:
        client.sendall(sent)
        while data := _read(client):
            received += data
    assert received.startswith(b"HTTP/1.1 " + status)


def _read(client: ssl.SSLSocket) -> bytes:
    try:
        return client.recv(65536)
    except (ConnectionError, ssl.SSLError):
        return b""


def test_each_vehicle_has_its_pace_over_all_its_connections(tmp_path: Path) -> None:
    with ServedFiles(tmp_path, pace_bytes_per_s=4 * BLOCK_BYTES) as served:
        served.files.contents[PATH] = CONTENT
        with closing(connection(served)) as one, closing(connection(served)) as two:
            begin_s = time.monotonic()
            one.request("GET", f"/{PATH}", headers={"Range": f"bytes=0-{2 * BLOCK_BYTES - 1}"})
            two.request("GET", f"/{PATH}", headers={"Range": f"bytes=0-{2 * BLOCK_BYTES - 1}"})
            assert len(one.getresponse().read()) == len(two.getresponse().read()) == 2 * BLOCK_BYTES
            assert time.monotonic() - begin_s > 0.7, "four blocks at four a second, less a burst of a quarter"


def test_a_vehicle_may_hold_so_many_connections_only(tmp_path: Path) -> None:
    with ServedFiles(tmp_path, limits=ServerLimits(connections_per_vehicle=1)) as served:
        served.files.contents[PATH] = CONTENT
        with closing(connection(served)) as one, closing(connection(served)) as two:
            assert get(one, f"/{PATH}")[0] == 200
            assert get(two, f"/{PATH}")[0] == 503
            with closing(connection(served, "van-2")) as other:
                assert get(other, f"/{PATH}")[0] == 200


def test_who_asks_for_nothing_is_let_go(tmp_path: Path) -> None:
    with ServedFiles(tmp_path, limits=ServerLimits(head_timeout_s=0.2)) as served, plain(served) as client:
        client.sendall(b"GET /x HT")
        assert _read(client) == b""


def test_who_takes_nothing_is_let_go(tmp_path: Path) -> None:
    with ServedFiles(tmp_path, limits=ServerLimits(stall_timeout_s=0.3, connections_per_vehicle=1)) as served:
        served.files.contents["metadata/large"] = bytes(64 << 20)
        with closing(connection(served)) as stalled:
            stalled.request("GET", "/metadata/large")

            def free() -> bool:
                with closing(connection(served)) as client:
                    return get(client, "/none")[0] == 404

            wait_until("its place is free again", free)
