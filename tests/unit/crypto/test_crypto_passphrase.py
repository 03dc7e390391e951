"""Keys under a passphrase."""

from pathlib import Path

import pytest

from privfl.crypto import Credentials, load_credentials, save_credentials
from privfl.crypto.passphrase import is_protected, protect, unprotect
from privfl.errors import ConfigError, StateError


def test_only_the_passphrase_opens_and_any_change_is_noticed() -> None:
    box = protect(b"secret", "correct horse")
    assert is_protected(box)
    assert b"secret" not in box
    assert unprotect(box, "correct horse") == b"secret"
    with pytest.raises(StateError, match="another one"):
        unprotect(box, "wrong horse")
    for at in (len(box) - 1, len(box) - 20):
        altered = box[:at] + bytes([box[at] ^ 1]) + box[at + 1 :]
        with pytest.raises(StateError):
            unprotect(altered, "correct horse")
    for other in (b"plain", box[:30]):
        with pytest.raises(StateError):
            unprotect(other, "correct horse")
    with pytest.raises(ConfigError):
        protect(b"secret", "")


def test_credentials_under_a_passphrase_come_back(tmp_path: Path) -> None:
    path, own = tmp_path / "keys.json", Credentials.generate(7)
    save_credentials(path, own, passphrase="two words")
    assert own.signing.secret.hex().encode() not in path.read_bytes()
    assert load_credentials(path, passphrase="two words").signing == own.signing
    with pytest.raises(StateError, match="give the passphrase"):
        load_credentials(path)
    save_credentials(path, own)
    assert load_credentials(path).signing == own.signing
