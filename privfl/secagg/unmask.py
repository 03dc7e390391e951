"""Reconstructing what the survivors reveal, and taking the masks off the sum."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from privfl.crypto import AgreementKey, add_keystreams
from privfl.crypto.kdf import KEY_BYTES
from privfl.crypto.shamir import SHARE_BYTES, Accept, Combiner, Opened, share_from_bytes
from privfl.errors import RemoteProtocolError, TooFewSurvivors, WireError
from privfl.secagg.disputes import Disputes
from privfl.secagg.graph import Graph
from privfl.secagg.keys import RosterKeys
from privfl.secagg.messages import Unmask, pieces
from privfl.secagg.state import ServerState
from privfl.secagg.terms import Terms
from privfl.wire import ClientId, Reader, read_fields

Holders = tuple[ClientId, ...]
How = Callable[[Combiner, Sequence[int], Accept], Opened | None]

_MAX_FAILURES: Final = 4
"""An opening that misses more secrets than this is given up: each one that is sought in vain takes a search."""


def check_unmask(message: Unmask, due: int) -> list[int]:
    """The shares of a message.

    Args:
        message: A client's last message.
        due: The number of dealers whose shares the message owes.

    Raises:
        WireError: The message is about another number of dealers, or a share is not canonical.
    """
    if message.dealers.count != due:
        raise WireError(f"shares of {message.dealers.count} dealers, where {due} are due")
    return [share_from_bytes(share) for share in pieces(message.shares, SHARE_BYTES, len(message.dealers), "shares")]


def _attempts(everybody: Holders, trusted: Holders) -> Iterator[tuple[Holders, How]]:
    """The ways to a secret, the cheapest first."""
    yield trusted, Combiner.combine_clean
    yield everybody, Combiner.decode
    if trusted != everybody:
        yield trusted, Combiner.decode
        yield trusted, Combiner.search
    yield everybody, Combiner.search


class Opener:
    """One opening: every dealer's secret from its holders' shares, then all masks off `state.total`.

    Args:
        terms: The terms of the sum.
        state: The server's state, with the messages of all steps.
        graph: The graph over the places of the roster.
        clients: The roster's identities, by place.
        keys: The keys bound to the roster.
        threads: The number of threads that expand masks, at least 1.
    """

    def __init__(
        self,
        terms: Terms,
        state: ServerState,
        graph: Graph,
        clients: Sequence[ClientId],
        *,
        keys: RosterKeys,
        threads: int,
    ) -> None:
        self._terms, self._state, self._graph, self._clients = terms, state, graph, clients
        self._keys, self._threads = keys, threads
        self._shares: dict[ClientId, dict[ClientId, int]] = {dealer: {} for dealer in state.boxes}
        self._spoke = dict.fromkeys(state.boxes, 0)  # how many of a dealer's holders sent their last message
        self._combiners: dict[tuple[ClientId, ...], Combiner] = {}
        self.disputes = Disputes(terms.max_corrupt, terms.threshold)
        self._wrong: Counter[ClientId] = Counter()  # by holder: of how many dealers its share was wrong

    def check(self) -> None:
        """Raise `TooFewSurvivors` unless enough holders of every secret that is needed have sent their last message."""
        for place, client in enumerate(self._clients):
            if client in self._state.uploaded or (client in self._state.boxes and self._survivors_near(place)):
                spoke = self._spoke_for(place)
                if spoke < self._terms.threshold:
                    raise TooFewSurvivors(spoke, self._terms.threshold, True)  # what opens the sum was asked for

    def _spoke_for(self, place: int) -> int:
        unmasks = self._state.unmasks
        if self._terms.degree == 0:
            return len(unmasks)
        return sum(self._clients[holder] in unmasks for holder in self._graph.holders(place))

    def _survivors_near(self, place: int) -> list[ClientId]:
        near = (self._clients[other] for other in self._graph.neighbors(place))
        return [other for other in near if other in self._state.uploaded]

    def _collect(self, place: int, holder: ClientId) -> None:
        """Lay one holder's shares next to those of the others, dealer by dealer."""
        due = [dealer for dealer in (self._clients[i] for i in self._graph.holders(place)) if dealer in self._shares]
        message = read_fields(Unmask, Reader(self._state.unmasks[holder]))
        found = iter(check_unmask(message, len(due)))
        for index, dealer in enumerate(due):
            self._spoke[dealer] += 1
            if index in message.dealers:
                self._shares[dealer][holder] = next(found)
            else:
                self.disputes.missing(dealer, holder)

    def masks(self) -> tuple[list[bytes], list[bytes]]:
        """The keys of the streams to add to the total and to take off it.

        Raises:
            RemoteProtocolError: A secret cannot be found. It names the dealer where the dealer is certainly at fault.
            TooFewSurvivors: Too few holders of a secret have sent their last message.
        """
        for place, holder in enumerate(self._clients):
            if holder in self._state.unmasks:
                self._collect(place, holder)
        needed = {
            client: self._self_check(client) if client in self._state.uploaded else self._key_check(client)
            for place, client in enumerate(self._clients)
            if client in self._state.uploaded or (client in self._state.boxes and self._survivors_near(place))
        }
        secrets = self._secrets(needed)
        plus: list[bytes] = []
        minus: list[bytes] = []
        for place, client in enumerate(self._clients):
            if client in self._state.uploaded:
                minus.append(self._keys.self_mask(client, secrets[client]))
            elif client in secrets:
                for sign, key in self._left_over(place, client, secrets[client]):
                    (plus if sign > 0 else minus).append(key)
        return plus, minus

    def unmask(self, plus: list[bytes], minus: list[bytes]) -> None:
        """Take every mask off the total, in place.

        Args:
            plus: The keys of the streams to add.
            minus: The keys of the streams to subtract.
        """
        add_keystreams(self._state.total, plus, minus, threads=self._threads)

    def _self_check(self, client: ClientId) -> Accept:
        expected = self._state.hashes[client]
        return lambda seed: self._keys.seed_hash(client, seed) == expected

    def _key_check(self, client: ClientId) -> Accept:
        public = self._state.adverts[client][:KEY_BYTES]
        return lambda secret: AgreementKey(secret).public == public

    def _left_over(self, place: int, client: ClientId, secret: bytes) -> Iterator[tuple[int, bytes]]:
        """The masks that survivors share with a client that dropped out, each with the sign that takes it off."""
        own = AgreementKey(secret)
        for other in self._survivors_near(place):
            peer = self._state.adverts[other][:KEY_BYTES]
            sign = -1 if other < client else 1  # the lower identity had added it
            yield sign, self._keys.pairwise(own, peer, client, other)

    def _secrets(self, needed: Mapping[ClientId, Accept]) -> dict[ClientId, bytes]:
        """All secrets; those that are not found at first are tried again with what the others showed about holders."""
        secrets: dict[ClientId, bytes] = {}
        failed: list[ClientId] = []
        for dealer, accept in needed.items():
            secret = self._secret(dealer, accept)
            if secret is not None:
                secrets[dealer] = secret
                continue
            failed.append(dealer)
            if len(failed) > _MAX_FAILURES:
                break
        for dealer in failed if self._wrong and len(failed) <= _MAX_FAILURES else ():
            secret = self._secret(dealer, needed[dealer])
            if secret is not None:
                secrets[dealer] = secret
        unopened = [dealer for dealer in failed if dealer not in secrets]
        if unopened:
            raise self._failure(unopened)
        return secrets

    def _failure(self, unopened: list[ClientId]) -> RemoteProtocolError:
        for dealer in unopened:
            held = self._shares[dealer]
            if len(held) >= self._terms.threshold:
                points = self._combiner(tuple(held)).consistent(list(held.values()))
                self.disputes.unopened(dealer, held, {point - 1 for point in points})
        for dealer in unopened:
            if self.disputes.is_bad_dealer(dealer):
                return RemoteProtocolError(f"client {dealer} dealt bad shares: {self._shown(dealer)}", sender=dealer)
        dealer = unopened[0]
        return RemoteProtocolError(
            f"the secret of client {dealer} cannot be opened: {self._shown(dealer)}. Either client {dealer} dealt bad "
            "shares or some of its holders gave wrong ones, so nobody is named; sum again under a new context"
        )

    def _shown(self, dealer: ClientId) -> str:
        held, spoke = len(self._shares[dealer]), self._spoke[dealer]
        if held < self._terms.threshold:
            return f"{spoke - held} of its {spoke} holders could not open theirs"
        return f"no {self._terms.threshold} of {held} shares give the secret"

    def _secret(self, dealer: ClientId, accept: Accept) -> bytes | None:
        held, spoke = self._shares[dealer], self._spoke[dealer]
        if spoke < self._terms.threshold:
            raise TooFewSurvivors(spoke, self._terms.threshold, True)
        if len(held) < self._terms.threshold:
            return None
        everybody, trusted = tuple(held), self._trusted(held)
        for holders, how in _attempts(everybody, trusted):
            combiner, shares = self._combiner(holders), [held[holder] for holder in holders]
            opened = how(combiner, shares, accept)
            if opened is not None:
                secret, points = opened
                wrong = self._off(tuple(holder for holder in holders if holder + 1 not in points), held)
                self._wrong.update(wrong)
                self.disputes.wrong(dealer, wrong, len(held))
                return secret
        return None

    def _off(self, right: tuple[ClientId, ...], held: Mapping[ClientId, int]) -> list[ClientId]:
        """The holders whose shares are off the polynomial of those that are right."""
        others = [holder for holder in held if holder not in set(right)]
        if not others:
            return []
        combiner, shares = self._combiner(right), [held[holder] for holder in right]
        return [holder for holder in others if combiner.value_at(holder + 1, shares) != held[holder]]

    def _trusted(self, held: Mapping[ClientId, int]) -> tuple[ClientId, ...]:
        """The holders to ask first: without those whose shares of other dealers were wrong, the worst of them first.

        A holder of nothing but wrong shares then costs one decoding and not one for each dealer. A dealer of bad shares
        can bring honest holders into doubt, but costs one decoding too, and a liar soon stands out from them.
        """
        doubted = sorted((h for h in held if self._wrong[h]), key=lambda holder: -self._wrong[holder])
        left_out = set(doubted[: len(held) - self._terms.threshold])
        return tuple(holder for holder in held if holder not in left_out)

    def _combiner(self, holders: tuple[ClientId, ...]) -> Combiner:
        if holders not in self._combiners:
            self._combiners[holders] = Combiner([holder + 1 for holder in holders], self._terms.threshold)
        return self._combiners[holders]
