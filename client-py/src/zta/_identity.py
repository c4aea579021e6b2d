"""The identity of an agent: its credential folder.

`key.pem` never leaves the folder and never changes; renewal replaces `cert.pem` and `ca.pem`, each
by a rename, so that a crash leaves the old or the new file and never half of one.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from zta import v1
from zta._errors import CredentialError

KEY, CERTIFICATE, CA, FACTS = "key.pem", "cert.pem", "ca.pem", "zta.json"
_FILE_BYTES_MAX = 1 << 20


@dataclass(frozen=True)
class Credential:
    """A key with its current certificate, and where its server is."""

    folder: Path
    endpoint: str
    """`host:port` of the server."""
    spiffe_id: str
    instance_id: str
    key_pem: bytes = field(repr=False)
    certificate_pem: bytes = field(repr=False)
    ca_pem: bytes = field(repr=False)
    not_before: datetime.datetime = field(repr=False)
    not_after: datetime.datetime

    @property
    def name(self) -> str:
        """The last part of the SPIFFE ID."""
        return self.spiffe_id.rsplit("/", 1)[-1]

    @property
    def certificate_der(self) -> bytes:
        """The certificate, without those that lead to the trust anchor."""
        leaf = leaf_of(self.certificate_pem, self.folder / CERTIFICATE)
        return leaf.public_bytes(serialization.Encoding.DER)

    @classmethod
    def load(cls, folder: str | os.PathLike[str], server: str | None = None) -> Credential:
        """Read a credential folder; `server` (host:port) overrides the recorded endpoint."""
        path = Path(folder)
        key_pem = _read(path / KEY, private=True)
        certificate_pem, ca_pem = _read(path / CERTIFICATE), _read(path / CA)
        facts = _facts(path / FACTS)
        leaf = leaf_of(certificate_pem, path / CERTIFICATE)
        if public_bytes(load_key(key_pem, path / KEY).public_key()) != public_bytes(
            leaf.public_key()
        ):
            raise CredentialError(f"`{path}`: cert.pem does not belong to key.pem")
        if spiffe_ids(leaf) != [facts["spiffe_id"]]:
            raise CredentialError(f"`{path}`: cert.pem does not name {facts['spiffe_id']}")
        return cls(
            folder=path,
            endpoint=server or facts["endpoint"],
            spiffe_id=facts["spiffe_id"],
            instance_id=facts["instance_id"],
            key_pem=key_pem,
            certificate_pem=certificate_pem,
            ca_pem=ca_pem,
            not_before=leaf.not_valid_before_utc,
            not_after=leaf.not_valid_after_utc,
        )

    def renewed(self, issued: v1.Certificate, *, by_our_ca: bool = True) -> Credential:
        """Store a renewed certificate of the same key and return the credential with it.

        The CAs that come with it are believed `by_our_ca` only: over a connection that ends at
        somebody whom one of those that are trusted already has certified. Else a proxy could put
        its own CA in their place, and be the server for good.
        """
        certificate_pem = issued.certificate_pem.encode()
        leaf = leaf_of(certificate_pem, "the renewed certificate")
        key = load_key(self.key_pem, self.folder / KEY)
        if public_bytes(leaf.public_key()) != public_bytes(key.public_key()):
            raise CredentialError("the renewed certificate is for another key")
        if spiffe_ids(leaf) != [self.spiffe_id]:
            raise CredentialError(f"the renewed certificate does not name {self.spiffe_id}")
        ca_pem = self.ca_pem
        if by_our_ca and issued.ca_bundle_pem:
            ca_pem = issued.ca_bundle_pem.encode()
            # First: a new leaf beside an old bundle could be refused by the server's peer.
            replace_file(self.folder / CA, ca_pem)
        replace_file(self.folder / CERTIFICATE, certificate_pem)
        return replace(
            self,
            certificate_pem=certificate_pem,
            ca_pem=ca_pem,
            not_before=leaf.not_valid_before_utc,
            not_after=leaf.not_valid_after_utc,
        )

    @contextlib.contextmanager
    def renewal_lock(self) -> Iterator[None]:
        """Only one process at a time renews a folder: the others take what it wrote."""
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def write_folder(
    folder: Path, *, endpoint: str, key_pem: bytes, issued: v1.Certificate
) -> Credential:
    """Complete a folder that was made by `create_folder` and read it back."""
    replace_file(folder / CA, issued.ca_bundle_pem.encode())
    replace_file(folder / CERTIFICATE, issued.certificate_pem.encode())
    facts = {
        "endpoint": endpoint,
        "spiffe_id": issued.spiffe_id,
        "instance_id": issued.instance_id,
    }
    replace_file(folder / FACTS, json.dumps(facts, indent=2).encode() + b"\n")
    if _read(folder / KEY, private=True) != key_pem:
        raise CredentialError(f"`{folder}` was changed by someone else meanwhile")
    return Credential.load(folder)


def create_folder(folder: Path, key_pem: bytes) -> None:
    """Make a folder of mode 0700 with a new key; an existing key is never replaced."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with os.fdopen(os.open(folder / KEY, flags, 0o600), "wb") as file:
            file.write(key_pem)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError as error:
        raise CredentialError(f"`{folder}` already holds a key; choose another folder") from error
    except OSError as error:
        raise CredentialError(f"cannot write `{folder}`: {error.strerror}") from error


def replace_file(path: Path, content: bytes) -> None:
    """Replace a file by a rename, mode 0600."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def leaf_of(pem: bytes, where: object) -> x509.Certificate:
    """The first certificate of a PEM text."""
    try:
        return x509.load_pem_x509_certificates(pem)[0]
    except ValueError as error:
        raise CredentialError(f"`{where}` holds no certificate in PEM") from error


def load_key(pem: bytes, where: object) -> ec.EllipticCurvePrivateKey:
    """An EC P-256 private key."""
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:
        raise CredentialError(f"`{where}` holds no unencrypted private key in PEM") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
        raise CredentialError(f"`{where}` is not an EC P-256 key")
    return key


def spiffe_ids(certificate: x509.Certificate) -> list[str]:
    """The URI names of a certificate."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return []
    return names.value.get_values_for_type(x509.UniformResourceIdentifier)


def public_bytes(key: Any) -> bytes:
    """A public key as SubjectPublicKeyInfo in DER."""
    encoded: bytes = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return encoded


def _read(path: Path, *, private: bool = False) -> bytes:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if private and stat.S_IMODE(mode) & 0o077:
                raise CredentialError(
                    f"`{path}` can be read by others; run: chmod 600 {path}  (and consider the "
                    "key exposed)"
                )
            return file.read(_FILE_BYTES_MAX)
    except FileNotFoundError as error:
        raise CredentialError(f"`{path}` is missing: enroll the agent first") from error
    except OSError as error:
        raise CredentialError(f"cannot read `{path}`: {error.strerror}") from error


def _facts(path: Path) -> dict[str, str]:
    try:
        facts = json.loads(_read(path))
        return {key: str(facts[key]) for key in ("endpoint", "spiffe_id", "instance_id")}
    except (ValueError, KeyError, TypeError) as error:
        raise CredentialError(
            f"`{path}` is not an object with endpoint, spiffe_id and instance_id"
        ) from error
