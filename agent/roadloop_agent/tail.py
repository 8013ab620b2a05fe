"""`roadloop-agent tail`: follows the decisions that link serves, as lines for people or as they come."""

import json
import socket
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from roadloop_agent.local_socket import unix_address
from roadloop_models.errors import NotFoundError, RetryLaterError

MAX_LINE_BYTES = 128 * 1024


def follow(path: Path, slot: str | None = None) -> Iterator[dict[str, Any]]:
    """What link serves at that socket, from now on; with `slot` the decisions of that one, and what was dropped.

    Raises NotFoundError where nothing serves there or it may not be read, RetryLaterError where link went away.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            with unix_address(path) as address:
                connection.connect(address)
        except OSError as error:
            raise NotFoundError(
                f"{path}: {error.strerror or error}; is the agent running, and may this user read its results?"
            ) from error
        with connection.makefile("rb") as lines:
            while line := lines.readline(MAX_LINE_BYTES):
                message: dict[str, Any] = json.loads(line)
                if slot is None or message.get("slot", slot) == slot:
                    yield message
    raise RetryLaterError(f"{path}: link has ended; it starts again by itself if the agent still runs")


def described(message: Mapping[str, Any]) -> str:
    """One line for people."""
    if "dropped" in message:
        return f"… {message['dropped']} decisions dropped: this reader is too slow"
    at = datetime.fromtimestamp(message["t_ms"] / 1000)
    decision = " ".join(f"{key}={_short(value)}" for key, value in message["decision"].items())
    when = f"{at:%H:%M:%S}.{message['t_ms'] % 1000:03d}"
    return f"{when}  {message['slot']:<12}  release {message['release']:<4}  {decision}"


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list) and len(value) > 4:
        return f"[{', '.join(_short(each) for each in value[:3])}, … {len(value)} in all]"
    if isinstance(value, list):
        return f"[{', '.join(_short(each) for each in value)}]"
    return json.dumps(value, ensure_ascii=False)
