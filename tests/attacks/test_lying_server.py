"""What a server may try on the clients of a masked sum, each attack by its name, and that it fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from refusals import body, refuse, unmoved

from privfl.crypto import (
    VerifyKey,
    add_keystreams,
    generate_identities,
)
from privfl.crypto.shamir import SHARE_BYTES
from privfl.errors import (
    LocalProtocolError,
    PlanRejected,
    RemoteProtocolError,
    TooFewSurvivors,
)
from privfl.ring import Ring
from privfl.secagg import MaskedSum
from privfl.secagg.messages import (
    BOX_BYTES,
    AdvertiseKeys,
    Bitmap,
    Boxes,
    MaskedInput,
    Roster,
    ShareKeys,
    Signatures,
    Survivors,
    Unmask,
)
from privfl.sums import SumPolicy, SumTask

Make = Callable[..., Any]
RECORD = 4 + 64 + 64


def survivors(game: Any, *members: int, count: int | None = None) -> bytes:
    return bytes(game.down(Survivors(Bitmap.of(count or len(game.clients), members))))


# --- asking twice --------------------------------------------------------------------------------------------------


def test_second_unmask_request(play: Make) -> None:
    """The same request gets the same bytes again; an earlier list, or another request, gets nothing."""
    game = play().until(4)
    given = game.clients[0].receive(game.mail[0])
    assert game.clients[0].receive(game.mail[0]) == given
    assert game.clients[0].receive(survivors(game, 0, 1, 2, 3)) is None
    other = body(Signatures, game.mail[0])
    with pytest.raises(RemoteProtocolError, match="two different messages"):
        game.clients[0].receive(game.down(Signatures(0, other.signers, bytes(len(other.signatures)))))
    assert game.clients[0].receive(game.mail[0]) == given


def test_both_share_types_in_one_message(play: Make) -> None:
    """A client gives one share of each dealer, of the kind that its one list of survivors says."""
    game = play().until(2).answer().send(silent=frozenset({4})).answer().send()
    seeds = [p.seed_share for p in game.clients[0]._peers.values()]
    others = [p.key_share for p in game.clients[0]._peers.values()]
    message = body(Unmask, game.clients[0].receive(game.mail[0]))
    shares = [bytes(message.shares)[i : i + SHARE_BYTES] for i in range(0, 5 * SHARE_BYTES, SHARE_BYTES)]
    assert len(message.shares) == 5 * SHARE_BYTES
    assert shares == [*seeds[:4], others[4]]


@pytest.mark.parametrize("second", [(0, 1, 2, 3), (0, 1, 2, 4), (0, 1, 2, 3, 4)])
def test_both_share_types_in_two_messages(play: Make, second: tuple[int, ...]) -> None:
    """A second list is never signed: the same one gets the same signature again, another one an error."""
    game = play().until(3)
    signed = game.clients[0].receive(game.mail[0])
    for _ in range(2):
        if second == (0, 1, 2, 3, 4):
            assert game.clients[0].receive(survivors(game, *second)) == signed
        else:
            with pytest.raises(RemoteProtocolError, match="two different messages"):
                game.clients[0].receive(survivors(game, *second))
    assert signed is not None


def test_both_share_types_in_two_messages_without_signatures(play: Make) -> None:
    game = play(scheme=MaskedSum(mode="semi-honest")).until(3)
    given = game.clients[0].receive(game.mail[0])
    with pytest.raises(RemoteProtocolError, match="two different messages"):
        game.clients[0].receive(survivors(game, 0, 1, 2, 3))
    assert game.clients[0].receive(game.mail[0]) == given


def test_both_share_types_in_two_sessions(play: Make) -> None:
    """A session of the same client under the same task has fresh secrets and takes no roster but its own."""
    game, other = play().until(1), play().until(1)
    assert game.session == other.session
    first, second = game.clients[0]._own, other.clients[0]._own
    assert first.seed != second.seed
    assert first.mask_key != second.mask_key
    refuse(game, 0, other.mail[0])


def test_a_directory_that_fails_for_a_while_costs_nobody_its_place() -> None:
    """Nothing has left the client when its directory fails: the message may come again, and gets one answer."""

    class Flaky:
        broken = False

        def verify_key(self, client: int) -> VerifyKey:
            if self.broken:
                raise OSError("the directory's disk is gone")
            return known.verify_key(client)

    credentials, known = generate_identities(range(5))
    flaky = Flaky()
    scheme = MaskedSum(flaky)
    task = SumTask(b"round 1", tuple(range(5)), 2, 4, Ring(32), 1)
    sessions = {c: scheme.client(task, c, np.zeros(4, np.int64), credentials=credentials[c]) for c in range(5)}
    server = scheme.server(task)
    for client, session in sessions.items():
        server.receive(client, session.start())
    mail = dict(server.advance())
    while server.result is None:
        answers = {}
        for client, message in mail.items():
            flaky.broken = client == 0
            if sessions[client].state in ("advertised", "checked") and client == 0:
                state = sessions[client].to_bytes()
                with pytest.raises(OSError, match="disk"):
                    sessions[client].receive(message)
                assert sessions[client].to_bytes() == state
            flaky.broken = False
            answers[client] = sessions[client].receive(message) or b""
        for client, answer in answers.items():
            if server.step == "ConsistencyCheck":
                flaky.broken = True
                state = server.to_bytes()
                with pytest.raises(OSError, match="disk"):
                    server.receive(client, answer)
                assert server.to_bytes() == state
                flaky.broken = False
            server.receive(client, answer)
        mail = dict(server.advance())
    assert server.result.survivors == set(range(5))
    assert not server.result.blamed


# --- lists ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("members", "count"),
    [((1, 2, 3, 4), 5), ((0, 1, 2, 3, 5), 6), ((0, 1, 2, 3), 4), ((0, 1, 2, 3, 4), 100)],
    ids=["without the receiver", "with a stranger", "over a smaller roster", "over a larger roster"],
)
@pytest.mark.parametrize("step", [2, 3])
def test_lists_that_name_the_wrong_clients(play: Make, members: tuple[int, ...], count: int, step: int) -> None:
    game = play().until(step)
    named = Bitmap.of(count, members)
    lie = game.down(Boxes(0, named, bytes(4 * BOX_BYTES)) if step == 2 else Survivors(named))
    (unmoved if step == 3 and 0 not in members else refuse)(game, 0, lie)  # survivors without it concern others


def test_list_with_bits_behind_its_end(play: Make) -> None:
    game = play().until(3)
    message = bytearray(game.mail[0])
    message[-1] |= 0x20
    refuse(game, 0, bytes(message))


def test_list_that_grows_again(play: Make) -> None:
    """Client 4 never shared its keys; as a survivor it would be a vector without masks to take off."""
    game = play().until(1).answer().send(silent=frozenset({4})).answer().send()
    refuse(game, 0, survivors(game, 0, 1, 2, 3, 4))


@pytest.mark.parametrize("members", [(0,), (0, 1), (0, 1, 2)])
def test_list_below_the_threshold(play: Make, members: tuple[int, ...]) -> None:
    game = play().until(3)
    refuse(game, 0, survivors(game, *members), TooFewSurvivors)


def test_list_below_the_least_number_of_vectors(play: Make) -> None:
    game = play(scheme=MaskedSum(mode="semi-honest", share_threshold=1))
    game.until(3)
    refuse(game, 0, survivors(game, 0), TooFewSurvivors)


def test_sharers_below_the_threshold(play: Make) -> None:
    game = play().until(2)
    refuse(game, 0, game.down(Boxes(0, Bitmap.of(5, (0, 1)), bytes(BOX_BYTES))), TooFewSurvivors)


# --- split view ----------------------------------------------------------------------------------------------------


def test_split_view_of_survivors(play: Make) -> None:
    """Two halves are shown different lists: each signs its own, and neither list has enough signatures."""
    game = play(6).until(3)
    views = {c: (0, 1, 2, 3, 4) if c < 3 else (0, 1, 2, 3, 4, 5) for c in range(5)}
    signed = {c: game.clients[c].receive(survivors(game, *views[c]))[-64:] for c in views}
    for victim in range(5):
        same = [c for c in views if views[c] == views[victim] and c != victim]
        everybody = [c for c in views if c != victim]
        attempts = []
        for chosen in (same, everybody):
            places = Bitmap.of(5, (c - (c > victim) for c in chosen))
            attempts.append(game.down(Signatures(victim, places, b"".join(signed[c] for c in chosen))))
        fork = game.fork()
        with pytest.raises(TooFewSurvivors):
            fork.clients[victim].receive(attempts[0])
        with pytest.raises(RemoteProtocolError):
            game.clients[victim].receive(attempts[1])


def test_split_view_of_the_roster(play: Make) -> None:
    """Half the clients see a roster without client 5: what they seal, the other half cannot open."""
    game = play(6, scheme=MaskedSum(mode="semi-honest", share_threshold=4)).until(1)
    entries = bytes(body(Roster, game.mail[0]).entries)
    short = game.down(Roster(entries[: 5 * 68]))
    shared = {c: body(ShareKeys, game.clients[c].receive(short if c < 3 else game.mail[c])) for c in range(5)}
    boxes = {
        c: [bytes(m.boxes)[i : i + BOX_BYTES] for i in range(0, len(m.boxes), BOX_BYTES)] for c, m in shared.items()
    }
    inbox = b"".join(boxes[dealer][0] for dealer in (1, 2, 3, 4))
    with pytest.raises(TooFewSurvivors):
        game.clients[0].receive(game.down(Boxes(0, Bitmap.of(5, range(5)), inbox)))


def test_arc_of_the_ring_cut_off(play: Make, identities: Any) -> None:
    """The list leaves out all of two arcs of degree / 2 places, so that the sum of what lies between stands alone.

    Those near a gap lack neighbors; those far from it, whose neighbors are all there, see the gap on the list.
    """
    scheme = MaskedSum(identities[1], graph=6, share_threshold=4, corrupt=0, dropout=0.5)
    game = play(30, scheme=scheme).until(3)
    order = game.server._graph._order.tolist()
    named = set(range(30)) - {order[i] for i in (0, 1, 2, 15, 16, 17)}
    message = game.down(Survivors(Bitmap.of(30, named)))
    far, near = order[7], order[3]
    assert set(game.server._graph.holders(far)) <= named
    for client in (far, near):
        with pytest.raises(TooFewSurvivors):
            game.clients[client].receive(message)
    assert game.server._graph.min_arc(Bitmap.of(30, named)) == 0
    whole = set(range(30)) - {order[i] for i in (0, 1, 9, 15, 16)}  # five fewer, and no arc without a survivor
    assert game.clients[order[20]].receive(game.down(Survivors(Bitmap.of(30, whole))))


# --- the same signature twice, signatures of others ----------------------------------------------------------------


def test_signatures_that_are_not_those_of_survivors(play: Make) -> None:
    game = play().until(3)
    signed = {c: game.clients[c].receive(survivors(game, 0, 1, 2, 3))[-64:] for c in (0, 1, 2, 3)}
    three = b"".join(signed[c] for c in (1, 2, 3))
    for places, joined, error in [
        ((0, 1, 3), three, RemoteProtocolError),  # client 3's word in the name of client 4, who is no survivor
        ((0, 2, 1), three[:64] + three[128:] + three[64:128], RemoteProtocolError),  # swapped
        ((0, 1), three[:128], TooFewSurvivors),
        ((0, 1), three[:64] * 2, RemoteProtocolError),
        ((0, 1, 2), three[:-1], RemoteProtocolError),
    ]:
        fork = game.fork()
        with pytest.raises(error):
            fork.clients[0].receive(game.down(Signatures(0, Bitmap.of(4, places), joined)))
        assert fork.clients[0].state == "aborted"
    with pytest.raises(RemoteProtocolError, match="neighbors"):
        game.clients[0].receive(game.down(Signatures(0, Bitmap.of(5, (0, 1, 2)), three)))


# --- replay, order, policy -----------------------------------------------------------------------------------------


def test_replay_across_rounds(play: Make) -> None:
    for step in (1, 2, 3, 4):
        game, other = play().until(step), play(context=b"round 2").until(step)
        unmoved(game, 0, other.mail[0])


def test_replay_across_steps(play: Make) -> None:
    game = play().start()
    seen = []
    while game.server.result is None:
        for old in seen:
            fork = game.fork()
            state, last = fork.clients[0].state, fork.clients[0].last_message
            assert fork.clients[0].receive(old) == (last if old is seen[-1] else None)
            assert fork.clients[0].state == state
        seen.append(game.mail[0])
        game.answer().send()


def test_replay_across_sessions(play: Make) -> None:
    """Two sessions of one task have one digest in their headers; what binds the rest is the roster in every key."""
    for step, error in ((1, RemoteProtocolError), (2, TooFewSurvivors), (4, RemoteProtocolError)):
        game, other = play().until(step), play().until(step)
        assert game.session == other.session
        refuse(game, 0, other.mail[0], error)
    lists = [play().until(3).mail[0] for _ in range(2)]
    assert lists[0] == lists[1]  # a list of survivors alone says nothing that one session could not know


def test_messages_out_of_order(play: Make) -> None:
    """Whatever the server could have said later, said now, changes nothing."""
    later = {step: play().until(step).mail[0] for step in (2, 3, 4)}
    for due in (1, 2, 3):
        for step, message in later.items():
            if step > due:
                unmoved(play().until(due), 0, message)


def test_message_before_the_start(play: Make) -> None:
    game = play().until(1)
    session = game.client(0)
    with pytest.raises(LocalProtocolError, match="not started"):
        session.receive(game.mail[0])
    assert session.state == "new"
    assert session.start()
    with pytest.raises(LocalProtocolError):
        session.start()


def test_threshold_or_cohort_below_policy(play: Make) -> None:
    game = play()
    assert game.client(0, policy=SumPolicy(min_cohort=5, min_survivors=2, min_threshold=4)).state == "new"
    for policy in (SumPolicy(min_cohort=6), SumPolicy(min_survivors=3), SumPolicy(min_threshold=5)):
        with pytest.raises(PlanRejected):
            game.client(0, policy=policy)


def test_late_upload_of_a_client_declared_dead(play: Make) -> None:
    """The server knows the dead client's mask key, and so all its pairwise masks; its own mask still covers it."""
    game = play(length=2000).until(2).answer()
    late = body(MaskedInput, game.uplink[4])
    fork = game.fork().send(silent=frozenset({4}))
    state = fork.server.to_bytes()
    fork.server.receive(4, game.uplink[4])  # late: ignored
    assert fork.server.to_bytes() == state
    mask_key, seed = (
        game.clients[4]._own.mask_key,
        game.clients[4]._own.seed,
    )  # the first is what the survivors' shares give
    game.send(silent=frozenset({4})).finish()
    server, words = game.server, np.frombuffer(late.values, "<u4").copy()
    for peer in range(4):
        public = server.state.adverts[peer][:32]
        add_keystreams(words, [server._keys.pairwise(mask_key, public, 4, peer)])
    opened = Ring(32).center(words)
    assert np.count_nonzero(np.abs(opened) <= game.task.bound) < 50  # of 2000; a bare vector would have them all
    add_keystreams(words, [], [server._keys.self_mask(4, seed)])
    np.testing.assert_array_equal(Ring(32).center(words), game.vectors[4])  # the seed is all that was missing ...
    for client in range(4):  # ... and nobody gives it any more
        assert game.clients[client].receive(survivors(game, 0, 1, 2, 3, 4)) is None


