"""Verify the server's log by its public key alone: what is on record, and that it only grows.

`LogKey.verify_receipt` needs no server. `LogView` keeps the last checkpoint that this client saw in
a file: a server that puts an older state of its log back, or shows different logs to different
clients, is found by whoever kept one. Formats: C2SP signed-note, tlog-checkpoint and tlog-proof
over an RFC 6962 tree.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from zta import v1
from zta._errors import ZtaError

_ED25519 = b"\x01"
_RECEIPT = "c2sp.org/tlog-proof@v1"
_HASH_BYTES = 32


class LogError(ZtaError):
    """The log, or something said of it, is not to be believed."""


class RolledBackError(LogError):
    """The log is smaller than it was."""


class SplitViewError(LogError):
    """The log is not the one that was seen. Both checkpoints together prove it; keep them."""

    def __init__(self, message: str, note: str) -> None:
        super().__init__(message)
        self.note = note
        """The signed note that does not extend the one that was seen."""


@dataclass(frozen=True)
class Checkpoint:
    """A signed state of the log."""

    size: int
    """How many records it signs."""
    root: bytes
    note: str = field(repr=False)
    """The C2SP signed note."""


@dataclass(frozen=True)
class Recorded:
    """What a receipt proves: its leaf stands at this place of the log."""

    sequence: int
    checkpoint: Checkpoint


class LogKey:
    """The public key of a log: `<name>+<id>+<key>`, as `zta audit verify` prints it.

    Get it from a place that the log's keeper cannot write.
    """

    def __init__(self, text: str) -> None:
        name, key_id, encoded = ([*text.strip().split("+", 2), "", ""])[:3]
        key = _decode(encoded)
        if not name or key is None or key[:1] != _ED25519 or len(key) != 1 + _HASH_BYTES:
            raise LogError("not the public key of a log: `<name>+<id>+<key>` is expected")
        self.origin = name
        """The log's name."""
        self._id = hashlib.sha256(name.encode() + b"\n" + key).digest()[:4]
        if self._id.hex() != key_id:
            raise LogError("the public key of the log does not fit its id: a part is altered")
        self._key = Ed25519PublicKey.from_public_bytes(key[1:])

    def open(self, note: str) -> Checkpoint:
        """Read a checkpoint that this key signed; raises LogError."""
        text, split, signatures = note.rpartition("\n\n")
        lines = text.split("\n")
        if not split or len(lines) < 3:  # noqa: PLR2004 - origin, size, root
            raise LogError("malformed: not a signed checkpoint")
        if lines[0] != self.origin:
            raise LogError(f"it is of another log, `{lines[0]}`")
        root = _hash(lines[2])
        if not any(self._signed(text + "\n", line) for line in signatures.split("\n")):
            raise LogError("no signature of the checkpoint is by the log's key")
        return Checkpoint(_number(lines[1]), root, note)

    def _signed(self, text: str, line: str) -> bool:
        name, _, encoded = line.removeprefix("\u2014 ").partition(" ")
        signature = _decode(encoded) if line.startswith("\u2014 ") else None
        if name != self.origin or signature is None or signature[:4] != self._id:
            return False
        try:
            self._key.verify(signature[4:], text.encode())
        except InvalidSignature:
            return False
        return True

    def verify_receipt(self, receipt: v1.Receipt) -> Recorded:
        """Verify, without a server, that the receipt's leaf is on record; raises LogError."""
        head, split, note = receipt.proof.partition("\n\n")
        lines = head.split("\n")
        if not split or lines.pop(0) != _RECEIPT:
            raise LogError("malformed: not a receipt")
        if lines and lines[0].startswith("extra "):
            lines.pop(0)
        if not lines or not lines[0].startswith("index "):
            raise LogError("malformed: a receipt without its index")
        sequence = _number(lines.pop(0).removeprefix("index "))
        proof = [_hash(line) for line in lines]
        checkpoint = self.open(note)
        leaf = hashlib.sha256(b"\x00" + receipt.leaf).digest()
        if _root_of(sequence, checkpoint.size, leaf, proof) != checkpoint.root:
            raise LogError(f"the leaf is not at place {sequence} of the log that is signed")
        return Recorded(sequence, checkpoint)


