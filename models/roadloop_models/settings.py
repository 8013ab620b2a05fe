"""Configuration files: TOML read once into frozen structs, and strict about what it does not know.

An unknown key is an error that names the file, the key and the nearest known one: a misspelt setting must not be
silently without effect.
"""

import difflib
import tomllib
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

from roadloop_models.errors import ConfigError
from roadloop_models.typed import from_builtins

StructT = TypeVar("StructT", bound=msgspec.Struct)


def read_settings(path: Path, kind: type[StructT]) -> StructT:
    """Read a TOML file as `kind`. Raises ConfigError naming the file and the field."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error
    return convert_settings(str(path), raw, kind)


def convert_settings(where: str, raw: dict[str, Any], kind: type[StructT]) -> StructT:
    """A table that was read as `kind`. Raises ConfigError that begins with `where` and names the field."""
    _refuse_unknown(where, raw, kind, "")
    try:
        return from_builtins(raw, kind)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {error}") from error


def nearest(word: str, known: Iterable[str]) -> str:
    """The end of an error message: the known word that was probably meant, or all of them."""
    words = list(known)
    matches = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    return f"; did you mean '{matches[0]}'?" if matches else f"; known are {', '.join(words)}"


def _refuse_unknown(path: str, raw: Any, kind: Any, where: str) -> None:
    """Walk the tables beside their types: msgspec alone would not say which key was meant."""
    if isinstance(raw, list) and get_origin(kind) in (list, tuple):
        for index, value in enumerate(raw):
            _refuse_unknown(path, value, get_args(kind)[0], f"{where.removesuffix('.')}[{index}].")
        return
    if not isinstance(raw, dict):
        return
    if get_origin(kind) is dict:
        for key, value in raw.items():
            _refuse_unknown(path, value, get_args(kind)[1], f"{where}{key}.")
        return
    if isinstance(kind, types.UnionType) or get_origin(kind) is Union:
        tables = [member for member in get_args(kind) if hasattr(member, "__struct_config__")]
        if not tables:
            return
        if len(tables) == 1 and tables[0].__struct_config__.tag is None:  # a table that may be left out
            _refuse_unknown(path, raw, tables[0], where)
            return
        members = {member.__struct_config__.tag: member for member in tables}
        if raw.get("kind") not in members:
            near = nearest(str(raw.get("kind")), members)
            raise ConfigError(f"{path}: {where}kind: {raw.get('kind')!r} is none of {', '.join(members)}{near}")
        kind, raw = members[raw["kind"]], {key: value for key, value in raw.items() if key != "kind"}
    if not hasattr(kind, "__struct_fields__"):
        return
    hints = get_type_hints(kind)
    fields = dict(zip(kind.__struct_encode_fields__, kind.__struct_fields__, strict=True))
    for key, value in raw.items():
        if key not in fields:
            raise ConfigError(f"{path}: {where}{key}: unknown key{nearest(key, fields)}")
        _refuse_unknown(path, value, hints[fields[key]], f"{where}{key}.")