# --- mismatches ----------------------------------------------------------------------------------------------------


def test_mismatch_of_model_or_plan(play: Make) -> None:
    """What a client with another model hash says is of another session; the others' sum is whole."""
    game, other = play(), play(context=b"round 1, another model")
    game.clients[2] = other.client(2)
    game.start().finish()
    assert game.server.result.survivors == {0, 1, 3, 4}
    assert not game.server.result.blamed


def test_hidden_mismatch(play: Make) -> None:
    """The headers are forged so that the mismatch stays hidden: its signature fails there, and all others' here."""
    game, other = play(), play(context=b"round 1, another model")
    stray = other.client(2)
    game.clients[2] = stray
    game.uplink = {c: session.start() for c, session in game.clients.items()}
    forged = body(AdvertiseKeys, game.uplink[2])
    game.uplink[2] = forged.to_bytes(sender=2, task=game.session)
    entries = b"".join(
        c.to_bytes(4, "little") + a.keys + bytes(a.signature)
        for c, a in ((c, body(AdvertiseKeys, m)) for c, m in game.uplink.items())
    )
    with pytest.raises(RemoteProtocolError, match="verify"):
        stray.receive(Roster(entries).to_bytes(sender=0xFFFF_FFFF, task=other.session))
    game.send().finish()
    assert game.server.result.survivors == {0, 1, 3, 4}


@pytest.mark.parametrize(
    "change",
    [{"share_threshold": 5}, {"packed": True}, {"graph": 4, "corrupt": 0, "share_threshold": 4}],
)
def test_every_term_is_in_the_session(play: Make, change: dict[str, Any], identities: Any) -> None:
    game = play()
    assert MaskedSum(identities[1], **change).terms(game.task).digest() != game.session
    assert MaskedSum(mode="semi-honest", share_threshold=4).terms(game.task).digest() != game.session
    task = SumTask(b"round 1", (0, 1, 2, 3, 4), 3, 4, Ring(32), 1 << 20)
    assert game.scheme.terms(task).digest() != game.session
