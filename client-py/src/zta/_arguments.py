"""The canonical form of tool arguments and their digest. Pure.

The digest is SHA-256 over RFC 8785 bytes. That form knows only doubles, so an integer beyond
±(2^53-1) becomes the string `zta:int:<digits>`, and to keep the mapping injective a string value
that begins with `zta:` becomes `zta:str:` + itself. `tests/vectors/argument_digest.json` is the
same for every client and the server.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

import rfc8785

from zta._errors import ArgumentsError

DEPTH_MAX = 32
"""The arguments object itself is at depth 1."""

BYTES_MAX = 256 * 1024
"""The most bytes of arguments that the server accepts."""

_INTEGER_MAX = 2**53 - 1
_TAG = "zta:"


def canonical(arguments: Any) -> bytes:
    """Return the canonical bytes of an arguments object; raise ArgumentsError if it has none."""
    return _canonical(_object(arguments))


def digest(arguments: Any) -> bytes:
    """Return SHA-256 of the canonical arguments."""
    return hashlib.sha256(canonical(arguments)).digest()


def encode(arguments: Any) -> tuple[bytes, bytes]:
    """Return the arguments as JSON text and their digest, both of one look at the object.

    The text keeps big integers as they are: the server reads it by the tool's declared types.
    """
    value = _object(arguments)
    sha256 = hashlib.sha256(_canonical(value)).digest()
    try:
        raw = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    except ValueError as error:  # an integer of thousands of digits, or a lone surrogate
        raise ArgumentsError("the arguments cannot be written as JSON") from error
    if len(raw) > BYTES_MAX:
        raise ArgumentsError(f"the arguments are longer than {BYTES_MAX} bytes")
    return raw, sha256


def snapshot(arguments: Any) -> Any:
    """Return a copy that nothing else holds, for a tool to receive exactly what was decided on.

    Arguments that have no canonical form come back as they are: no decision will allow them.
    """
    try:
        return _object(arguments)
    except ArgumentsError:
        return arguments


def parse(text: str | bytes) -> dict[str, Any]:
    """Read an arguments object from JSON text; duplicate keys, NaN and infinities are refused."""
    try:
        if isinstance(text, bytes):
            text = text.decode()
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except ArgumentsError:
        raise
    except (ValueError, RecursionError) as error:
        raise ArgumentsError("the arguments are not JSON") from error
    if not isinstance(value, dict):
        raise ArgumentsError("the arguments are not an object")
    return value


def _object(arguments: Any) -> dict[str, Any]:
    if not isinstance(arguments, Mapping):
        raise ArgumentsError("the arguments are not an object")
    value: dict[str, Any] = _plain(arguments, 1)
    return value


def _plain(value: Any, depth: int) -> Any:
    """A copy in exact JSON types: a subclass, such as an enum, could print as something else."""
    if isinstance(value, (Mapping, list, tuple)) and depth > DEPTH_MAX:
        raise ArgumentsError(f"the arguments are nested deeper than {DEPTH_MAX}")
    if isinstance(value, Mapping):
        return {_key(key): _plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, depth + 1) for item in value]
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ArgumentsError("the arguments hold a number that is not finite")
        return float.__float__(value)
    if isinstance(value, str):
        return str.__str__(value)
    raise ArgumentsError(f"the arguments hold a value of type `{type(value).__name__}`")


def _key(key: Any) -> str:
    if not isinstance(key, str):
        raise ArgumentsError("the arguments hold a key that is not a string")
    return str.__str__(key)


def _canonical(value: dict[str, Any]) -> bytes:
    try:
        return rfc8785.dumps(_tagged(value))
    except (ValueError, UnicodeError) as error:  # a lone surrogate, or thousands of digits
        raise ArgumentsError("the arguments have no canonical form") from error


def _tagged(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tagged(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_tagged(item) for item in value]
    if isinstance(value, int) and abs(value) > _INTEGER_MAX:
        return f"zta:int:{value}"
    if isinstance(value, str) and value.startswith(_TAG):
        return f"zta:str:{value}"
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ArgumentsError("the arguments hold a key twice")
    return result


def _refuse_constant(_name: str) -> Any:
    raise ArgumentsError("the arguments hold a number that is not finite")
