"""A server that lies to the opener, to the dealer or to everybody: each lie is a typed error, and nothing is opened."""

import dataclasses
import gc
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from privfl.crypto import AgreementKey, Credentials, generate_identities
from privfl.errors import LocalProtocolError, PlanRejected, RemoteProtocolError, TooFewSurvivors
from privfl.he import CkksSum, KeyStore, plan_for
from privfl.he.client import CkksClient
from privfl.he.keys import key_id
from privfl.he.machine import ClientState
from privfl.he.messages import Advert, AskDealer, AskOpener, Box, Dealt, FrameHeader, Survivors, UseKey
from privfl.he.opening import decrypt_sum
from privfl.he.packing import pack, unpack
from privfl.he.seal import SealCipher
from privfl.he.work import KeyedWork
from privfl.ring import Ring
from privfl.sums import SumPolicy, SumTask
from privfl.wire import SERVER, Message, decode


class Room:
    """Five clients and a server, driven step by step."""

    def __init__(self, clients: int = 5, least: int = 3, length: int = 300, context: bytes = b"round 1") -> None:
        ring = Ring(23)
        self.task = SumTask(context, tuple(range(clients)), least, length, ring, (ring.half - 1) // clients)
        self.credentials, self.directory = generate_identities(self.task.clients)
        self.plan = plan_for(self.task)
        rng = np.random.default_rng(1)
        self.vectors = {c: rng.integers(-1000, 1000, length) for c in self.task.clients}
        self.start()

    def start(self) -> None:
        scheme = CkksSum(self.directory)
        self.server = scheme.server(self.task)
        self.sessions: dict[int, CkksClient] = {
            c: scheme.client(self.task, c, self.vectors[c], credentials=self.credentials[c]) for c in self.task.clients
        }

    def until(self, state: str) -> dict[int, bytes]:
        """Everybody is honest until the server has asked for `state`; its messages are returned, not delivered."""
        for client, session in self.sessions.items():
            self.server.receive(client, session.start())
        messages = dict(self.server.advance())
        while self.server.state.value != state:
            for client, message in messages.items():
                answer = self.sessions[client].receive(message)
                assert answer is not None
                self.server.receive(client, answer)
            messages = dict(self.server.advance())
        return messages

    def bytes(self, message: Message) -> bytes:
        return message.to_bytes(sender=SERVER, task=self.task.digest())

    def ask(self) -> AskOpener:
        (message,) = self.until("open").values()
        _, ask = decode(message, [AskOpener], max_length=1 << 30)
        assert isinstance(ask, AskOpener)
        return ask


def refused(room: Room, client: int, message: Message | bytes, error: type[Exception], match: str) -> None:
    session = room.sessions[client]
    with pytest.raises(error, match=match):
        session.receive(message if isinstance(message, bytes) else room.bytes(message))
    assert session.state is ClientState.ABORTED
    with pytest.raises(LocalProtocolError):
        session.receive(message if isinstance(message, bytes) else room.bytes(message))
    assert not reachable(session, SealCipher), "an aborted session keeps no key"


def reachable(root: object, *kinds: type) -> list[object]:
    """Every instance of `kinds` that can be reached from `root`, modules and classes left aside."""
    seen, todo, found = {id(root)}, [root], []
    while todo:
        thing = todo.pop()
        if isinstance(thing, kinds):
            found.append(thing)
        for other in gc.get_referents(thing):
            if (
                id(other) not in seen
                and not isinstance(other, type)
                and type(other).__name__ not in ("module", "function")
            ):
                seen.add(id(other))
                todo.append(other)
    return found


def multiply(room: Room, block: Any, factor: int) -> bytes:
    residues = unpack(block, room.plan).astype(object) * factor % room.plan.modulus
    return pack(residues.astype(np.uint64), room.plan.residue_bytes)


@pytest.mark.parametrize("factor", [2, 3, 1000, 2**20])
def test_a_scaled_sum(factor: int) -> None:
    room = Room()
    ask = room.ask()
    lie = dataclasses.replace(ask, block=multiply(room, ask.block, factor))
    refused(room, 0, lie, RemoteProtocolError, "not the sum of the signed frames")


def test_a_scaled_sum_would_also_fail_to_decrypt() -> None:
    """The second line of defense: the opener recomputes the random halves, so a scaled block is noise to it."""
    room = Room()
    ask = room.ask()
    work = room.sessions[0]._held.work  # type: ignore[union-attr]
    assert work is not None
    seeds = [header.seeds for header in ask.headers]
    exact = decrypt_sum(room.plan, unpack(ask.block, room.plan), seeds, work)
    assert isinstance(exact, np.ndarray)
    assert np.array_equal(exact[: room.task.length], sum(room.vectors.values()))
    for block, chosen in (
        (multiply(room, ask.block, 2), seeds),
        (bytes(ask.block), seeds[:-1]),
        (bytes(ask.block), [*seeds, seeds[0]]),
        (pack(np.zeros(room.plan.degree, np.uint64), room.plan.residue_bytes), seeds),
    ):
        with pytest.raises(RemoteProtocolError, match="off an integer"):
            decrypt_sum(room.plan, unpack(block, room.plan), chosen, work)


def test_one_frame_posing_as_the_sum() -> None:
    room = Room()
    blocks: dict[int, bytes] = {}
    receive = room.server.receive

    def note(sender: int, message: bytes) -> None:
        if room.server.state.value == "frame":
            blocks[sender] = message[-room.plan.block_bytes :]
        receive(sender, message)

    room.server.receive = note  # type: ignore[method-assign]
    ask = room.ask()
    refused(room, 0, dataclasses.replace(ask, block=blocks[1]), RemoteProtocolError, "not the sum of the signed")
    alone = AskOpener((ask.headers[1],), ask.votes, blocks[1])
    refused(room, 1, alone, RemoteProtocolError, "survivor list that this client signed")
    others = AskOpener(ask.headers[:1] * 5, ask.votes, blocks[0])
    refused(room, 2, others, RemoteProtocolError, "survivor list that this client signed")


def test_a_shift_too_small_for_the_slots_to_show() -> None:
    """Without the tags a server could learn from an opener's refusal on which side of a limit the noise lies."""
    room = Room()
    ask = room.ask()
    residues = unpack(ask.block, room.plan)
    residues[0] = (int(residues[0]) + 1) % room.plan.modulus
    lie = dataclasses.replace(ask, block=pack(residues, room.plan.residue_bytes))
    refused(room, 0, lie, RemoteProtocolError, "not the sum of the signed frames")


def test_tags_hide_behind_pads() -> None:
    """Combinations of frames that would cancel unpadded tags are refused too."""
    room = Room(clients=3)
    blocks: dict[int, Any] = {}
    receive = room.server.receive

    def note(sender: int, message: bytes) -> None:
        if room.server.state.value == "frame":
            blocks[sender] = unpack(message[-room.plan.block_bytes :], room.plan)
        receive(sender, message)

    room.server.receive = note  # type: ignore[method-assign]
    ask = room.ask()
    q = room.plan.modulus
    tags = [int.from_bytes(header.tag[:8], "little") for header in ask.headers]
    forged = unpack(ask.block, room.plan).astype(object)
    forged = (forged + blocks[0].astype(object) * tags[1] - blocks[1].astype(object) * tags[0]) % q
    lie = dataclasses.replace(ask, block=pack(forged.astype(np.uint64), room.plan.residue_bytes))
    refused(room, 0, lie, RemoteProtocolError, "not the sum of the signed frames")


def _votes(room: Room, ask: AskOpener, count: int) -> AskOpener:
    return dataclasses.replace(ask, votes=ask.votes[:count])


@pytest.mark.parametrize(
    ("lie", "error", "match"),
    [
        (lambda room, ask: _votes(room, ask, 2), TooFewSurvivors, "2 clients are left, and 3 are needed"),
        (lambda room, ask: _votes(room, ask, 0), TooFewSurvivors, "0 clients are left"),
        (lambda room, ask: dataclasses.replace(ask, votes=ask.votes[:1] * 3), RemoteProtocolError, "votes repeat"),
        (lambda room, ask: dataclasses.replace(ask, votes=ask.votes[::-1]), RemoteProtocolError, "votes repeat"),
        (
            lambda room, ask: dataclasses.replace(
                ask, votes=tuple(dataclasses.replace(v, signature=ask.votes[0].signature) for v in ask.votes)
            ),
            RemoteProtocolError,
            "does not verify",
        ),
        (lambda room, ask: dataclasses.replace(ask, headers=ask.headers[:-1]), RemoteProtocolError, "survivor list"),
        (lambda room, ask: dataclasses.replace(ask, headers=ask.headers[::-1]), RemoteProtocolError, "survivor list"),
        (lambda room, ask: dataclasses.replace(ask, block=bytes(ask.block)[:-1]), RemoteProtocolError, "block has"),
        (lambda room, ask: dataclasses.replace(ask, block=b"\xff" * len(ask.block)), RemoteProtocolError, "below the"),
    ],
)
def test_requests_to_open_that_do_not_hold_together(
    lie: Callable[[Room, AskOpener], AskOpener], error: type[Exception], match: str
) -> None:
    room = Room()
    ask = room.ask()
    refused(room, 0, lie(room, ask), error, match)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"seeds": bytes(64)}, "does not verify"),
        ({"seeds": bytes(63)}, "bytes of seeds"),
        ({"block": bytes(32)}, "does not verify"),
        ({"tag": bytes(16)}, "does not verify"),
        ({"tag": b"\xff" * 16}, "below the prime"),
        ({"key": bytes(32)}, "another session key"),
        ({"params": bytes(32)}, "other parameters"),
        ({"signature": bytes(64)}, "does not verify"),
    ],
)
def test_a_header_that_its_client_did_not_sign(changes: dict[str, Any], match: str) -> None:
    room = Room()
    ask = room.ask()
    header = dataclasses.replace(ask.headers[3], **changes)
    lie = dataclasses.replace(ask, headers=(*ask.headers[:3], header, ask.headers[4]))
    refused(room, 0, lie, RemoteProtocolError, match)


