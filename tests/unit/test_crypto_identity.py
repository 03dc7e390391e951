"""Directories and credentials, in memory and on disk."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from privfl.crypto import (
    Credentials,
    FileDirectory,
    MemoryDirectory,
    SigningKey,
    generate_identities,
    load_credentials,
    save_credentials,
)
from privfl.errors import ConfigError, RemoteProtocolError, StateError


def test_identities_sign_and_are_found() -> None:
    credentials, directory = generate_identities([3, 1])
    assert directory.clients == (1, 3)
    directory.verify_key(3).verify(credentials[3].signing.sign("x", b"y"), "x", b"y")
    with pytest.raises(RemoteProtocolError, match="client 2") as caught:
        directory.verify_key(2)
    assert caught.value.sender == 2


def test_one_key_for_two_identities_is_refused() -> None:
    key = SigningKey.generate().public
    with pytest.raises(ConfigError, match="clients 1 and 2 have the same key"):
        MemoryDirectory({1: key, 2: key})
    with pytest.raises(ConfigError, match="identity"):
        MemoryDirectory({2**32 - 1: key})


def test_a_directory_file_reads_back_and_refuses_others(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    keys = {client: SigningKey.generate().public for client in (0, 7, 12)}
    assert FileDirectory.write(path, keys).clients == (0, 7, 12)
    assert FileDirectory(path).verify_key(7) == keys[7]
    good = json.loads(path.read_text())
    same = dict.fromkeys(["1", "2"], keys[0].public.hex())
    bad = [[], {}, {**good, "format": "x"}, {**good, "keys": []}, {**good, "keys": {"a": "00"}}]
    bad += [{**good, "keys": {"01": keys[0].public.hex()}}, {**good, "keys": {"1": "00"}}, {**good, "keys": {"1": 5}}]
    bad += [{**good, "keys": same}]
    for content in bad:
        path.write_text(json.dumps(content))
        with pytest.raises(StateError, match="key directory"):
            FileDirectory(path)
    path.write_text("{")
    with pytest.raises(StateError):
        FileDirectory(path)


def test_credentials_read_back_and_stay_private(tmp_path: Path) -> None:
    path = tmp_path / "me.json"
    own = Credentials.generate(5)
    for credentials in (own, replace(own, session_key=bytes(range(32)))):
        save_credentials(path, credentials)
        assert load_credentials(path) == credentials
        assert path.stat().st_mode & 0o777 == 0o600
        for secret in (own.signing.secret, own.box.secret, bytes(range(32))):
            assert secret.hex() not in repr(credentials)
            assert repr(secret) not in repr(credentials)
    good = json.loads(path.read_text())
    for change in ({"client": "x"}, {"signing": "00"}, {"more": "00"}, {"session_key": "00"}, {"client": "-1"}):
        path.write_text(json.dumps({**good, "keys": {**good["keys"], **change}}))
        with pytest.raises(StateError, match="credentials"):
            load_credentials(path)
    path.write_text(json.dumps({"format": good["format"], "keys": {}}))
    with pytest.raises(StateError):
        load_credentials(path)


def test_credentials_refuse_bad_values() -> None:
    with pytest.raises(ConfigError, match="identity"):
        Credentials.generate(2**32 - 1)
    with pytest.raises(ConfigError, match="session key"):
        replace(Credentials.generate(0), session_key=b"short")
