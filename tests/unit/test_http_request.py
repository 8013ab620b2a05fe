"""The file server's HTTP: what it understands, what it refuses, and what it answers."""

from http import HTTPStatus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadloop_cloud.fleet.http_request import Get, answer, parse, refusal


def head(*lines: str) -> bytes:
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def test_a_get_with_and_without_a_range() -> None:
    assert parse(head("GET /targets/x/a.b HTTP/1.1", "Host: x")) == Get("targets/x/a.b")
    assert parse(head("GET /a HTTP/1.1", "range: bytes=5-")) == Get("a", 5)
    assert parse(head("GET /a HTTP/1.1", "Range: bytes=5-9", "Connection: close")) == Get("a", 5, 9, keep_alive=False)
    assert parse(head("GET /a HTTP/1.0")) == Get("a", keep_alive=False)


@pytest.mark.parametrize("value", ["bytes=-5", "bytes=1-2,4-5", "lines=1-2", "bytes=a-b", "bytes=99999999999999999-"])
def test_a_range_of_another_kind_counts_as_none(value: str) -> None:
    assert parse(head("GET /a HTTP/1.1", f"Range: {value}")) == Get("a")


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (["POST /a HTTP/1.1"], HTTPStatus.METHOD_NOT_ALLOWED),
        (["GET /a HTTP/1.1", "Content-Length: 3"], HTTPStatus.BAD_REQUEST),
        (["GET /a HTTP/1.1", "Transfer-Encoding: chunked"], HTTPStatus.BAD_REQUEST),
        (["GET /a HTTP/1.1", " folded"], HTTPStatus.BAD_REQUEST),
        (["GET /a HTTP/1.1", "name : value"], HTTPStatus.BAD_REQUEST),
        (["GET /a"], HTTPStatus.BAD_REQUEST),
        (["GET /a HTTP/2"], HTTPStatus.BAD_REQUEST),
        (["GET /\xff HTTP/1.1"], HTTPStatus.BAD_REQUEST),
        (["GET http://elsewhere/a HTTP/1.1"], HTTPStatus.NOT_FOUND),
        (["GET /%2e%2e/secret HTTP/1.1"], HTTPStatus.NOT_FOUND),
        (["GET /a?b HTTP/1.1"], HTTPStatus.NOT_FOUND),
        (["GET / HTTP/1.1"], HTTPStatus.NOT_FOUND),
        (["GET /" + "a" * 201 + " HTTP/1.1"], HTTPStatus.NOT_FOUND),
    ],
)
def test_what_is_refused(lines: list[str], status: HTTPStatus) -> None:
    assert parse(head(*lines)) is status
    assert refusal(status).head.startswith(f"HTTP/1.1 {status.value} ".encode())


@given(st.binary(max_size=300))
def test_any_bytes_are_a_request_or_refused(content: bytes) -> None:
    assert isinstance(parse(content + b"\r\n\r\n"), Get | HTTPStatus)


def test_answers() -> None:
    whole = answer(Get("a"), 100)
    assert (whole.status, whole.first, whole.end) == (
        HTTPStatus.OK,
        0,
        100,
    ) and b"Content-Length: 100\r\n" in whole.head
    part = answer(Get("a", 10, 19), 100)
    assert (part.status, part.first, part.end) == (HTTPStatus.PARTIAL_CONTENT, 10, 20)
    assert b"Content-Range: bytes 10-19/100\r\n" in part.head and b"Content-Length: 10\r\n" in part.head
    rest = answer(Get("a", 90, 1000), 100)
    assert (rest.first, rest.end) == (90, 100)
    beyond = answer(Get("a", 100), 100)
    assert beyond.status is HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and beyond.first == beyond.end
    assert b"Content-Range: bytes */100\r\n" in beyond.head


@given(size=st.integers(0, 1000), first=st.integers(0, 1100), length=st.none() | st.integers(0, 1100))
def test_an_answer_never_leaves_the_file(size: int, first: int, length: int | None) -> None:
    given_answer = answer(Get("a", first, None if length is None else first + length), size)
    assert 0 <= given_answer.first <= given_answer.end <= size