def test_the_openers_own_frame_and_a_copied_seed() -> None:
    room = Room()
    ask = room.ask()
    own: FrameHeader = dataclasses.replace(ask.headers[0], seeds=bytes(64))
    own = own.sign(room.task.digest(), room.credentials[0].signing)
    refused(room, 0, dataclasses.replace(ask, headers=(own, *ask.headers[1:])), RemoteProtocolError, "own frame")
    copied: FrameHeader = dataclasses.replace(ask.headers[4], seeds=bytes(ask.headers[2].seeds))
    copied = copied.sign(room.task.digest(), room.credentials[4].signing)
    refused(room, 1, dataclasses.replace(ask, headers=(*ask.headers[:4], copied)), RemoteProtocolError, "a seed occurs")


def test_two_openers_with_different_lists() -> None:
    """A server that splits the survivors finds no quorum on either side."""
    room = Room()
    room.until("consent")
    lists = {c: (0, 1, 2, 3) if c in (0, 1) else (0, 2, 3, 4) for c in room.task.clients}
    headers = {c: room.server._headers[c] for c in room.task.clients}
    votes: dict[int, Any] = {}
    for client, survivors in lists.items():
        answer = room.sessions[client].receive(room.bytes(Survivors(survivors)))
        assert answer is not None
        votes[client] = answer[-64:]
    from privfl.he.messages import Vote

    for opener in (0, 2):
        side = [c for c in lists if lists[c] == lists[opener]]
        ask = AskOpener(
            tuple(headers[c] for c in lists[opener]),
            tuple(Vote(c, votes[c]) for c in side),
            bytes(room.plan.block_bytes),
        )
        # with the other side's signatures the quorum is met in number only
        if opener == 0:
            refused(room, opener, ask, TooFewSurvivors, "2 clients are left, and 3 are needed")
        else:
            everybody = tuple(Vote(c, votes[c]) for c in (0, 2, 3))
            refused(room, opener, dataclasses.replace(ask, votes=everybody), RemoteProtocolError, "does not verify")


