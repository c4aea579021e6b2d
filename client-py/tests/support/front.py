"""A server for enrolment: HTTP `/ca.pem` and gRPC `Enroll` on one port, as the real one has them.

The connection is passed to one of two servers by what its ClientHello offers in ALPN.
"""

import contextlib
import hashlib
import http.server
import secrets
import socket
import ssl
import threading
from base64 import urlsafe_b64encode
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509

from zta import v1
from zta.testing._pki import Authority


def encoded(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


class Enrolment:
    """Enrols whoever shows the join token, once."""

    def __init__(self, folder: Path, *, served: Authority | None = None) -> None:
        self.authority = Authority()
        self.served = served or self.authority
        self.token = self.token_of(self.authority)
        self.secret_seen: list[str] = []
        self.http_status = 200
        self.bundle: bytes | None = None
        self.tamper: Any = None
        key, certificate = self.served.server()
        self._chain = folder / "server.pem"
        self._chain.write_bytes(key + certificate)
        self._grpc = grpc.server(futures.ThreadPoolExecutor(4))
        v1.add_AgentServiceServicer_to_server(self._servicer(), self._grpc)
        pair = grpc.ssl_server_credentials([(key, certificate)])
        self._grpc_port = self._grpc.add_secure_port("127.0.0.1:0", pair)
        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._http_handler())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._chain)
        self._http.socket = context.wrap_socket(self._http.socket, server_side=True)
        self._front = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"127.0.0.1:{self._front.getsockname()[1]}"

    def token_of(self, authority: Authority) -> str:
        print_ = encoded(hashlib.sha256(authority.der).digest())
        return f"zta-join-1.{encoded(b'id')}.{encoded(secrets.token_bytes(32))}.{print_}"

    def _servicer(self) -> Any:
        outer = self

        class Agents(v1.AgentServiceServicer):
            def Enroll(self, request, context):
                outer.secret_seen.append(request.join_token)
                csr = x509.load_der_x509_csr(request.csr_der)
                if request.join_token != outer.token or not csr.is_signature_valid:
                    context.abort(grpc.StatusCode.UNAUTHENTICATED, "the join token is not good")
                lifetime = __import__("datetime").timedelta(hours=1)
                issued = outer.authority.agent("fin", csr.public_key(), lifetime)
                if outer.tamper:
                    outer.tamper(issued)
                return v1.EnrollResponse(certificate=issued)

        return Agents()

    def _http_handler(self) -> Any:
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(outer.http_status if self.path == "/ca.pem" else 404)
                self.end_headers()
                self.wfile.write(outer.served.pem if outer.bundle is None else outer.bundle)

            def log_message(self, *_args: Any) -> None:
                pass

        return Handler

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._front.accept()
                threading.Thread(target=self._pass_on, args=(client,), daemon=True).start()

    def _pass_on(self, client: socket.socket) -> None:
        hello = client.recv(16384)
        port = self._grpc_port if b"\x02h2" in hello else self._http.server_address[1]
        target = socket.create_connection(("127.0.0.1", port))
        target.sendall(hello)
        for source, sink in ((client, target), (target, client)):
            threading.Thread(target=_copy, args=(source, sink), daemon=True).start()

    def __enter__(self) -> "Enrolment":
        self._grpc.start()
        for target in (self._http.serve_forever, self._accept):
            threading.Thread(target=target, daemon=True).start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._front.close()
        self._http.shutdown()
        self._http.server_close()
        self._grpc.stop(None).wait()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
