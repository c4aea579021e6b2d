"""Exchanges a join token for an identity.

The token carries the fingerprint of the server's CA. The bundle is fetched over a connection that
is not verified, compared with the fingerprint, and only the certificate that matches is trusted
for the call that shows the token's secret. A key is made here and never sent.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import http.client
import os
import re
import ssl
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from zta import v1
from zta._channel import OPTIONS
from zta._errors import CredentialError, EnrollmentError, from_grpc
from zta._identity import KEY, Credential, create_folder, write_folder

_FORM = re.compile(r"zta-join-1\.[\w-]+\.[\w-]+\.([\w-]+)", re.ASCII)
_BUNDLE_BYTES_MAX = 1 << 20


def enroll(
    join_token: str, server: str, folder: str | os.PathLike[str], *, timeout_s: float = 10.0
) -> Credential:
    """Make a key, exchange the join token for its first certificate, write a credential folder.

    The folder must hold no key yet. The token is good for one use; after an error that came
    from the server, ask for a new one.
    """
    fingerprint = _fingerprint_of(join_token)
    root = _pinned_root(server, fingerprint, timeout_s)
    key = ec.generate_private_key(ec.SECP256R1())
    key_pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path = Path(folder)
    # Before the token is spent: a folder that cannot be written must not cost it.
    create_folder(path, key_pem)
    try:
        issued = _request(server, root, join_token, key, timeout_s)
        return write_folder(path, endpoint=server, key_pem=key_pem, issued=issued)
    except BaseException:
        (path / KEY).unlink(missing_ok=True)
        raise


def _fingerprint_of(join_token: str) -> bytes:
    form = _FORM.fullmatch(join_token.strip())
    if form is None:
        raise EnrollmentError("the join token does not have the form zta-join-1.….….…")
    encoded = form.group(1)
    try:
        fingerprint = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
    except (ValueError, binascii.Error) as error:
        raise EnrollmentError("the join token's fingerprint is not base64url") from error
    if len(fingerprint) != hashlib.sha256().digest_size:
        raise EnrollmentError("the join token's fingerprint is not a SHA-256")
    return fingerprint


def _pinned_root(server: str, fingerprint: bytes, timeout_s: float) -> bytes:
    """The CA certificate that the token names, in PEM."""
    for certificate in _fetch_bundle(server, timeout_s):
        der = certificate.public_bytes(serialization.Encoding.DER)
        if hmac.compare_digest(hashlib.sha256(der).digest(), fingerprint):
            return certificate.public_bytes(serialization.Encoding.PEM)
    raise EnrollmentError(
        f"the server at `{server}` is not the one that made the join token: "
        "none of its CA certificates has the token's fingerprint"
    )


def _fetch_bundle(server: str, timeout_s: float) -> list[x509.Certificate]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    # What comes back is believed only if it has the fingerprint that the token carries.
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    connection = http.client.HTTPSConnection(server, timeout=timeout_s, context=context)
    try:
        connection.request("GET", "/ca.pem")
        response = connection.getresponse()
        if response.status != http.client.OK:
            raise EnrollmentError(f"`{server}` answered {response.status} to GET /ca.pem")
        return x509.load_pem_x509_certificates(response.read(_BUNDLE_BYTES_MAX))
    except (OSError, http.client.HTTPException) as error:
        raise EnrollmentError(f"cannot reach `{server}`: {error}") from error
    except ValueError as error:
        raise EnrollmentError(f"`{server}` serves no CA certificates under /ca.pem") from error
    finally:
        connection.close()


def _request(
    server: str, root: bytes, join_token: str, key: ec.EllipticCurvePrivateKey, timeout_s: float
) -> v1.Certificate:
    request = v1.EnrollRequest(join_token=join_token.strip(), csr_der=_csr(key))
    credentials = grpc.ssl_channel_credentials(root)
    with grpc.secure_channel(server, credentials, options=OPTIONS) as channel:
        try:
            response = v1.AgentServiceStub(channel).Enroll(request, timeout=timeout_s)
        except grpc.RpcError as error:
            raise EnrollmentError(f"the server refused: {from_grpc(error)}") from None
    if not response.certificate.certificate_pem or not response.certificate.ca_bundle_pem:
        raise CredentialError("the server's answer holds no certificate")
    return response.certificate


def _csr(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A CSR proves possession of the key; the server takes nothing else from it."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)