@pytest.mark.parametrize(
    ("survivors", "error", "match"),
    [
        ((0, 1), TooFewSurvivors, "2 clients are left"),
        ((1, 2, 3, 4), RemoteProtocolError, "lacks this client"),
        ((0, 1, 2, 99), RemoteProtocolError, "names strangers"),
        ((), RemoteProtocolError, "lacks this client"),
    ],
)
def test_survivor_lists_that_no_client_signs(survivors: tuple[int, ...], error: type[Exception], match: str) -> None:
    room = Room()
    room.until("consent")
    refused(room, 0, Survivors(survivors), error, match)


def test_a_second_survivor_list_and_a_second_opening() -> None:
    room = Room()
    messages = room.until("consent")
    room.sessions[0].receive(messages[0])
    refused(room, 0, messages[0], RemoteProtocolError, "unexpected message")
    room = Room()
    ask = room.ask()
    assert room.sessions[0].receive(room.bytes(ask)) is not None
    with pytest.raises(LocalProtocolError, match="has ended"):
        room.sessions[0].receive(room.bytes(ask))


def test_another_tasks_messages_and_another_sender() -> None:
    room, other = Room(), Room(context=b"round 2")
    messages = room.until("consent")
    strange = other.until("consent")
    refused(room, 0, strange[0], RemoteProtocolError, "another sender or task")
    forged = Survivors((0, 1, 2)).to_bytes(sender=1, task=room.task.digest())
    refused(room, 1, forged, RemoteProtocolError, "another sender or task")
    refused(room, 2, b"\x0a\x02\x80\x20", RemoteProtocolError, "shorter than the header")
    refused(room, 3, messages[3] + b"\0", RemoteProtocolError, "announces")


