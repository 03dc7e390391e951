"""Bad shares, dealt or given: liars are named when it is proven, honest clients never, and the rest is undecided."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pytest

from privfl.crypto import shamir
from privfl.crypto.shamir import PRIME, SHARE_BYTES, share_from_bytes, share_to_bytes
from privfl.errors import RemoteProtocolError, TooFewSurvivors
from privfl.secagg import MaskedSum
from privfl.secagg.disputes import Disputes
from privfl.secagg.messages import BOX_BYTES, Bitmap, ShareKeys, Unmask, pieces
from privfl.sums.base import Dispute
from privfl.wire import HEADER_BYTES, Message

Make = Callable[..., Any]


def body(kind: type[Message], message: bytes) -> Any:
    return kind.from_body(memoryview(message)[HEADER_BYTES:])


def up(game: Any, client: int, message: Message) -> None:
    game.uplink[client] = message.to_bytes(sender=client, task=game.session)


def ring(degree: int, threshold: int, *, mode: str = "semi-honest", directory: Any = None) -> MaskedSum:
    return MaskedSum(directory, mode=mode, graph=degree, share_threshold=threshold, corrupt=0.0)  # type: ignore[arg-type]


def dealers(game: Any, holder: int) -> list[int]:
    """Whose shares the holder gives, in the order of its message, while all clients share."""
    return list(game.server._graph.holders(holder))


def lie(game: Any, holder: int, about: Iterable[int], source: random.Random) -> None:
    """The holder's shares of these dealers are random."""
    message = body(Unmask, game.uplink[holder])
    shares = pieces(message.shares, SHARE_BYTES, len(message.dealers), "shares")
    wrong = set(about)
    told = [
        share_to_bytes(source.randrange(PRIME)) if dealer in wrong else bytes(share)
        for dealer, share in zip(dealers(game, holder), shares, strict=True)
    ]
    up(game, holder, Unmask(message.dealers, b"".join(told)))


def deal_badly(game: Any, dealer: int, holders: Iterable[int] = (), *, seed_hash: bool = False) -> None:
    """The dealer's boxes for these holders do not open, or its hash is that of no seed."""
    honest = body(ShareKeys, game.uplink[dealer])
    boxes = bytearray(honest.boxes)
    neighbors = game.server._graph.neighbors(dealer)
    for holder in holders:
        at = neighbors.index(holder) * BOX_BYTES
        boxes[at : at + BOX_BYTES] = bytes(BOX_BYTES)
    up(game, dealer, ShareKeys(bytes(32) if seed_hash else honest.seed_hash, bytes(boxes)))


def outcome(play: Callable[[], object]) -> int | None:
    """Whom a failed sum names; None as well if it opens or too few are left."""
    try:
        play()
    except RemoteProtocolError as error:
        return error.sender
    except TooFewSurvivors:
        return None
    return None


# --- one liar --------------------------------------------------------------------------------------------------------


def test_one_wrong_share_is_undecided_and_the_round_completes(play: Make) -> None:
    """One share of five is wrong, four are enough; either the dealer or the holder may have done it."""
    game = play().until(4).answer()
    lie(game, 1, [3], random.Random(1))
    game.send().finish()
    assert not game.server.result.blamed
    assert game.server.result.undecided == (Dispute(3, 1, "wrong"),)


def test_a_holder_that_gives_no_share_at_all_is_named(play: Make) -> None:
    game = play().until(4).answer()
    up(game, 1, Unmask(Bitmap.of(5, ()), b""))
    game.send().finish()
    assert set(game.server.result.blamed) == {1}
    assert "dealer 4 held by client 1 did not open" in game.server.result.blamed[1]
    assert game.server.result.undecided == ()


@pytest.mark.parametrize("given", [(0, 1, 2, 4), (1, 2, 3)])
def test_a_holder_that_gives_all_but_a_few_shares_is_not(play: Make, given: tuple[int, ...]) -> None:
    game = play().until(4).answer()
    shares = pieces(body(Unmask, game.uplink[1]).shares, SHARE_BYTES, 5, "shares")
    up(game, 1, Unmask(Bitmap.of(5, given), b"".join(shares[i] for i in given)))
    game.send().finish()
    assert not game.server.result.blamed
    missing = sorted(set(range(5)) - set(given))
    assert game.server.result.undecided == tuple(Dispute(dealer, 1, "missing") for dealer in missing)


