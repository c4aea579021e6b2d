"""Credential folders."""

import datetime
import json
import os
from pathlib import Path

import pytest

from zta import Client, Credential, CredentialError, Guard
from zta._identity import create_folder, replace_file, write_folder
from zta.testing import FakeServer
from zta.testing._pki import Authority, key_pem, new_key

HOUR = datetime.timedelta(hours=1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    key, authority, path = new_key(), Authority(), tmp_path / "fin"
    create_folder(path, key_pem(key))
    issued = authority.agent("fin", key.public_key(), HOUR)
    write_folder(path, endpoint="127.0.0.1:1", key_pem=key_pem(key), issued=issued)
    return path


def test_a_folder_is_private_and_reads_back(folder: Path) -> None:
    assert folder.stat().st_mode & 0o777 == 0o700
    for name in ("key.pem", "cert.pem", "ca.pem", "zta.json"):
        assert (folder / name).stat().st_mode & 0o777 == 0o600
    credential = Credential.load(folder)
    assert credential.spiffe_id == "spiffe://zta.local/agent/fin"
    assert credential.name == "fin"
    assert credential.endpoint == "127.0.0.1:1"
    assert Credential.load(folder, "other:7").endpoint == "other:7"
    assert credential.not_after - credential.not_before >= HOUR


def test_the_key_is_not_shown(folder: Path) -> None:
    assert "PRIVATE" not in repr(Credential.load(folder))


def test_a_key_that_others_can_read_is_refused(folder: Path) -> None:
    (folder / "key.pem").chmod(0o640)
    with pytest.raises(CredentialError, match="chmod 600"):
        Credential.load(folder)


@pytest.mark.parametrize("name", ["key.pem", "cert.pem", "ca.pem", "zta.json"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(CredentialError, match=name):
        Credential.load(folder)


@pytest.mark.parametrize("name", ["key.pem", "cert.pem", "zta.json"])
def test_a_garbled_file_is_named(folder: Path, name: str) -> None:
    (folder / name).write_text("garbage")
    with pytest.raises(CredentialError, match=name):
        Credential.load(folder)


def test_a_key_of_another_certificate_is_refused(folder: Path) -> None:
    (folder / "key.pem").write_bytes(key_pem(new_key()))
    with pytest.raises(CredentialError, match="does not belong"):
        Credential.load(folder)


def test_a_folder_that_claims_another_name_is_refused(folder: Path) -> None:
    facts = json.loads((folder / "zta.json").read_text())
    facts["spiffe_id"] = "spiffe://zta.local/agent/admin"
    (folder / "zta.json").write_text(json.dumps(facts))
    with pytest.raises(CredentialError, match="does not name"):
        Credential.load(folder)


def test_an_existing_key_is_never_replaced(folder: Path) -> None:
    before = (folder / "key.pem").read_bytes()
    with pytest.raises(CredentialError, match="already holds a key"):
        create_folder(folder, key_pem(new_key()))
    assert (folder / "key.pem").read_bytes() == before


def test_a_renewed_certificate_must_be_for_the_same_key_and_name(folder: Path) -> None:
    credential, authority = Credential.load(folder), Authority()
    before = (folder / "cert.pem").read_bytes()
    with pytest.raises(CredentialError, match="another key"):
        credential.renewed(authority.agent("fin", new_key().public_key(), HOUR))
    from zta._identity import load_key

    public = load_key(credential.key_pem, "x").public_key()
    with pytest.raises(CredentialError, match="does not name"):
        credential.renewed(authority.agent("admin", public, HOUR))
    assert (folder / "cert.pem").read_bytes() == before
    renewed = credential.renewed(authority.agent("fin", public, HOUR * 2))
    assert renewed.not_after > credential.not_after
    assert Credential.load(folder) == renewed


def test_a_replacement_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "f"
    replace_file(path, b"old")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="space"):
        replace_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_environment_names_the_credential(server: FakeServer, monkeypatch) -> None:
    with pytest.raises(CredentialError, match="ZTA_CREDENTIAL"):
        Client()
    monkeypatch.setenv("ZTA_CREDENTIAL", str(server.credential("fin")))
    monkeypatch.setenv("ZTA_SERVER", "other:1")
    assert Client().credential.endpoint == "other:1"


def test_a_guard_from_a_folder_of_folders(server: FakeServer, tmp_path: Path) -> None:
    for name in ("fin", "ops"):
        (tmp_path / name).symlink_to(server.credential(name))
    with Guard.from_folder(tmp_path) as guard:
        assert guard.agents == {
            "fin": "spiffe://zta.local/agent/fin",
            "ops": "spiffe://zta.local/agent/ops",
        }
    with pytest.raises(CredentialError, match="enroll"):
        Guard.from_folder(tmp_path / "fin")