# dealing


def adverts(room: Room) -> tuple[Advert, ...]:
    (message,) = room.until("deal").values()
    _, ask = decode(message, [AskDealer], max_length=1 << 20)
    assert isinstance(ask, AskDealer)
    return ask.adverts


def _stranger(room: Room, known: tuple[Advert, ...]) -> tuple[Advert, ...]:
    stranger = Credentials.generate(9)
    return (*known, Advert.make(9, stranger.box.public, bytes(32), task=room.task.digest(), signing=stranger.signing))


def _substituted(room: Room, known: tuple[Advert, ...]) -> tuple[Advert, ...]:
    """The server puts its own X25519 key in the place of client 3's."""
    return (*known[:3], dataclasses.replace(known[3], public=AgreementKey.generate().public), known[4])


def _low_order(room: Room, known: tuple[Advert, ...]) -> tuple[Advert, ...]:
    own = room.credentials[3].signing
    return (*known[:3], Advert.make(3, bytes(32), bytes(32), task=room.task.digest(), signing=own), known[4])


@pytest.mark.parametrize(
    ("lie", "error", "match"),
    [
        (lambda room, known: known[:2], TooFewSurvivors, "2 clients"),
        (lambda room, known: known[1:], RemoteProtocolError, "lacks this client"),
        (lambda room, known: (known[0], *known), RemoteProtocolError, "repeats"),
        (_stranger, RemoteProtocolError, "strangers"),
        (_substituted, RemoteProtocolError, "does not verify"),
        (_low_order, RemoteProtocolError, "low order"),
    ],
)
def test_a_dealer_deals_to_signed_keys_of_the_cohort_only(lie: Any, error: type[Exception], match: str) -> None:
    room = Room()
    known = adverts(room)
    refused(room, 0, AskDealer(lie(room, known)), error, match)


def _dealt(room: Room) -> Dealt:
    messages = room.until("frame")
    _, dealt = decode(messages[1], [Dealt], max_length=1 << 20)
    assert isinstance(dealt, Dealt)
    return dealt


def test_boxes_that_are_altered_rerouted_or_reflected() -> None:
    room = Room()
    dealt = _dealt(room)
    content = dealt.box[0].content
    flipped = bytes([content[0] ^ 1]) + content[1:]
    refused(room, 1, dataclasses.replace(dealt, box=(Box(1, flipped),)), RemoteProtocolError, "does not open")
    refused(room, 2, dataclasses.replace(dealt, box=(Box(2, content),)), RemoteProtocolError, "does not open")
    refused(room, 3, dataclasses.replace(dealt, box=()), RemoteProtocolError, "without this client's box")
    refused(
        room,
        4,
        dataclasses.replace(dealt, dealer=dataclasses.replace(dealt.dealer, client=4)),
        RemoteProtocolError,
        "cannot be the dealer",
    )
    room = Room()
    dealt = _dealt(room)
    refused(room, 1, dataclasses.replace(dealt, key=bytes(32)), RemoteProtocolError, "does not verify")
    refused(room, 2, dataclasses.replace(dealt, signature=bytes(64)), RemoteProtocolError, "does not verify")
    stranger = dataclasses.replace(dealt.dealer, client=77)
    refused(room, 3, dataclasses.replace(dealt, dealer=stranger), RemoteProtocolError, "cannot be the dealer")
    refused(room, 0, dealt, RemoteProtocolError, "another deal than this client's own")


def test_a_dealer_that_boxes_another_key_than_it_committed_to() -> None:
    room = Room()
    dealt = _dealt(room)
    dealer = room.sessions[0]._held
    assert dealer is not None
    wrong = room.sessions[0]._seal_for(dealer, room.sessions[1]._held.advert, bytes(32), dealt.key)  # type: ignore[union-attr]
    refused(room, 1, dataclasses.replace(dealt, box=(Box(1, wrong),)), RemoteProtocolError, "commitment")


