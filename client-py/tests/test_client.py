"""The two clients and the guard's promises that need no framework."""

import asyncio
import logging
import time
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from support import within

from zta import AsyncClient, Client, Guard, RpcError, ToolCall, v1
from zta.testing import FakeServer

READ = ToolCall("read_file", {"path": "a"})
DELETE = ToolCall("delete_file", {"path": "a"})


def test_batch_keeps_order(server: FakeServer) -> None:
    with Client(server.credential("fin")) as client:
        results = client.batch_authorize([READ, DELETE, READ])
    assert [getattr(result, "allowed", None) for result in results] == [True, False, True]


def test_async_client_on_several_loops(server: FakeServer) -> None:
    client = AsyncClient(server.credential("fin"))

    async def ask() -> list[bool]:
        results = await asyncio.gather(*(client.authorize(READ) for _ in range(20)))
        batch = await client.batch_authorize([READ, DELETE])
        return [*(r.allowed for r in results), *(r.allowed for r in batch)]

    for _ in range(3):
        assert within(20, lambda: asyncio.run(ask())) == [True] * 21 + [False]
    asyncio.run(client.aclose())


def _rich(context: Any) -> None:
    info = error_details_pb2.ErrorInfo(
        reason="RATE_LIMITED", domain="zta", metadata={"limit": "logins"}
    )
    foreign = error_details_pb2.ErrorInfo(reason="X", domain="elsewhere")
    retry = error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=2))
    status = status_pb2.Status(code=8, message="slow down")
    for detail in (foreign, info, retry):
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "slow down")


def test_errors_carry_reason_and_retry(server: FakeServer) -> None:
    server.fault = lambda _agent, _request, context: _rich(context)
    with Client(server.credential("fin")) as client, pytest.raises(RpcError) as error:
        client.authorize(READ)
    assert error.value.code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert error.value.reason == "RATE_LIMITED"
    assert error.value.metadata == {"limit": "logins"}
    assert error.value.retry_delay_s == 2
    assert "slow down" in str(error.value)


def test_a_garbled_error_detail_does_not_hide_the_error(server: FakeServer) -> None:
    def fault(_agent: str, _request: Any, context: Any) -> Any:
        context.set_trailing_metadata((("grpc-status-details-bin", b"\xff\xff"),))
        context.abort(grpc.StatusCode.INTERNAL, "broken")

    server.fault = fault
    with Client(server.credential("fin")) as client, pytest.raises(RpcError) as error:
        client.authorize(READ)
    assert error.value.code == grpc.StatusCode.INTERNAL
    assert error.value.reason is None


def test_unavailable_is_asked_once_more_and_overload_is_not(server: FakeServer) -> None:
    asked: list[str] = []

    def fault(agent: str, request: Any, context: Any) -> Any:
        asked.append(agent)
        if len(asked) == 1:
            context.abort(grpc.StatusCode.UNAVAILABLE, "restarting")
        return server.decide(agent, request)

    server.fault = fault
    with Client(server.credential("fin")) as client:
        assert client.authorize(READ).allowed
        assert len(asked) == 2
        server.fault = lambda _a, _r, context: (asked.append("again"), _rich(context))
        with pytest.raises(RpcError):
            client.authorize(READ)
    assert len(asked) == 3


def test_a_server_that_returns_is_found_again(server: FakeServer) -> None:
    with server.guard("fin") as guard:
        assert guard.decide("fin", READ).allowed
        server.stop()
        assert not guard.decide("fin", READ).allowed
        server.start()
        deadline = time.monotonic() + 15
        while not guard.decide("fin", READ).allowed:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_a_timeout_is_kept(server: FakeServer) -> None:
    server.fault = lambda *_: time.sleep(2) or v1.AuthorizeResponse()
    with server.guard("fin", timeout_ms=300) as guard:
        assert guard.decide("fin", READ).reason == "DEADLINE_EXCEEDED"
        assert asyncio.run(guard.decide_async("fin", READ)).reason == "DEADLINE_EXCEEDED"


