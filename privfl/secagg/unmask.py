"""Reconstructing what the survivors reveal, and taking the masks off the sum."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

from privfl.crypto import AgreementKey, add_keystreams
from privfl.crypto.kdf import KEY_BYTES
from privfl.crypto.shamir import SHARE_BYTES, Combiner, share_from_bytes
from privfl.errors import RemoteProtocolError, TooFewSurvivors, WireError
from privfl.secagg.graph import Graph
from privfl.secagg.keys import RosterKeys
from privfl.secagg.messages import Unmask, pieces
from privfl.secagg.state import ServerState
from privfl.secagg.terms import Terms
from privfl.wire import ClientId, Reader, read_fields


def check_unmask(message: Unmask, due: int) -> list[int]:
    """The shares of a message that owes `due` of them; raises `WireError` unless all are canonical."""
    if message.given.count != due:
        raise WireError(f"shares of {message.given.count} dealers, where {due} are due")
    return [share_from_bytes(share) for share in pieces(message.shares, SHARE_BYTES, len(message.given), "shares")]


class Opener:
    """One opening: every dealer's secret from its holders' shares, then all masks off `state.total`."""

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
        self.blamed = dict(state.blamed)
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
        """Lay one holder's shares beside those of the others, dealer by dealer."""
        due = [dealer for dealer in (self._clients[i] for i in self._graph.holders(place)) if dealer in self._shares]
        message = read_fields(Unmask, Reader(self._state.unmasks[holder]))
        found = iter(check_unmask(message, len(due)))
        for index, dealer in enumerate(due):
            self._spoke[dealer] += 1
            if index in message.given:
                self._shares[dealer][holder] = next(found)
            else:
                self._blame(dealer, holder, "did not open")

    def masks(self) -> tuple[list[bytes], list[bytes]]:
        """The keys of the streams to add to the total and to take off it; raises if one of them cannot be found."""
        for place, holder in enumerate(self._clients):
            if holder in self._state.unmasks:
                self._collect(place, holder)
        plus: list[bytes] = []
        minus: list[bytes] = []
        for place, client in enumerate(self._clients):
            if client in self._state.uploaded:
                minus.append(self._self_mask(client))
            elif client in self._state.boxes:
                for sign, key in self._left_over(place, client):
                    (plus if sign > 0 else minus).append(key)
        return plus, minus

    def unmask(self, plus: list[bytes], minus: list[bytes]) -> None:
        """Take every mask off the total, in place."""
        add_keystreams(self._state.total, plus, minus, threads=self._threads)

    def _self_mask(self, client: ClientId) -> bytes:
        expected = self._state.hashes[client]
        seed = self._secret(client, lambda seed: self._keys.seed_hash(client, seed) == expected)
        return self._keys.self_mask(client, seed)

    def _left_over(self, place: int, client: ClientId) -> Iterator[tuple[int, bytes]]:
        """The masks that survivors share with a client that dropped out, each with the sign that takes it off."""
        adverts = self._state.adverts
        near = self._survivors_near(place)
        if not near:
            return
        public = adverts[client][:KEY_BYTES]
        own = AgreementKey(self._secret(client, lambda secret: AgreementKey(secret).public == public))
        for other in near:
            peer = adverts[other][:KEY_BYTES]
            sign = -1 if other < client else 1  # the lower identity had added it
            yield sign, self._keys.pairwise(own, peer, client, other)

    def _secret(self, dealer: ClientId, accept: Callable[[bytes], bool]) -> bytes:
        held, spoke = self._shares[dealer], self._spoke[dealer]
        if spoke < self._terms.threshold:
            raise TooFewSurvivors(spoke, self._terms.threshold, True)
        if len(held) < self._terms.threshold:
            withheld = f"{spoke - len(held)} of its {spoke} holders could not open theirs"
            raise RemoteProtocolError(f"client {dealer} dealt bad shares: {withheld}", sender=dealer)
        trusted = self._trusted(held)
        combiner, shares = self._combiner(trusted), [held[holder] for holder in trusted]
        secret = combiner.combine_clean(shares, accept)
        if secret is not None:
            doubted = set(held).difference(trusted)
            wrong = {holder for holder in doubted if combiner.value_at(holder + 1, shares) != held[holder]}
        else:
            secret, wrong = self._decode(dealer, held, accept)
        for holder in sorted(wrong):
            self._wrong[holder] += 1
            self._blame(dealer, holder, "is wrong")
        return secret

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

    def _decode(
        self, dealer: ClientId, held: Mapping[ClientId, int], accept: Callable[[bytes], bool]
    ) -> tuple[bytes, set[ClientId]]:
        try:
            secret, wrong = self._combiner(tuple(held)).combine(list(held.values()), accept)
        except RemoteProtocolError as error:
            raise RemoteProtocolError(f"client {dealer} dealt bad shares: {error}", sender=dealer) from error
        return secret, {point - 1 for point in wrong}

    def _blame(self, dealer: ClientId, holder: ClientId, what: str) -> None:
        """Either of the two may have done it, so both are named."""
        for client in (dealer, holder):
            text = f"the share of dealer {dealer} held by client {holder} {what}"
            known = self.blamed.get(client)
            self.blamed[client] = text if known is None else f"{known}; {text}"
