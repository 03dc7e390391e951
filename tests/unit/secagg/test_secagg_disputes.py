"""Guilty and undecided by brute force: coalitions that agree on other polynomials against an honest client."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest

from privfl.crypto.shamir import PRIME, Combiner, split
from privfl.secagg.disputes import Disputes


def opened(
    clients: int, threshold: int, max_corrupt: int, held: int, liars: Iterable[int], *, seed: int = 0
) -> dict[int, str]:
    """Whom an opening names: `held` holders answer, and the liars agree on another polynomial with the same secret.

    It passes through the shares of all honest holders but client 0, as far as the degree allows.
    """
    source, liars = random.Random(seed), set(liars)
    disputes, points = Disputes(max_corrupt, threshold), list(range(1, clients + 1))
    combiner = Combiner(points[:held], threshold)
    roots = [0, *[c + 1 for c in range(1, held) if c not in liars][: threshold - 2]]
    for dealer in range(clients):
        secret = source.randbytes(32)
        shares = list(split(secret, points, threshold, source.randbytes)[:held])
        for liar in liars if dealer not in liars else ():
            off = 1
            for root in roots:
                off = off * (liar + 1 - root) % PRIME
            shares[liar] = (shares[liar] + off) % PRIME
        for how in (combiner.combine_clean, combiner.decode, combiner.search):
            found = how(shares, secret.__eq__)
            if found is not None:
                disputes.wrong(dealer, [point - 1 for point in found[1]], held)
                break
    return disputes.guilty()


@pytest.mark.parametrize("clients", range(4, 11))
def test_too_few_colluders_never_get_an_honest_client_named(clients: int) -> None:
    """At most half of the f that a signed sum tolerates, and no single one, whoever drops out."""
    threshold = 2 * clients // 3 + 1
    tolerated = 2 * threshold - clients - 1
    for held in range(threshold, clients + 1):
        for count in range(1, max(1, tolerated // 2) + 1):
            liars = set(range(held - count, held))
            assert set(opened(clients, threshold, tolerated, held, liars)) <= liars


def test_two_colluders_among_those_that_are_left_frame_nobody() -> None:
    """Of 10 holders at threshold 7 of 13 clients, 5 honest ones and two liars agree against client 0."""
    assert opened(13, 9, 4, 10, {8, 9}) == {}
    found = Disputes(4, 9)
    found.wrong(1, [0], 10)
    assert [pair.kind for pair in found.undecided()] == ["wrong"]


@pytest.mark.parametrize("clients", range(4, 22))
def test_one_holder_of_wrong_shares_alone_is_named_where_everybody_answers(clients: int) -> None:
    threshold = 2 * clients // 3 + 1
    disputes = Disputes(2 * threshold - clients - 1, threshold)
    for dealer in range(clients):
        disputes.wrong(dealer, [1], clients)
    decided = clients - 1 - threshold + 2 > 1
    assert set(disputes.guilty()) == ({1} if decided else set())


@pytest.mark.parametrize("tolerated", range(5))
def test_a_client_is_guilty_beyond_as_many_others_as_may_be_corrupt(tolerated: int) -> None:
    disputes = Disputes(tolerated, tolerated + 1)
    for holder in range(1, tolerated + 1):
        disputes.missing(0, holder)
        disputes.missing(0, holder)  # the same pair counts once
        disputes.wrong(0, [holder], 40)
    assert disputes.guilty() == {}
    assert not disputes.is_bad_dealer(0)
    disputes.missing(tolerated + 1, 0)
    assert set(disputes.guilty()) == ({0} if tolerated else {0, 1})
    assert disputes.is_bad_dealer(0) == (tolerated == -1)
    assert not any(0 in (pair.dealer, pair.holder) for pair in disputes.undecided())