@pytest.mark.parametrize(("clients", "mode"), [(10, "signed"), (20, "signed"), (40, "signed"), (15, "semi-honest")])
def test_one_liar_is_named_and_nobody_else(play: Make, identities: Any, clients: int, mode: Any) -> None:
    scheme = MaskedSum(identities[1] if mode == "signed" else None, mode=mode)
    game = play(clients, scheme=scheme).until(4 if mode == "signed" else 3).answer()
    lie(game, 7, range(clients), random.Random(2))
    game.send().finish()
    assert set(game.server.result.blamed) == {7}
    told = game.server.result.blamed[7]
    assert all(f"the share of dealer {dealer} held by client 7 is wrong" in told for dealer in range(clients))
    assert game.server.result.undecided == ()


@pytest.mark.parametrize(("degree", "threshold"), [(12, 9), (16, 10), (20, 12)])
def test_one_liar_on_a_ring_is_named_and_nobody_else(play: Make, identities: Any, degree: int, threshold: int) -> None:
    """With f = 2t - k - 1 corrupt neighbors tolerated, a liar to all k is named, and one to f of them is not."""
    scheme = ring(degree, threshold, mode="signed", directory=identities[1])
    game = play(30, scheme=scheme).until(4).answer()
    for count in (degree, 2 * threshold - degree - 1):
        fork = game.fork()
        about = dealers(fork, 3)[:count]
        lie(fork, 3, about, random.Random(3))
        fork.send().finish()
        result = fork.server.result
        assert set(result.blamed) == ({3} if count == degree else set())
        assert result.undecided == (() if count == degree else tuple(Dispute(dealer, 3, "wrong") for dealer in about))


