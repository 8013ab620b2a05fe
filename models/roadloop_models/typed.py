"""Documents read as types: JSON, MessagePack, and what a database or a TOML file gave. Nobody else asks msgspec for it.

msgspec (0.22.0) works out a Struct's fields when they are first asked for, and shows the result to other threads before
it is filled: two threads that read one type for the first time can end the whole process with SIGSEGV. So types are
learned under a lock, each once; what is learned is read without one.
"""

from collections.abc import Callable
from threading import Lock
from typing import Any, TypeVar, overload

import msgspec

T = TypeVar("T")
Raw = bytes | bytearray | memoryview

_learning = Lock()
_learned: dict[tuple[Callable[[Any], Any], Any], Any] = {}


@overload
def from_json(raw: Raw | str, kind: type[T]) -> T: ...
@overload
def from_json(raw: Raw | str, kind: Any) -> Any: ...
def from_json(raw: Raw | str, kind: Any) -> Any:
    """One document. Raises msgspec.DecodeError for what is not JSON, ValidationError for what is no `kind`."""
    return _learn(msgspec.json.Decoder, kind).decode(raw)


@overload
def from_msgpack(raw: Raw, kind: type[T]) -> T: ...
@overload
def from_msgpack(raw: Raw, kind: Any) -> Any: ...
def from_msgpack(raw: Raw, kind: Any) -> Any:
    """One document. Raises msgspec.DecodeError for what is not MessagePack, ValidationError for what is no `kind`."""
    return _learn(msgspec.msgpack.Decoder, kind).decode(raw)


@overload
def from_builtins(found: Any, kind: type[T], *, str_keys: bool = False) -> T: ...
@overload
def from_builtins(found: Any, kind: Any, *, str_keys: bool = False) -> Any: ...
def from_builtins(found: Any, kind: Any, *, str_keys: bool = False) -> Any:
    """Tables, lists and scalars as `kind`; `str_keys`: they come from where keys are text. Raises ValidationError."""
    _learn(msgspec.json.Decoder, kind)
    return msgspec.convert(found, kind, str_keys=str_keys)


def _learn(make: Callable[[Any], Any], kind: Any) -> Any:
    found = _learned.get((make, kind))
    if found is None:
        with _learning:
            found = _learned.get((make, kind)) or make(kind)  # another thread may have learned it meanwhile
            _learned[make, kind] = found
    return found
