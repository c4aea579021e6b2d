"""A certificate authority for one test. Pure but for its keys and the clock."""

from __future__ import annotations

import datetime
import ipaddress
import uuid
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from zta import v1

_BACKDATE = datetime.timedelta(seconds=5)


def new_key() -> ec.EllipticCurvePrivateKey:
    """An EC P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A key as PKCS#8 in PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


class Authority:
    """A self-signed CA that issues server and agent certificates."""

    def __init__(self, trust_domain: str = "zta.local") -> None:
        self.trust_domain = trust_domain
        self._key = new_key()
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "zta test CA")])
        constraints = x509.BasicConstraints(ca=True, path_length=0)
        self.certificate = self._sign(
            self._name,
            self._key.public_key(),
            datetime.timedelta(days=1),
            [(constraints, True)],
        )

    @property
    def pem(self) -> bytes:
        """The CA certificate."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def der(self) -> bytes:
        """The CA certificate."""
        return self.certificate.public_bytes(serialization.Encoding.DER)

    def server(self) -> tuple[bytes, bytes]:
        """A key and a certificate for localhost, in PEM."""
        key = new_key()
        names = [
            x509.DNSName("localhost"),
            x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
            x509.IPAddress(ipaddress.ip_address("::1")),
        ]
        certificate = self._sign(
            x509.Name([]),
            key.public_key(),
            datetime.timedelta(days=1),
            [(x509.SubjectAlternativeName(names), True)],
        )
        return key_pem(key), certificate.public_bytes(serialization.Encoding.PEM)

    def spiffe_id(self, agent: str) -> str:
        """The SPIFFE ID of an agent's name."""
        return f"spiffe://{self.trust_domain}/agent/{agent}"

    def agent(
        self, agent: str, public_key: Any, lifetime: datetime.timedelta, instance_id: str = ""
    ) -> v1.Certificate:
        """A certificate for an agent's public key, as the server answers it."""
        spiffe_id = self.spiffe_id(agent)
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(spiffe_id)])
        certificate = self._sign(x509.Name([]), public_key, lifetime, [(names, True)])
        issued = v1.Certificate(
            certificate_pem=certificate.public_bytes(serialization.Encoding.PEM).decode(),
            ca_bundle_pem=self.pem.decode(),
            spiffe_id=spiffe_id,
            instance_id=instance_id or str(uuid.uuid4()),
        )
        issued.not_before.FromDatetime(certificate.not_valid_before_utc)
        issued.not_after.FromDatetime(certificate.not_valid_after_utc)
        return issued

    def _sign(
        self,
        subject: x509.Name,
        public_key: Any,
        lifetime: datetime.timedelta,
        extensions: list[tuple[x509.ExtensionType, bool]],
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.timezone.utc)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - min(_BACKDATE, lifetime))
            .not_valid_after(now + lifetime)
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(self._key, hashes.SHA256())