# --- several liars, and bad dealers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("clients", "liars"), [(16, 2), (16, 3), (16, 5), (20, 4), (13, 4), (8, 2), (40, 9)])
def test_liars_never_get_honest_clients_named(play: Make, clients: int, liars: int, seed: int) -> None:
    """Up to as many as the sum tolerates give random shares of all dealers, or of half of them."""
    source = random.Random(f"{clients} {liars} {seed}")
    game = play(clients).until(4).answer()
    guilty = set(source.sample(range(clients), liars))
    assert liars <= game.scheme.terms(game.task).max_corrupt
    for liar in guilty:
        lie(game, liar, source.sample(range(clients), clients if seed else clients // 2), source)
    sender = outcome(game.send)
    assert sender is None or sender in guilty
    assert set(game.server.blamed) <= guilty
    for pair in game.server.undecided:
        assert pair.kind == "unopened" or {pair.dealer, pair.holder} & guilty


def test_liars_within_reach_of_decoding_are_all_named(play: Make) -> None:
    """Three of 16 are one more than unique decoding finds without trying."""
    game = play(16).until(4).answer()
    for liar in (13, 14, 15):
        lie(game, liar, range(16), random.Random(liar))
    game.send().finish()
    assert set(game.server.result.blamed) == {13, 14, 15}
    assert game.server.result.undecided == ()


@pytest.mark.parametrize("clients", [5, 6, 12])
def test_a_hash_of_no_seed_names_nobody_where_liars_could_have_done_it(play: Make, clients: int) -> None:
    """All shares lie on one polynomial, but f liars could choose theirs to that end: t + f is more than there are."""
    game = play(clients).until(1).answer()
    deal_badly(game, 1, seed_hash=True)
    game.send().answer().send().answer().send().answer()
    with pytest.raises(RemoteProtocolError, match=r"of client 1 cannot be opened.*nobody is named") as caught:
        game.send()
    assert caught.value.sender is None
    assert game.server.result is None
    assert not game.server.blamed
    assert game.server.undecided == tuple(Dispute(1, holder, "unopened") for holder in range(clients))


@pytest.mark.parametrize("clients", [4, 10, 16])
def test_a_hash_of_no_seed_names_the_dealer_where_only_it_can_have_done_it(play: Make, clients: int) -> None:
    game = play(clients).until(1).answer()
    deal_badly(game, 1, seed_hash=True)
    game.send().answer().send().answer().send().answer()
    with pytest.raises(RemoteProtocolError, match="client 1 dealt bad shares: no") as caught:
        game.send()
    assert caught.value.sender == 1
    assert set(game.server.blamed) == {1}
    assert game.server.undecided == ()


@pytest.mark.parametrize(("clients", "closed"), [(5, 4), (10, 9), (20, 19), (20, 8)])
def test_boxes_that_too_many_cannot_open_name_the_dealer(play: Make, clients: int, closed: int) -> None:
    """More holders say so than can be corrupt, so one of them is honest."""
    game = play(clients).until(1).answer()
    deal_badly(game, 1, [holder for holder in range(clients) if holder != 1][:closed])
    game.send().answer().send().answer().send().answer()
    if clients - closed < game.scheme.terms(game.task).threshold:
        with pytest.raises(
            RemoteProtocolError, match=f"client 1 dealt bad shares: {closed} of its {clients}"
        ) as caught:
            game.send()
        assert caught.value.sender == 1
        assert game.server.result is None
    assert set(game.server.blamed) == {1}


def test_boxes_that_a_few_cannot_open_are_undecided(play: Make) -> None:
    game = play(20).until(1).answer()
    deal_badly(game, 1, [2, 3, 4])
    game.send().finish()
    assert not game.server.result.blamed
    assert game.server.result.undecided == tuple(Dispute(1, holder, "missing") for holder in (2, 3, 4))


# --- colluders that agree on another polynomial ----------------------------------------------------------------------


def shift(game: Any, liars: Iterable[int], roots: Mapping[int, list[int]], factor: int) -> None:
    """The liars add to their shares of each dealer a multiple of the polynomial that is zero at the dealer's roots."""
    for liar in liars:
        message = body(Unmask, game.uplink[liar])
        told = []
        for dealer, share in zip(
            dealers(game, liar), pieces(message.shares, SHARE_BYTES, len(message.dealers), "shares"), strict=True
        ):
            off = factor
            for root in roots.get(dealer, [liar + 1]):
                off = off * (liar + 1 - root) % PRIME
            told.append(share_to_bytes((share_from_bytes(bytes(share)) + off) % PRIME))
        up(game, liar, Unmask(message.dealers, b"".join(told)))


@pytest.mark.parametrize(("clients", "liars"), [(20, 7), (40, 13)])
def test_colluders_cannot_get_an_honest_dealer_put_out(play: Make, clients: int, liars: int) -> None:
    """All but at most one share lie on one polynomial that does not give the secret of dealer 0, who dealt another."""
    game = play(clients).until(4).answer()
    threshold = game.scheme.terms(game.task).threshold
    shift(game, range(clients - liars, clients), {0: list(range(1, threshold))}, 12345)
    with pytest.raises(RemoteProtocolError, match="nobody is named") as caught:
        game.send()
    assert caught.value.sender is None
    assert not game.server.blamed
    assert all(pair.kind == "unopened" for pair in game.server.undecided)


def test_what_is_certain_and_what_is_less() -> None:
    """16 clients at threshold 11, of whom 5 may be corrupt."""
    disputes = Disputes(5, 11)
    disputes.wrong(0, [1, 2, 3], 16)
    assert [pair.kind for pair in disputes.undecided()] == ["wrong"] * 3
    disputes.wrong(1, [4, 5, 6, 7], 16)  # so many that others may be the liars: noted, and nobody's dispute
    for dealer in range(8, 12):
        disputes.wrong(dealer, [4], 16)
    assert disputes.guilty() == {}
    disputes.wrong(12, [4], 16)
    assert disputes.guilty() == {}  # five others, and dealer 1 does not count
    disputes.wrong(13, [4], 16)
    assert set(disputes.guilty()) == {4}
    disputes.unopened(14, range(15), range(15))
    assert not disputes.is_bad_dealer(14)
    disputes.unopened(14, range(16), range(16))
    assert disputes.is_bad_dealer(14)
    for holder in range(5):
        disputes.missing(15, holder)
    assert not disputes.is_bad_dealer(15)
    disputes.missing(15, 5)
    assert disputes.is_bad_dealer(15)
    assert set(disputes.guilty()) == {4, 14, 15}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(60))
def test_honest_clients_are_never_named_whatever_liars_and_dealers_do(play: Make, identities: Any, seed: int) -> None:
    """At most f corrupt clients deal and hold at random, in complete graphs and on rings."""
    source = random.Random(seed)
    clients = source.randrange(6, 26)
    if seed % 2:
        degree = 2 * source.randint(2, (clients - 1) // 2)
        scheme = ring(degree, source.randrange(degree // 2 + 1, degree + 1), mode="signed", directory=identities[1])
    else:
        scheme = MaskedSum(identities[1], corrupt=0.0)
    game = play(clients, scheme=scheme)
    limit = game.scheme.terms(game.task).max_corrupt
    corrupt = source.sample(range(clients), min(limit, clients // 3))
    game.until(1).answer()
    for dealer in corrupt:
        if source.random() < 0.4:
            near = game.server._graph.neighbors(dealer)
            deal_badly(
                game, dealer, source.sample(near, source.randrange(len(near) + 1)), seed_hash=source.random() < 0.2
            )

    def rest() -> None:
        game.send().answer().send().answer().send().answer()
        for liar in corrupt:
            if liar in game.uplink and source.random() < 0.8:
                given = body(Unmask, game.uplink[liar]).dealers
                if given.count == len(dealers(game, liar)) == len(given):
                    lie(game, liar, source.sample(dealers(game, liar), source.randrange(given.count + 1)), source)
        game.send()

    sender = outcome(rest)
    assert sender is None or sender in corrupt
    assert set(game.server.blamed) <= set(corrupt)


# --- the server's work -----------------------------------------------------------------------------------------------


def decodings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of how many shares each costly decoding was, from now on."""
    genuine, found = shamir._gao, []

    def counting(points: Any, shares: Any, threshold: int) -> Any:
        found.append(len(points))
        return genuine(points, shares, threshold)

    monkeypatch.setattr(shamir, "_gao", counting)
    return found


@pytest.mark.parametrize("clients", [10, 40])
def test_one_holder_of_nothing_but_wrong_shares(play: Make, monkeypatch: pytest.MonkeyPatch, clients: int) -> None:
    """It is decoded once, however many dealers it has: the others are opened without it."""
    game = play(clients).until(4).answer()
    lie(game, 3, range(clients), random.Random(4))
    found = decodings(monkeypatch)
    game.send().finish()
    assert found == [clients]
    assert set(game.server.result.blamed) == {3}


def test_several_holders_of_wrong_shares_of_different_dealers(play: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each new liar costs one decoding more, and no right share of a liar is called wrong."""
    game = play(40).until(4).answer()
    lies = {5: range(40), 6: range(10, 40), 7: range(20, 40), 8: range(0, 40, 2)}
    for holder, about in lies.items():
        lie(game, holder, about, random.Random(holder))
    found = decodings(monkeypatch)
    game.send().finish()
    assert len(found) <= len(lies)
    assert set(game.server.result.blamed) == set(lies)
    for holder, about in lies.items():
        named = set(re.findall(rf"dealer (\d+) held by client {holder} is wrong", game.server.result.blamed[holder]))
        assert named == {str(dealer) for dealer in about}


def test_dealers_that_bring_honest_holders_into_doubt(play: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bad dealers and a bad holder together: one decoding for each dealer, and two until the holder stands out."""
    game = play(40).until(4).answer()
    victims = {0: range(1, 7), 1: range(7, 13), 2: range(13, 19)}
    for dealer, holders in victims.items():
        for holder in holders:  # as if the dealer had sealed wrong shares for six honest holders, the most that decode
            lie(game, holder, [dealer], random.Random(holder))
    lie(game, 30, range(3, 40), random.Random(30))
    found = decodings(monkeypatch)
    game.send().finish()
    assert len(found) <= 3 + 2
    assert set(game.server.result.blamed) == {30}
    assert "dealer 39 held by client 30 is wrong" in game.server.result.blamed[30]
    pairs = {(pair.dealer, pair.holder) for pair in game.server.result.undecided}
    assert pairs == {(dealer, holder) for dealer, holders in victims.items() for holder in holders}


def test_a_sum_of_many_that_cannot_be_opened_is_given_up_soon(play: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nineteen of 40 lie about everything: a few dealers are tried, and not all forty."""
    game = play(40).until(4).answer()
    for holder in range(19):
        lie(game, holder, range(40), random.Random(holder))
    found = decodings(monkeypatch)
    with pytest.raises(RemoteProtocolError, match="nobody is named"):
        game.send()
    assert len(found) <= 2 * 5
    assert not game.server.blamed
    np.testing.assert_array_equal(game.server.state.awaiting, set())
