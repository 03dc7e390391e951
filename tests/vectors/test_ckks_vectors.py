"""protocols/ckks-sum/vectors, made by a reference that knows neither privfl nor SEAL, replayed byte by byte."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import references

from privfl import errors
from privfl.crypto import AgreementKey, Credentials, MemoryDirectory, SigningKey
from privfl.he import CkksSum, plan_ckks
from privfl.he.authenticator import Tagger
from privfl.he.client import CkksClient
from privfl.he.keys import KeyedEntropy, key_id, secret_polynomial
from privfl.he.messages import AskOpener, Frame, digest
from privfl.he.packing import unpack
from privfl.he.seal import SealCipher, _parameters
from privfl.he.server import CkksServer
from privfl.ring import Ring
from privfl.sums import SumTask
from privfl.wire import HEADER_BYTES, decode

HOME = Path(__file__).parents[2] / "protocols" / "ckks-sum"
SUMS = ["three-clients", "dropouts", "held-key"]
FAILURES = sorted(path.stem for path in (HOME / "vectors").glob("fail-*.json"))
ANSWERS = {
    "AskDealer": "Deal",
    "Dealt": "Frame",
    "UseKey": "Frame",
    "Survivors": "Consent",
    "AskOpener": "Opened",
}


def load(name: str) -> Any:
    return json.loads((HOME / "vectors" / f"{name}.json").read_text())


class Recorded:
    """A source of random bytes that gives what the vector lists."""

    def __init__(self, content: str) -> None:
        self.left = bytes.fromhex(content)

    def __call__(self, count: int) -> bytes:
        part, self.left = self.left[:count], self.left[count:]
        assert len(part) == count
        return part


class Replay:
    """The parties of one vector; encryption, which is random, gives the recorded residues and seeds."""

    def __init__(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.told = load(name)
        task = self.told["task"]
        self.task = SumTask(
            bytes.fromhex(task["context"]),
            tuple(range(task["clients"])),
            task["min_survivors"],
            task["length"],
            Ring(task["bits"]),
            task["bound"],
        )
        people = {int(c): own for c, own in self.told["parties"].items()}
        signing = {c: SigningKey(bytes.fromhex(own["signing"])) for c, own in people.items()}
        self.scheme = CkksSum(MemoryDirectory({c: key.public for c, key in signing.items()}), min_vectors=1)
        self.plan = self.scheme.terms(self.task).plan
        self.server: CkksServer = self.scheme.server(self.task)
        self.clients: dict[int, CkksClient] = {}
        for c, own in people.items():
            held = own["session_key"]
            mine = Credentials(c, signing[c], AgreementKey(bytes(32)), bytes.fromhex(held) if held else None)
            self.clients[c] = self.scheme.client(
                self.task, c, np.array(own["vector"]), credentials=mine, entropy=Recorded(own["entropy"])
            )
        frames: list[tuple[Any, bytes, list[int]]] = []
        for step in self.told["script"]:
            if step.get("kind") == "Frame":
                _, frame = decode(base64.b64decode(step["message"]), [Frame], max_length=1 << 30)
                assert isinstance(frame, Frame)
                vector = people[step["from"]]["vector"]
                frames.append((unpack(frame.block, self.plan), bytes(frame.header.seeds), vector))

        def encrypt(cipher: SealCipher, values: Any) -> Iterator[tuple[Any, bytes]]:
            block, seeds = next((block, seeds) for block, seeds, vector in frames if vector == values.tolist())
            for chunk, row in enumerate(block.reshape(self.plan.chunks, 1, self.plan.degree)):
                yield row, seeds[64 * chunk : 64 * (chunk + 1)]

        monkeypatch.setattr(SealCipher, "encrypt_parts", encrypt)

    def steps(self) -> Iterator[Any]:
        """Replay the script, yielding each step before it is taken."""
        answers = {c: client.start() for c, client in self.clients.items()}
        said = {(step.get("from"), step.get("kind")) for step in self.told["script"]}
        for step in self.told["script"]:
            yield step
            if "advance" in step:
                messages = self.server.advance()
                assert messages == {int(c): base64.b64decode(m) for c, m in step["messages"].items()}
                for client, message in messages.items():
                    if (client, ANSWERS[step["advance"]]) in said:
                        answer = self.clients[client].receive(message)
                        assert answer is not None
                        answers[client] = answer
            else:
                message = base64.b64decode(step["message"])
                assert answers.pop(step["from"]) == message
                self.server.receive(step["from"], message)


@pytest.mark.parametrize("name", SUMS)
def test_both_parties_say_what_the_reference_says(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    replay = Replay(name, monkeypatch)
    plan = replay.told["plan"]
    assert replay.plan.identifier.hex() == plan["identifier"]
    assert replay.plan.degree == plan["degree"]
    assert replay.plan.modulus == plan["prime"]
    assert replay.plan.scale_bits == plan["scale_bits"]
    taken = [step.get("kind") or step["advance"] for step in replay.steps()]
    assert taken[-1] == "Opened"
    result, told = replay.server.result, replay.told["result"]
    assert result is not None
    assert result.total.tolist() == told["total"]
    assert sorted(result.survivors) == told["survivors"]
    assert result.transcript.hex() == told["transcript"]


@pytest.mark.parametrize("name", FAILURES)
def test_one_failure_a_file(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    failure = load(name)
    replay = Replay(failure["base"], monkeypatch)
    message = base64.b64decode(failure["message"])
    error = getattr(errors, failure["error"])
    for step in replay.steps():
        if failure["party"] == "server":
            if step.get("kind") == failure["before"] and step["from"] == failure["sender"]:
                with pytest.raises(error) as raised:
                    replay.server.receive(failure["sender"], message)
                unusable = isinstance(raised.value, errors.WireError)
                assert getattr(raised.value, "sender", None) == (None if unusable else failure["sender"])
                assert (failure["sender"] in replay.server.blamed) != unusable
                assert (failure["sender"] in replay.server.awaiting) == unusable
                return
        elif step.get("advance") == failure["before"]:
            replay.server.advance()
            with pytest.raises(error):
                replay.clients[failure["party"]].receive(message)
            return
    pytest.fail("the vector names a step that does not occur")


def test_the_failures_are_what_they_say() -> None:
    assert len(FAILURES) >= 21
    ask = base64.b64decode(load("fail-opener-scaled-sum")["message"])
    request = AskOpener.from_body(memoryview(ask)[HEADER_BYTES:])
    assert len(request.headers) == len(request.votes) == 3


def test_primitives() -> None:
    told = load("primitives")
    key, task, plan = bytes.fromhex(told["session_key"]), bytes.fromhex(told["task"]), plan_ckks(5, 3, Ring(23))
    assert key_id(key).hex() == told["key_id"]
    secret = secret_polynomial(key, plan)
    assert secret[:64].tolist() == told["secret"]
    assert digest(secret.astype(np.uint8).tobytes()).hex() == told["secret_digest"]
    parts = _parameters(plan.degree, plan.modulus, 128)
    assert digest(parts.transform(secret).tobytes()).hex() == told["transformed_digest"]
    seed = bytes.fromhex(told["seed"])
    cipher = parts.expand([seed])
    half = np.array([cipher[i] for i in range(plan.degree, 2 * plan.degree)], np.uint64)
    assert half[:8].tolist() == told["expanded"]
    assert digest(half.tobytes()).hex() == told["expanded_digest"]
    block = np.array([i**3 % plan.modulus for i in range(plan.degree)], np.uint64)
    tagger = Tagger(plan, key, task)
    assert tagger.sign(tagger.block(block), 7).hex() == told["tag_of_client_7"]
    assert KeyedEntropy(key, task)(64).hex() == told["opening_entropy"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_vectors_are_what_the_reference_writes_today() -> None:
    for name, content in references.load("ckks-sum", "reference").everything().items():
        assert load(name) == content, name
