"""Enrolment: the token's secret goes to no server but the one that made the token."""

from pathlib import Path

import pytest
from support.front import Enrolment

from zta import Credential, CredentialError, EnrollmentError, enroll
from zta.testing._pki import Authority, new_key


def test_enroll(tmp_path: Path) -> None:
    with Enrolment(tmp_path) as server:
        credential = enroll(server.token, server.endpoint, tmp_path / "fin")
    assert credential.spiffe_id == "spiffe://zta.local/agent/fin"
    assert credential.endpoint == server.endpoint
    assert credential == Credential.load(tmp_path / "fin")


def test_a_bundle_of_several_is_searched_for_the_pinned_one(tmp_path: Path) -> None:
    with Enrolment(tmp_path) as server:
        server.bundle = Authority().pem + server.authority.pem
        assert enroll(server.token, server.endpoint, tmp_path / "fin").name == "fin"


def test_another_server_never_sees_the_secret(tmp_path: Path) -> None:
    with Enrolment(tmp_path, served=Authority()) as impostor:
        with pytest.raises(EnrollmentError, match="not the one that made the join token"):
            enroll(impostor.token, impostor.endpoint, tmp_path / "fin")
        assert impostor.secret_seen == []
    assert not (tmp_path / "fin" / "key.pem").exists()


def test_an_impostor_that_serves_the_right_bundle_never_sees_the_secret(tmp_path: Path) -> None:
    with Enrolment(tmp_path, served=Authority()) as impostor:
        # The public CA certificate is known to it, its key is not.
        impostor.bundle = impostor.authority.pem
        with pytest.raises(EnrollmentError, match="refused"):
            enroll(impostor.token, impostor.endpoint, tmp_path / "fin", timeout_s=3)
        assert impostor.secret_seen == []
    assert not (tmp_path / "fin" / "key.pem").exists()


def test_a_spent_token_is_refused_and_leaves_no_key(tmp_path: Path) -> None:
    with Enrolment(tmp_path) as server:
        token, server.token = server.token, "another"
        with pytest.raises(EnrollmentError, match="the join token is not good"):
            enroll(token, server.endpoint, tmp_path / "fin")
    assert not (tmp_path / "fin" / "key.pem").exists()


def test_an_existing_key_costs_no_token(tmp_path: Path) -> None:
    with Enrolment(tmp_path) as server:
        enroll(server.token, server.endpoint, tmp_path / "fin")
        key = (tmp_path / "fin" / "key.pem").read_bytes()
        with pytest.raises(CredentialError, match="already holds a key"):
            enroll(server.token, server.endpoint, tmp_path / "fin")
        assert len(server.secret_seen) == 1
    assert (tmp_path / "fin" / "key.pem").read_bytes() == key


def test_a_certificate_for_another_key_is_refused(tmp_path: Path) -> None:
    import datetime

    with Enrolment(tmp_path) as server:

        def tamper(issued) -> None:
            hour = datetime.timedelta(hours=1)
            issued.CopyFrom(server.authority.agent("fin", new_key().public_key(), hour))

        server.tamper = tamper
        with pytest.raises(CredentialError, match="does not belong"):
            enroll(server.token, server.endpoint, tmp_path / "fin")
    assert not (tmp_path / "fin" / "key.pem").exists()


@pytest.mark.parametrize(
    "token",
    ["", "zta-join-1", "zta-join-2.a.b.c", "zta-join-1.a.b", "zta-join-1.a.b.c", "a b c", "é" * 9],
)
def test_a_malformed_token_makes_no_connection(token: str, tmp_path: Path) -> None:
    with pytest.raises(EnrollmentError) as error:
        enroll(token, "127.0.0.1:1", tmp_path / "fin")
    assert "join token" in str(error.value)
    assert "reach" not in str(error.value)


def test_no_server(tmp_path: Path) -> None:
    with Enrolment(tmp_path) as server:
        token = server.token
    with pytest.raises(EnrollmentError, match="cannot reach"):
        enroll(token, "127.0.0.1:1", tmp_path / "fin")


@pytest.mark.parametrize(("status", "bundle"), [(500, None), (200, b"garbage")])
def test_no_bundle(tmp_path: Path, status: int, bundle: bytes | None) -> None:
    with Enrolment(tmp_path) as server:
        server.http_status, server.bundle = status, bundle
        with pytest.raises(EnrollmentError, match=r"/ca\.pem"):
            enroll(server.token, server.endpoint, tmp_path / "fin")
