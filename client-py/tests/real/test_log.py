"""The log of the real server: by our client, and by sigstore's Merkle code."""

import asyncio
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sigstore._internal.merkle import verify_merkle_inclusion
from sigstore.errors import VerificationError

from zta import AsyncClient, Client, LogError, LogKey, LogView, RpcError, ToolCall, v1
from zta.testing import EmbeddedServer

SEARCH = ToolCall("web_search", {"query": "x"})


def log_key(admin: Client) -> LogKey:
    request = v1.ListEventsRequest(types=["log_created"])
    leaf = admin.audit.ListEvents(request).events[0].leaf.decode()
    return LogKey(leaf.split('"vkey":"')[1].split('"')[0])


def signed(admin: Client, sequence: int) -> v1.Receipt:
    """The receipt, as soon as a checkpoint covers it."""
    deadline = time.monotonic() + 20
    while True:
        try:
            return admin.receipt(sequence)
        except RpcError as error:
            if error.reason != "NOT_READY" or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def test_what_was_decided_is_provably_on_record(
    crew_server: EmbeddedServer, crew_credentials: dict[str, Path], tmp_path: Path
) -> None:
    admin = crew_server.admin
    key = log_key(admin)
    with Client(crew_credentials["research"]) as agent:
        sequence = agent.authorize(SEARCH).sequence
        with pytest.raises(RpcError, match="NOT_PERMITTED"):
            agent.receipt(sequence)
    receipt = signed(admin, sequence)
    assert key.verify_receipt(receipt).sequence == sequence
    view = LogView(key, tmp_path / "seen")
    assert admin.verify_recorded(view, sequence).sequence == sequence
    first = view.last()
    assert first is not None
    signed(admin, first.size)
    admin.verify_recorded(view, sequence)
    newer = view.last()
    assert newer is not None
    assert newer.size > first.size
    assert asyncio.run(recorded(crew_server, view, sequence)) == sequence
    receipt.leaf = receipt.leaf.replace(b"web_search", b"web_serach")
    with pytest.raises(LogError):
        key.verify_receipt(receipt)


async def recorded(server: EmbeddedServer, view: LogView, sequence: int) -> int:
    async with AsyncClient(server.admin_credential, server=server.endpoint) as admin:
        return (await admin.verify_recorded(view, sequence)).sequence


def entry(leaf: bytes, proof: v1.GetInclusionProofResponse, index: int, root: bytes) -> Any:
    """What sigstore's verifier looks at in an entry of its own log."""
    inclusion = SimpleNamespace(
        log_index=index, tree_size=proof.size, hashes=list(proof.hashes), root_hash=root
    )
    return SimpleNamespace(
        _inner=SimpleNamespace(inclusion_proof=inclusion, canonicalized_body=leaf)
    )


def test_sigstore_verifies_inclusion_and_refuses_each_manipulation(
    crew_server: EmbeddedServer, crew_credentials: dict[str, Path]
) -> None:
    admin = crew_server.admin
    key = log_key(admin)
    with Client(crew_credentials["research"]) as agent:
        last = max(agent.authorize(SEARCH).sequence for _ in range(20))
    signed(admin, last)
    for sequence in (0, 1, last // 2, last):
        leaf = admin.audit.GetEvent(v1.GetEventRequest(sequence=sequence)).event.leaf
        request = v1.GetInclusionProofRequest(sequence=sequence)
        proof = admin.audit.GetInclusionProof(request)
        root = key.open(proof.checkpoint).root
        verify_merkle_inclusion(entry(leaf, proof, sequence, root))
        shorter = v1.GetInclusionProofResponse(size=proof.size, hashes=proof.hashes[1:])
        other = v1.GetInclusionProofResponse(
            size=proof.size, hashes=[b"\x07" * 32, *proof.hashes[1:]]
        )
        for forged in (
            entry(leaf[:-1], proof, sequence, root),
            entry(leaf, proof, sequence ^ 1, root),
            entry(leaf, proof, sequence, b"\x07" * 32),
            entry(leaf, shorter, sequence, root),
            entry(leaf, other, sequence, root),
        ):
            with pytest.raises(VerificationError):
                verify_merkle_inclusion(forged)
