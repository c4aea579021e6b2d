"""The canonical form of arguments: the vectors that every client and the server share."""

import enum
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from zta import ArgumentsError
from zta._arguments import BYTES_MAX, canonical, digest, encode, parse, snapshot

VECTORS = json.loads((Path(__file__).parent / "vectors" / "argument_digest.json").read_text())


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_vector(vector: dict[str, Any]) -> None:
    if vector.get("error"):
        with pytest.raises(ArgumentsError):
            canonical(parse(vector["json"]))
        return
    value = parse(vector["json"])
    assert canonical(value).decode() == vector["canonical"]
    assert digest(value).hex() == vector["sha256"]
    assert hashlib.sha256(vector["canonical"].encode()).hexdigest() == vector["sha256"]


@pytest.mark.parametrize(
    "vector", [v for v in VECTORS if not v.get("error")], ids=lambda vector: vector["name"]
)
def test_the_text_that_is_sent_has_the_digest_that_is_sent(vector: dict[str, Any]) -> None:
    text, sha256 = encode(parse(vector["json"]))
    assert digest(parse(text)) == sha256


class Colour(str, enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


def test_subclasses_count_as_what_they_are_in_json() -> None:
    value = {"a": Colour.RED, "b": Level.HIGH, "c": (1, 2)}
    assert canonical(value) == b'{"a":"red","b":3,"c":[1,2]}'
    assert encode({"a": Colour.RED})[0] == b'{"a":"red"}'


@pytest.mark.parametrize(
    "value", [{"a": object()}, {"a": b"x"}, {1: "a"}, {"a": {1}}, {"a": 1j}, [], "x", None]
)
def test_what_is_not_json_is_refused_without_its_value(value: Any) -> None:
    with pytest.raises(ArgumentsError) as error:
        encode(value)
    assert "object at" not in str(error.value)


def test_sizes() -> None:
    encode({"a": "x" * (BYTES_MAX - 8)})
    with pytest.raises(ArgumentsError, match=str(BYTES_MAX)):
        encode({"a": "x" * (BYTES_MAX - 7)})
    with pytest.raises(ArgumentsError):
        encode({"a": 10**5000})


def test_a_cycle_is_refused() -> None:
    value: dict[str, Any] = {}
    value["a"] = value
    with pytest.raises(ArgumentsError):
        encode(value)


def test_invalid_utf8_is_refused() -> None:
    with pytest.raises(ArgumentsError):
        parse(b'{"a":"\xff"}')


def test_a_snapshot_does_not_change_with_its_origin() -> None:
    inner = {"b": 1}
    copy = snapshot({"a": inner})
    inner["b"] = 2
    assert copy == {"a": {"b": 1}}
    odd = {"a": object()}
    assert snapshot(odd) is odd
