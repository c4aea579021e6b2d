"""A small log of the tests' own: the tree of RFC 6962 as it is defined, and a key that signs."""

import base64
import hashlib

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from zta import v1

ORIGIN = "zta.local/log/test"


def leaf(n: int) -> bytes:
    return f"leaf {n}".encode()


def sha(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def middle(start: int, end: int) -> int:
    return start + (1 << ((end - start - 1).bit_length() - 1))


def root(start: int, end: int) -> bytes:
    if end - start == 1:
        return sha(b"\x00", leaf(start))
    cut = middle(start, end)
    return sha(b"\x01", root(start, cut), root(cut, end))


def inclusion(index: int, start: int, end: int) -> list[bytes]:
    if end - start < 2:
        return []
    cut = middle(start, end)
    if index < cut:
        return [*inclusion(index, start, cut), root(cut, end)]
    return [*inclusion(index, cut, end), root(start, cut)]


def consistency(old: int, start: int, end: int, known: bool = True) -> list[bytes]:
    if old == end:
        return [] if known else [root(start, end)]
    cut = middle(start, end)
    if old <= cut:
        return [*consistency(old, start, cut, known), root(cut, end)]
    return [*consistency(old, cut, end, False), root(start, cut)]


def text(hashes: list[bytes]) -> str:
    return "".join(f"{base64.b64encode(item).decode()}\n" for item in hashes)


class Signer:
    def __init__(self) -> None:
        self.key = Ed25519PrivateKey.generate()
        public = self.key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.typed = b"\x01" + public
        self.id = sha(ORIGIN.encode(), b"\n", self.typed)[:4]
        self.vkey = f"{ORIGIN}+{self.id.hex()}+{base64.b64encode(self.typed).decode()}"

    def note(self, size: int, value: bytes) -> str:
        body = f"{ORIGIN}\n{size}\n{base64.b64encode(value).decode()}\n"
        signature = base64.b64encode(self.id + self.key.sign(body.encode())).decode()
        return f"{body}\n\u2014 {ORIGIN} {signature}\n"

    def receipt(self, index: int, size: int) -> v1.Receipt:
        head = f"c2sp.org/tlog-proof@v1\nindex {index}\n{text(inclusion(index, 0, size))}\n"
        return v1.Receipt(leaf=leaf(index), proof=head + self.note(size, root(0, size)))
