"""The real server, embedded: its binary on a store in a temporary folder."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import signal
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from zta import v1
from zta._client import Client
from zta._enroll import enroll
from zta._errors import ConfigurationError, ZtaError
from zta._guard import Guard

_START_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 20.0
_LOG_LINES = 20


def find_binary() -> Path:
    """The server's binary: `ZTA_BIN`, or `zta` on the PATH."""
    named = os.environ.get("ZTA_BIN")
    found = shutil.which(named or "zta")
    if found is None:
        looked = f"ZTA_BIN names `{named}`" if named else "ZTA_BIN is not set and PATH has no `zta`"
        raise ConfigurationError(f"the server's binary was not found: {looked}")
    return Path(found).resolve()


class EmbeddedServer:
    """A server of its own for a test or a demo; it ends with the `with` block."""

    def __init__(
        self,
        binary: str | os.PathLike[str] | None = None,
        *,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Use `binary` or the one that `find_binary` finds; `environment` adds `ZTA_…` settings."""
        self.binary = Path(binary).resolve() if binary else find_binary()
        if not os.access(self.binary, os.X_OK):
            raise ConfigurationError(f"`{self.binary}` is not a program that can be run")
        self.endpoint = ""
        self._folder = Path(tempfile.mkdtemp(prefix="zta-embedded-"))
        self.data_dir = self._folder / "data"
        self.log = self._folder / "server.log"
        self._environment = dict(environment or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._admin: Client | None = None

    @property
    def admin_credential(self) -> Path:
        """The first administrator's credential folder."""
        return self.data_dir / "admin"

    @property
    def admin(self) -> Client:
        """A client of the first administrator."""
        if self._admin is None:
            self._admin = Client(self.admin_credential, server=self.endpoint, timeout_ms=10_000)
        return self._admin

    def start(self) -> EmbeddedServer:
        """Start it and wait until it is ready; after `stop`, on the same store and port."""
        endpoint_file = self.data_dir / "endpoint"
        listen = self.endpoint or "127.0.0.1:0"
        endpoint_file.unlink(missing_ok=True)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [self.binary, "serve"],
                env=self.environment(ZTA_LISTEN=listen),
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not self._ready(endpoint_file):
            if self._process.poll() is not None:
                raise ZtaError(f"the server ended at its start:\n{self.log_tail()}")
            if time.monotonic() > deadline:
                self.kill()
                raise ZtaError(f"the server was not ready in time:\n{self.log_tail()}")
            time.sleep(0.05)
        return self

    def _ready(self, endpoint_file: Path) -> bool:
        try:
            self.endpoint = endpoint_file.read_text().strip()
        except FileNotFoundError:
            return False
        # It says only whether to go on; every real call verifies the server.
        context = ssl._create_unverified_context()  # noqa: S323
        connection = http.client.HTTPSConnection(self.endpoint, timeout=2, context=context)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def environment(self, **settings: str) -> dict[str, str]:
        """The environment for the binary: nothing of the caller's own `ZTA_…` settings."""
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("ZTA_")}
        own = {"ZTA_DATA_DIR": str(self.data_dir)}
        return {**inherited, **own, **self._environment, **settings}

    def cli(self, *arguments: str | os.PathLike[str], check: bool = True) -> str:
        """Run a command of the CLI as the first administrator; returns what it printed."""
        settings = {"ZTA_CREDENTIAL": str(self.admin_credential), "ZTA_SERVER": self.endpoint}
        done = subprocess.run(
            [self.binary, *arguments],
            env=self.environment(**settings),
            cwd=Path.cwd(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if check and done.returncode != 0:
            command = " ".join(os.fspath(item) for item in arguments)
            said = f"{done.stdout}{done.stderr}".strip()
            raise ZtaError(f"`zta {command}` ended with {done.returncode}: {said}")
        return done.stdout

    def apply(self, *folders: str | os.PathLike[str]) -> str:
        """Make the policies in these folders the ones in force."""
        return self.cli("policy", "apply", *folders)

    def agent(self, name: str, roles: Sequence[str] = ()) -> Path:
        """Register and enroll an agent; returns its credential folder."""
        self.admin.agents.Register(v1.RegisterRequest(name=name, roles=roles))
        request = v1.CreateJoinTokenRequest(agent=name)
        token = self.admin.agents.CreateJoinToken(request).join_token
        return enroll(token, self.endpoint, self._folder / "agents" / name).folder

    def guard(self, agents: Mapping[str, Sequence[str]], **options: Any) -> Guard:
        """A guard for new agents: their names and roles."""
        return Guard({name: self.agent(name, roles) for name, roles in agents.items()}, **options)

    def stop(self) -> None:
        """End it as an operator would, gracefully."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a power cut would."""
        self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(how)
        try:
            self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def log_tail(self) -> str:
        """The last lines of its log."""
        lines = self.log.read_text(errors="replace").splitlines()
        return "\n".join(lines[-_LOG_LINES:])

    def __enter__(self) -> EmbeddedServer:
        try:
            return self.start()
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_error: object) -> None:
        if self._admin is not None:
            self._admin.close()
            self._admin = None
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)


@contextlib.contextmanager
def embedded_server(
    binary: str | os.PathLike[str] | None = None, **options: Any
) -> Iterator[EmbeddedServer]:
    """`EmbeddedServer` for a pytest fixture: `yield from` or `with`."""
    with EmbeddedServer(binary, **options) as server:
        yield server
