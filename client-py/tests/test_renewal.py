"""Renewal: at half-life, by itself, without a failed call; and forks."""

import datetime
import logging
import os
import signal
import threading
import time
from concurrent import futures
from pathlib import Path

import grpc
import pytest
from cryptography import x509

from zta import Client, Credential, RpcError, ToolCall, v1
from zta._dpop import Possession
from zta._identity import load_key
from zta._renewal import Renewer, due_time
from zta.testing import FakeServer
from zta.testing._pki import Authority

READ = ToolCall("read_file", {"path": "a"})


def until(condition, seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.02)


def test_due_at_half_of_the_lifetime_with_jitter(server: FakeServer) -> None:
    credential = Credential.load(server.credential("fin"))
    lifetime = credential.not_after - credential.not_before
    assert due_time(credential, 0) == credential.not_before + lifetime / 2
    assert due_time(credential, -1) == credential.not_before + lifetime * 0.4
    assert due_time(credential, 1) == credential.not_before + lifetime * 0.6


def test_calls_never_fail_while_certificates_change() -> None:
    with FakeServer(allow={"fin": ["read_file"]}, lifetime_s=6) as server:
        first = Credential.load(server.credential("fin"))
        with Client(server.credential("fin")) as client:
            end = time.monotonic() + 9
            failures: list[Exception] = []

            def call() -> None:
                while time.monotonic() < end:
                    try:
                        assert client.authorize(READ).allowed
                    except Exception as error:
                        failures.append(error)

            threads = [threading.Thread(target=call) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert failures == []
            assert len(server.renewals) >= 2
            assert client.credential.not_after > first.not_after
            assert Credential.load(server.credential("fin")) == client.credential


def test_a_renewed_certificate_is_not_renewed_at_once() -> None:
    # By this clock half of the certificate's life is over, and half of the next one's, too.
    with FakeServer(allow={"fin": ["read_file"]}, lifetime_s=60) as short:
        credential = Credential.load(short.credential("fin"))
        lifetime = credential.not_after - credential.not_before
        clock = [credential.not_after - lifetime * 0.25]
        renewer = Renewer(credential, now=lambda: clock[0])
        renewer._pid = os.getpid()  # no thread of its own: it would look at the clock, too
        renewer.step()
        assert short.renewals == ["fin"]
        lifetime = renewer.credential.not_after - renewer.credential.not_before
        for hundredth in range(1, 10):
            clock[0] += lifetime * 0.01
            renewer.step()
            assert short.renewals == ["fin"], f"again after {hundredth} hundredths of its life"
        clock[0] += lifetime * 0.02
        renewer.step()
        assert short.renewals == ["fin", "fin"]
        renewer.close()


class Rogue:
    """Ends TLS with a certificate of a CA of its own, and answers as it likes."""

    def __init__(self) -> None:
        self.authority = authority = Authority()

        class Logins(v1.AuthenticationServiceServicer):
            def Authenticate(self, request, context):
                return v1.AuthenticateResponse(access_token="a.jwt.token")

        class Agents(v1.AgentServiceServicer):
            def Renew(self, request, context):
                shown = x509.load_der_x509_certificate(request.certificate_der)
                lifetime = datetime.timedelta(hours=2)
                return v1.RenewResponse(
                    certificate=authority.agent("fin", shown.public_key(), lifetime)
                )

        self._server = grpc.server(futures.ThreadPoolExecutor(4))
        v1.add_AuthenticationServiceServicer_to_server(Logins(), self._server)
        v1.add_AgentServiceServicer_to_server(Agents(), self._server)
        pair = grpc.ssl_server_credentials([authority.server()])
        self.endpoint = f"127.0.0.1:{self._server.add_secure_port('127.0.0.1:0', pair)}"

    def __enter__(self) -> "Rogue":
        self._server.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._server.stop(None).wait()


def test_a_proxy_of_another_ca_puts_none_of_its_own_into_the_folder(server: FakeServer) -> None:
    folder = server.credential("fin")
    before = Credential.load(folder)
    with Rogue() as rogue:
        credential = Credential.load(folder, rogue.endpoint)
        renewer = Renewer(credential, possession=Possession(rogue.authority.pem))
        renewer._pid = os.getpid()  # no thread of its own: it would renew, too
        renewer._renew()
        assert renewer.credential.not_after > before.not_after
        assert renewer.credential.ca_pem == before.ca_pem
        assert (folder / "ca.pem").read_bytes() == before.ca_pem
        renewer.close()
        # From one that our CA has certified, another CA is taken over.
        public_key = load_key(before.key_pem, folder).public_key()
        issued = rogue.authority.agent("fin", public_key, datetime.timedelta(hours=2))
        assert before.renewed(issued).ca_pem == rogue.authority.pem
        assert (folder / "ca.pem").read_bytes() == rogue.authority.pem


def test_calls_in_flight_survive_the_change(server: FakeServer) -> None:
    begun, proceed = threading.Event(), threading.Event()

    def slow(agent, request, _context):
        begun.set()
        proceed.wait(10)
        return server.decide(agent, request)

    with Client(server.credential("fin")) as client:
        server.fault = slow
        results: list[bool] = []
        thread = threading.Thread(target=lambda: results.append(client.authorize(READ).allowed))
        thread.start()
        assert begun.wait(10)
        client._renewer._renew()
        proceed.set()
        thread.join(10)
        assert results == [True]
        server.fault = None
        assert client.authorize(READ).allowed


def test_a_renewal_that_fails_is_tried_again(server: FakeServer, caplog) -> None:
    credential = Credential.load(server.credential("fin"))
    now = credential.not_before + (credential.not_after - credential.not_before) * 0.7
    renewer = Renewer(credential, now=lambda: now)
    renewer._pid = os.getpid()  # no thread of its own: it would renew, too
    server.stop()
    with caplog.at_level(logging.WARNING, logger="zta"):
        pauses = [renewer.step() for _ in range(3)]
    assert all(0 < pause <= 60 for pause in pauses)
    assert "cannot renew" in caplog.text
    assert "s more" in caplog.text
    server.start()
    until(lambda: (renewer.step(), server.renewals == ["fin"])[1])
    renewer.close()


def test_an_expired_certificate_is_named_in_the_log(server: FakeServer, caplog) -> None:
    credential = Credential.load(server.credential("fin"))
    later = credential.not_after + datetime.timedelta(seconds=1)
    renewer = Renewer(credential, now=lambda: later)
    renewer._pid = os.getpid()  # no thread of its own: it would log, too
    server.stop()
    with caplog.at_level(logging.WARNING, logger="zta"):
        renewer.step()
    assert "expired: enroll again" in caplog.text
    renewer.close()


def test_what_another_process_renewed_is_taken(server: FakeServer) -> None:
    folder = server.credential("fin")
    one, two = Renewer(Credential.load(folder)), Renewer(Credential.load(folder))
    time.sleep(1.1)  # certificates have whole seconds
    one._renew()
    two._renew()
    assert server.renewals == ["fin"]
    assert two.credential == one.credential
    one.close()
    two.close()


def test_a_closed_client_denies(server: FakeServer) -> None:
    client = Client(server.credential("fin"))
    assert client.authorize(READ).allowed
    client.close()
    with pytest.raises(RpcError, match="closed"):
        client.authorize(READ)


def test_the_renewal_thread_ends_with_its_client(server: FakeServer) -> None:
    import gc

    def threads() -> int:
        return sum(thread.name == "zta-renewal" for thread in threading.enumerate())

    gc.collect()
    before = threads()
    client = Client(server.credential("fin"))
    client.authorize(READ)
    assert threads() == before + 1
    client.close()
    until(lambda: threads() == before)


def test_a_forked_child_asks_on_a_channel_of_its_own(server: FakeServer, tmp_path: Path) -> None:
    with Client(server.credential("fin")) as client:
        assert client.authorize(READ).allowed
        result = tmp_path / "result"
        child = os.fork()
        if child == 0:  # no assert and no return here: this is a copy of pytest
            try:
                allowed = client.authorize(READ, timeout_ms=8000).allowed
                result.write_text(f"{allowed} {client._renewer._pid == os.getpid()}")
            except BaseException as error:
                result.write_text(repr(error))
            finally:
                os._exit(0)
        deadline = time.monotonic() + 20
        while os.waitpid(child, os.WNOHANG) == (0, 0):
            if time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                pytest.fail("the child hung")
            time.sleep(0.02)
        assert result.read_text() == "True True"
        assert client.authorize(READ).allowed


def test_any_generated_stub_works_on_the_channel(server: FakeServer) -> None:
    with Client(server.credential("fin")) as client:
        stub = v1.AuthorizationServiceStub(client.channel)
        request = v1.BatchAuthorizeRequest(requests=[v1.AuthorizeRequest()])
        assert len(stub.BatchAuthorize(request).items) == 1
        with pytest.raises(RpcError) as error:
            client.policies.GetRevision(v1.GetRevisionRequest())
        assert error.value.code == grpc.StatusCode.UNIMPLEMENTED