def test_a_key_that_the_client_does_not_hold() -> None:
    room = Room()
    room.until("frame")
    refused(room, 1, UseKey(bytes(32)), RemoteProtocolError, "does not hold")
    refused(room, 2, UseKey(key_id(bytes(32))), RemoteProtocolError, "does not hold")


def test_a_task_below_the_clients_policy() -> None:
    room = Room()
    scheme = CkksSum(room.directory)
    for policy in (SumPolicy(least_survivors=4), SumPolicy(least_cohort=6), SumPolicy(least_threshold=4)):
        with pytest.raises(PlanRejected):
            scheme.client(room.task, 0, room.vectors[0], credentials=room.credentials[0], policy=policy)


@pytest.mark.parametrize("step", ["deal", "frame", "consent", "open"])
def test_four_hundred_mutations_of_each_message_of_the_server(step: str) -> None:
    """Whatever byte is altered, inserted or lost: a typed error, and the message as it was is still answered."""
    room = Room(clients=3, least=2)
    client, message = next(iter(room.until(step).items()))
    session = room.sessions[client]
    kept = {name: getattr(session, name) for name in ("state", "_held", "_vector", "_header", "_survivors")}
    rng = np.random.default_rng(len(step))
    for _ in range(400):
        changed = bytearray(message)
        at = int(rng.integers(len(changed))) if rng.integers(2) else int(rng.integers(min(len(changed), 600)))
        kind = rng.integers(3)
        if kind == 0:
            changed[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            del changed[at : at + int(rng.integers(1, 9))]
        else:
            changed[at:at] = rng.bytes(int(rng.integers(1, 9)))
        with pytest.raises((RemoteProtocolError, TooFewSurvivors)):
            session.receive(bytes(changed))
        assert session.state is ClientState.ABORTED
        for name, value in kept.items():
            setattr(session, name, value)
    assert session.receive(message) is not None


# what the server holds


def test_no_key_and_no_decryptor_is_reachable_from_a_server() -> None:
    room = Room()
    room.until("open")
    from privfl.crypto import SigningKey

    assert reachable(room.sessions[0], KeyedWork, SealCipher, SigningKey), "the search would find them"
    assert not reachable(room.server, KeyedWork, SealCipher, SigningKey, AgreementKey, KeyStore, Credentials)
    secrets = [room.sessions[0]._held.session_key, *(own.signing.secret for own in room.credentials.values())]  # type: ignore[union-attr]
    for thing in reachable(room.server, bytes, memoryview, np.ndarray):
        content = bytes(thing)  # type: ignore[call-overload]
        assert not any(secret in content for secret in secrets if secret)


def test_a_server_holds_one_block_however_many_clients() -> None:
    """Of a frame only header and seeds stay."""

    def held(clients: int) -> int:
        room = Room(clients=clients)
        room.until("consent")
        buffers = {id(thing): thing for thing in reachable(room.server, bytes, memoryview, np.ndarray)}
        return sum(memoryview(thing).nbytes for thing in buffers.values())  # type: ignore[arg-type]

    plan = Room(clients=4).plan
    assert plan.degree * 8 <= held(4) < plan.degree * 8 + 4 * 1024
    assert held(12) - held(4) < 8 * 1024 < plan.block_bytes


def test_the_server_cannot_decrypt_with_what_it_has() -> None:
    """Under any other key the block is uniform noise."""
    room = Room()
    ask = room.ask()
    guess = KeyedWork(room.plan, bytes(32), room.task.digest())
    with pytest.raises(RemoteProtocolError, match="off an integer"):
        decrypt_sum(room.plan, unpack(ask.block, room.plan), [h.seeds for h in ask.headers], guess)


def test_a_server_runs_without_tenseal() -> None:
    code = (
        "import sys; sys.modules['tenseal'] = None\n"
        "from privfl.he import CkksSum\n"
        "from privfl.crypto import generate_identities\n"
        "from privfl.errors import MissingExtra\n"
        "from privfl.ring import Ring\n"
        "from privfl.sums import SumTask\n"
        "from privfl.he.seal import self_test\n"
        "_, directory = generate_identities(range(3))\n"
        "server = CkksSum(directory).server(SumTask(b'', (0, 1, 2), 2, 10, Ring(23), 5))\n"
        "assert server.awaiting == {0, 1, 2}\n"
        "assert not any(name.startswith('_sealapi') for name in sys.modules)\n"
        "try:\n    self_test()\n"
        "except MissingExtra as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'privfl[he]'" in done.stdout