def test_cancelling_cancels(server: FakeServer) -> None:
    server.fault = lambda *_: time.sleep(1) or v1.AuthorizeResponse()

    async def ask(guard: Guard) -> None:
        task = asyncio.ensure_future(guard.decide_async("fin", READ))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with server.guard("fin", timeout_ms=5000) as guard:
        within(5, lambda: asyncio.run(ask(guard)))


def test_a_server_of_another_authority_is_not_believed(server: FakeServer) -> None:
    with FakeServer(allow={"fin": ["read_file"]}) as impostor:
        guard = Guard({"fin": server.credential("fin")}, server=impostor.endpoint)
        with guard:
            decision = guard.decide("fin", READ)
        assert not decision.allowed
        assert impostor.records == []


def test_an_identity_that_is_refused(server: FakeServer) -> None:
    server.fault = lambda _a, _r, context: context.abort(
        grpc.StatusCode.PERMISSION_DENIED, "agent `fin` is revoked"
    )
    with server.guard("fin") as guard:
        decision = guard.decide("fin", READ)
    assert decision.refusal == (
        "DENIED: the agent's identity was not accepted. The tool was not run."
    )


def test_obligations_are_carried_out_before_the_tool(server: FakeServer) -> None:
    server.obligations = ("notify",)
    seen: list[str] = []
    handlers = {"notify": lambda agent, call, _decision: seen.append(f"{agent} {call.tool}")}
    with server.guard("fin", obligations=handlers) as guard:
        assert guard.decide("fin", READ).allowed
        assert seen == ["fin read_file"]
        assert list(server.records[0].request.supported_obligations) == ["notify"]

    def fails(*_: Any) -> None:
        raise RuntimeError

    with server.guard("fin", obligations={"notify": fails}) as guard:
        assert guard.decide("fin", READ).reason == "GUARD_FAILED"
    with server.guard("fin") as guard:
        assert guard.decide("fin", READ).reason == "OBLIGATION_UNSUPPORTED"


def test_an_observer_sees_everything_and_decides_nothing(server: FakeServer) -> None:
    seen: list[tuple[str, str, bool]] = []

    def observer(agent: str, call: ToolCall, decision: Any) -> None:
        seen.append((agent, call.tool, decision.allowed))
        raise RuntimeError("not an allow")

    with server.guard("fin", observer=observer) as guard:
        assert guard.decide("fin", READ).allowed
        assert not guard.decide("fin", DELETE).allowed
        assert not guard.decide("nobody", READ).allowed
    assert seen == [
        ("fin", "read_file", True),
        ("fin", "delete_file", False),
        ("nobody", "read_file", False),
    ]


@pytest.mark.parametrize(
    "arguments", [{"secret": object()}, {"secret": float("nan")}, ["secret"], {"a": "\ud800"}, None]
)
def test_unfit_arguments_are_denied_without_a_trace_of_them(
    server: FakeServer, arguments: Any, caplog: Any
) -> None:
    with server.guard("fin") as guard, caplog.at_level(logging.DEBUG):
        decision = guard.decide("fin", ToolCall("read_file", arguments))
    assert not decision.allowed
    assert decision.reason == "INVALID_ARGUMENTS"
    assert "secret" not in decision.refusal
    assert "secret" not in caplog.text
    assert server.records == []


def test_the_log_says_why_no_connection_came_about(server: FakeServer, caplog: Any) -> None:
    with (
        FakeServer() as impostor,
        Guard({"fin": server.credential("fin")}, server=impostor.endpoint) as guard,
        caplog.at_level(logging.WARNING, logger="zta"),
    ):
        guard.decide("fin", READ)
    assert "certificate" in caplog.text.lower()


def test_logs_hold_no_payload(server: FakeServer, caplog: Any) -> None:
    server.fault = lambda _a, _r, context: context.abort(
        grpc.StatusCode.INVALID_ARGUMENT, "secret-argument"
    )
    with server.guard("fin") as guard, caplog.at_level(logging.DEBUG):
        guard.decide("fin", ToolCall("read_file", {"path": "secret-argument"}))
    assert "INVALID_ARGUMENT" in caplog.text
    assert "secret-argument" not in caplog.text
