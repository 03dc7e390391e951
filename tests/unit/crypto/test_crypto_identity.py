"""Directories and credentials, in memory and on disk."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
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
from privfl.errors import ConfigError, PlanRejected, RemoteProtocolError, StateError


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


# --- who else may know a key, and how often one key counts ---------------------------------------------------------


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_credentials(tmp_path / "me.json", Credentials.generate(5))
    return tmp_path / "me.json"


posix = pytest.mark.skipif(os.name != "posix", reason="file modes say nothing here")


@posix
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o620, 0o666, 0o601])
def test_credentials_that_others_may_open_are_refused(saved: Path, mode: int) -> None:
    saved.chmod(mode)
    with pytest.raises(StateError, match=f"mode {mode:03o}.*chmod 600"):
        load_credentials(saved)
    saved.chmod(0o600)
    assert load_credentials(saved).client == 5


@posix
def test_credentials_that_are_saved_over_an_open_file_are_private(saved: Path) -> None:
    saved.chmod(0o644)
    save_credentials(saved, Credentials.generate(6))
    assert load_credentials(saved).client == 6


@posix
def test_all_names_of_one_key_share_one_memory_of_tasks(saved: Path, tmp_path: Path) -> None:
    """A link to the file, a link to its folder, a copy beside it and another way to write the path."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "link.json").symlink_to(saved)
    (elsewhere / "folder").symlink_to(tmp_path)
    save_credentials(tmp_path / "copy.json", load_credentials(saved))
    names = [
        saved,
        elsewhere / "link.json",
        elsewhere / "folder" / "me.json",
        elsewhere / ".." / "me.json",
        tmp_path / "copy.json",
    ]
    for number, first in enumerate(names):
        task = bytes([number]) * 32
        load_credentials(first).tasks.begin(task)
        for second in names:
            with pytest.raises(PlanRejected, match="part in this task before"):
                load_credentials(second).tasks.begin(task)


@posix
def test_a_second_name_of_the_file_is_refused(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    os.link(saved, tmp_path / "other" / "me.json")
    for path in (saved, tmp_path / "other" / "me.json"):
        with pytest.raises(StateError, match=r"2 names .hard links.*remove the other names"):
            load_credentials(path)
    (tmp_path / "other" / "me.json").unlink()
    assert load_credentials(saved).client == 5


def test_files_that_are_not_there_or_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "binary").chmod(0o600)
    for path in (tmp_path / "absent", tmp_path, tmp_path / "loop", tmp_path / "binary"):
        with pytest.raises(StateError):
            load_credentials(path)
        with pytest.raises(StateError):
            FileDirectory(path)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000 + "]" * 100_000,
        '{"format": "privfl credentials 1", "keys": ' + '{"a": ' * 50_000 + "1" + "}" * 50_001,
        '{"format": "privfl key directory 1", "keys": {"1": "KEY", "1": "KEY"}}',
        '{"format": "privfl key directory 1", "format": "privfl key directory 1", "keys": {}}',
        '{"format": "privfl key directory 1", "keys": {"1": null}}',
        '{"format": "privfl key directory 1", "keys": null}',
        "null",
    ],
    ids=["deep list", "deep object", "one client twice", "one name twice", "null key", "null keys", "null"],
)
def test_json_that_is_deep_ambiguous_or_null_is_a_state_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "file"
    path.write_text(text.replace("KEY", SigningKey.generate().public.public.hex()))
    path.chmod(0o600)
    with pytest.raises(StateError, match="key directory"):
        FileDirectory(path)
    with pytest.raises(StateError, match="credentials"):
        load_credentials(path)


@pytest.mark.parametrize("clients", [[1, 1], [0, 1, 2, 0], [3, np.int64(3)]])
def test_one_identity_is_made_once(clients: list[int]) -> None:
    with pytest.raises(ConfigError, match="there twice"):
        generate_identities(clients)


@pytest.mark.parametrize("value", [None, 5, "key", [1]])
def test_what_is_no_key_and_no_path_is_refused_where_it_is_given(tmp_path: Path, value: Any) -> None:
    own = Credentials.generate(0)
    attempts: list[Callable[[], object]] = [
        lambda: MemoryDirectory(value),
        lambda: MemoryDirectory({0: value}),
        lambda: Credentials(0, value, own.box),
        lambda: Credentials(0, own.signing, value),
        lambda: save_credentials(tmp_path / "x", value),
    ]
    if not isinstance(value, str):
        attempts += [lambda: load_credentials(value), lambda: FileDirectory(value), lambda: generate_identities(value)]
    for attempt in attempts if value != [1] else attempts[:-1]:
        with pytest.raises((ConfigError, StateError)):
            attempt()