class LogView:
    """What this client knows of a log: its key and, in a file, the last checkpoint that it saw.

    The file need not be there yet; put it where the log's keeper cannot write.
    """

    def __init__(self, key: LogKey, path: str | os.PathLike[str]) -> None:
        self.key = key
        self.path = Path(path).expanduser()

    def last(self) -> Checkpoint | None:
        """Return the last checkpoint, None before the first; raises LogError."""
        try:
            return self.key.open(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise LogError(f"`{self.path}` cannot be read: {error}") from error

    def advance(self, note: str, proof: Sequence[bytes] = ()) -> Checkpoint:
        """Take a newer checkpoint, with the consistency proof from the last one to it.

        Raises RolledBackError or SplitViewError where it does not extend the last one, which then
        stays.
        """
        new, known = self.key.open(note), self.last()
        if known is None:
            self._keep(new)
            return new
        if new.size < known.size:
            raise RolledBackError(
                f"the log was rolled back: {new.size} records are signed, {known.size} were before"
            )
        confirm_extension(known, new, proof)
        if new.size > known.size:
            self._keep(new)
        return new

    def _keep(self, checkpoint: Checkpoint) -> None:
        descriptor, temporary = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(checkpoint.note)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(self.path)
        except OSError as error:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()
            raise LogError(f"`{self.path}` cannot be written: {error}") from error


def confirm_extension(old: Checkpoint, new: Checkpoint, proof: Sequence[bytes]) -> None:
    """Raise SplitViewError unless the tree of `new` begins with that of `old`."""
    if not _is_extension(old, new, proof):
        raise SplitViewError(
            f"a split view: the log of {new.size} records does not begin with the {old.size} that "
            "were seen; keep both checkpoints as evidence",
            new.note,
        )


def consistency_request(
    old: Checkpoint | None, new: Checkpoint
) -> v1.GetConsistencyProofRequest | None:
    """What to ask the server for, to show that `new` extends `old`; None where nothing helps."""
    if old is None or not 0 < old.size < new.size:
        return None
    return v1.GetConsistencyProofRequest(first_size=old.size, second_size=new.size)


def _decode(text: str) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None


def _hash(line: str) -> bytes:
    decoded = _decode(line)
    if decoded is None or len(decoded) != _HASH_BYTES:
        raise LogError("malformed: a line that is no hash")
    return decoded


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or str(int(text)) != text or int(text) >= 1 << 64:
        raise LogError("malformed: a line that is no number")
    return int(text)


def _join(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def _turns(place: int, last: int, proof: Sequence[bytes]) -> Iterator[tuple[bool, bytes]]:
    """Whether each hash of a proof stands left; raises where the proof has a wrong length."""
    for sibling in proof:
        if last == 0:
            raise LogError("malformed: a proof that is too long")
        if place & 1 or place == last:
            yield True, sibling
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            yield False, sibling
        place, last = place >> 1, last >> 1
    if last != 0:
        raise LogError("malformed: a proof that is too short")


def _root_of(index: int, size: int, leaf: bytes, proof: Sequence[bytes]) -> bytes | None:
    """Return the root that an inclusion proof leads to (RFC 9162, 2.1.3.2)."""
    if index >= size:
        return None
    value = leaf
    for is_left, sibling in _turns(index, size - 1, proof):
        value = _join(sibling, value) if is_left else _join(value, sibling)
    return value


def _is_extension(old: Checkpoint, new: Checkpoint, proof: Sequence[bytes]) -> bool:
    """Whether the tree of `new` begins with that of `old` (RFC 9162, 2.1.4.2)."""
    if old.size == new.size:
        return old.root == new.root
    if not 0 < old.size < new.size:
        return False
    hashes = list(proof)
    if any(len(item) != _HASH_BYTES for item in hashes):
        return False
    is_complete = old.size & (old.size - 1) == 0
    if not is_complete and not hashes:
        return False
    seed = old.root if is_complete else hashes.pop(0)
    place, last = old.size - 1, new.size - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    first = second = seed
    try:
        for is_left, sibling in _turns(place, last, hashes):
            first = _join(sibling, first) if is_left else first
            second = _join(sibling, second) if is_left else _join(second, sibling)
    except LogError:
        return False
    return first == old.root and second == new.root
