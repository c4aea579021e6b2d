"""A proxy that ends TLS in front of a server."""

import contextlib
import socket
import ssl
import threading
from pathlib import Path

from zta.testing._pki import Authority


class Proxy:
    """Ends TLS with a certificate of its own CA and speaks anonymous TLS to the server."""

    def __init__(self, folder: Path, behind: str, ca_pem: bytes) -> None:
        self.authority = Authority()
        key, certificate = self.authority.server()
        chain = folder / "proxy.pem"
        chain.write_bytes(key + certificate)
        self._front = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._front.load_cert_chain(chain)
        self._front.set_alpn_protocols(["h2"])
        self._back = ssl.create_default_context(cadata=ca_pem.decode())
        self._back.set_alpn_protocols(["h2"])
        self._behind = behind
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        host, port = self._behind.rsplit(":", 1)
        with contextlib.suppress(OSError):
            front = self._front.wrap_socket(connection, server_side=True)
            upstream = socket.create_connection((host, int(port)))
            back = self._back.wrap_socket(upstream, server_hostname=host)
            threading.Thread(target=_copy, args=(front, back), daemon=True).start()
            _copy(back, front)

    def close(self) -> None:
        self._listener.close()


def _copy(source: ssl.SSLSocket, target: ssl.SSLSocket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)
