"""The directory of sites: cards, digest, quorum, expiry."""

from pathlib import Path

import pytest

from privfl.crypto import SigningKey
from privfl.crypto.members import Members, SiteCard, client_of, fingerprint
from privfl.errors import ConfigError, RemoteProtocolError, StateError
from privfl.wire import SERVER

KEYS = [SigningKey(bytes([value]) * 32) for value in (1, 2, 3)]
CARDS = [SiteCard.make(f"site{n}", key, issued=100, expires=900 + n) for n, key in enumerate(KEYS)]


def members(quorum: int = 2, cards: list[SiteCard] = CARDS) -> Members:
    return Members(cards, issued=200, expires=2000, quorum=quorum)


def test_a_card_comes_back_from_its_file_and_an_altered_one_does_not(tmp_path: Path) -> None:
    path = tmp_path / "site0.pub"
    CARDS[0].write(path)
    assert SiteCard.read(path) == CARDS[0]
    assert 0 <= CARDS[0].client == client_of(KEYS[0].public) < SERVER
    assert [len(group) for group in fingerprint(KEYS[0].public).split()] == [4] * 8
    path.write_text(path.read_text().replace("site0", "site9"))
    with pytest.raises(StateError, match="not a site's card"):
        SiteCard.read(path)
    with pytest.raises(StateError, match="cannot be read"):
        SiteCard.read(tmp_path / "none.pub")
    for name in ("", "a/b", "é", ".hidden", "x" * 61):
        with pytest.raises(ConfigError):
            SiteCard.make(name, KEYS[0], issued=1, expires=2)
    with pytest.raises(ConfigError, match="expire"):
        SiteCard.make("a", KEYS[0], issued=2, expires=2)


def test_a_directory_counts_once_a_quorum_of_members_signed_it(tmp_path: Path) -> None:
    path = tmp_path / "directory.json"
    one = members().signed(KEYS[0])
    with pytest.raises(StateError, match="1 of 2 signatures"):
        one.check(500)
    two = one.signed(KEYS[2])
    two.check(500)
    assert one.digest == two.digest == members().digest  # signatures are no part of it
    two.write(path)
    again = Members.read(path)
    again.check(500)
    assert again.names == {card.name: card.client for card in CARDS}
    path.write_text(path.read_text().replace('"quorum":2', '"quorum":1'))
    with pytest.raises(StateError, match="does not verify"):
        Members.read(path)
    with pytest.raises(ConfigError, match="only a member"):
        one.signed(SigningKey(bytes([9]) * 32))


def test_time_bounds_a_directory_and_each_key() -> None:
    signed = members().signed(KEYS[0]).signed(KEYS[1])
    for now, match in ((199, "not valid yet"), (2000, "has expired")):
        with pytest.raises(StateError, match=match):
            signed.check(now)
    late = signed.current(901)
    late.verify_key(CARDS[2].client)
    with pytest.raises(RemoteProtocolError):
        late.verify_key(CARDS[0].client)


def test_impossible_directories_are_refused() -> None:
    for quorum in (0, 4):
        with pytest.raises(ConfigError):
            members(quorum)
    twin = SiteCard.make("site0", KEYS[1], issued=1, expires=5)
    with pytest.raises(ConfigError, match="share a name"):
        members(1, [CARDS[0], twin])
    with pytest.raises(ConfigError, match="expire"):
        Members(CARDS, issued=5, expires=5, quorum=1)
