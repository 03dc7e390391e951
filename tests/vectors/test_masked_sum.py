"""privfl's masked sum against protocols/masked-sum: the same bytes at every step, and the same refusals."""

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import references

from privfl.crypto import MemoryDirectory, SigningKey, VerifyKey
from privfl.dp.mesh import MeshNoise
from privfl.errors import LocalProtocolError, PrivflError, RemoteProtocolError, TooFewSurvivors, WireError
from privfl.ring import Ring
from privfl.secagg.client import MaskedClient
from privfl.secagg.machine import client_table, server_table
from privfl.secagg.messages import MESSAGES
from privfl.secagg.server import MaskedServer
from privfl.secagg.terms import Terms
from privfl.sums import SumTask
from privfl.sums.base import Dispute, identity

FOLDER = Path(__file__).parents[2] / "protocols" / "masked-sum"
ERRORS: dict[str, type[PrivflError]] = {
    "RemoteProtocolError": RemoteProtocolError,
    "TooFewSurvivors": TooFewSurvivors,
    "WireError": WireError,
}
VECTORS = {file.stem: json.loads(file.read_text()) for file in sorted((FOLDER / "vectors").glob("*.json"))}
TRANSCRIPTS = [name for name, told in VECTORS.items() if told["kind"] == "transcript"]
REFUSALS = [name for name, told in VECTORS.items() if told["kind"] == "refusal"]


class Recorded:
    """Entropy that was drawn before; whoever draws more, or in other pieces, gets other bytes and then none."""

    def __init__(self, data: str) -> None:
        self.left = bytes.fromhex(data)

    def __call__(self, size: int) -> bytes:
        part, self.left = self.left[:size], self.left[size:]
        assert len(part) == size
        return part


def terms(told: dict[str, Any]) -> Terms:
    p = told["parameters"]
    ring, clients = Ring(p["bits"]), tuple(p["clients"])
    task = SumTask(
        bytes.fromhex(p["context"]), clients, p["min_survivors"], p["length"], ring, p["bound"], noise=noise_of(p)
    )
    return Terms(
        task, p["signed"], p["packed"], p["degree"], p["threshold"], p["arc"], p["min_roster"], p["min_vectors"]
    )


def noise_of(parameters: dict[str, Any]) -> MeshNoise | None:
    if "noise" not in parameters:
        return None
    values = dict(parameters["noise"])
    reach = values.pop("reach")
    noise = MeshNoise(**values)
    assert noise.reach == reach
    return noise


def directory(told: dict[str, Any]) -> MemoryDirectory | None:
    keys = {int(client): VerifyKey(bytes.fromhex(key)) for client, key in told["directory"].items()}
    return MemoryDirectory(keys) if told["parameters"]["signed"] else None


def client(told: dict[str, Any], me: int, party: dict[str, Any]) -> MaskedClient:
    return MaskedClient(
        terms(told),
        me,
        np.array(party["vector"], np.int64),
        signing=SigningKey(bytes.fromhex(party["signing_seed"])) if told["parameters"]["signed"] else None,
        directory=directory(told),
        tasks=None,
        entropy=Recorded(party["entropy"]),
        threads=1,
    )


def server(told: dict[str, Any]) -> MaskedServer:
    return MaskedServer(terms(told), directory=directory(told), opening=identity, threads=1)


def hexed(messages: Any) -> dict[str, str]:
    return {str(client): bytes(message).hex() for client, message in messages.items()}


def listed(disputes: tuple[Dispute, ...]) -> list[list[Any]]:
    return [[dispute.dealer, dispute.holder, dispute.kind] for dispute in disputes]


@pytest.mark.parametrize("name", VECTORS)
def test_the_session_is_the_digest_of_the_terms(name: str) -> None:
    assert terms(VECTORS[name]).digest().hex() == VECTORS[name]["session"]


@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_the_server_sends_and_opens_what_the_reference_does(name: str) -> None:
    told = VECTORS[name]
    session = server(told)
    for number, step in enumerate(told["steps"], start=1):
        assert session.state.step == step["name"]
        for sender, message in step["up"].items():
            if int(sender) in step["unusable"]:
                before = session.to_bytes()
                with pytest.raises(WireError):
                    session.receive(int(sender), bytes.fromhex(message))
                assert session.to_bytes() == before
            elif int(sender) in step["refused"]:
                with pytest.raises(RemoteProtocolError) as caught:
                    session.receive(int(sender), bytes.fromhex(message))
                assert caught.value.sender == int(sender)
                assert int(sender) in session.state.blamed
            else:
                session.receive(int(sender), bytes.fromhex(message))
        if "error" in told and number == len(told["steps"]):
            if not session.ready and session.awaiting:
                before = session.to_bytes()
                with pytest.raises(LocalProtocolError, match="too early"):
                    session.advance()
                assert session.to_bytes() == before
                for silent in session.awaiting:
                    session.drop(silent)
            with pytest.raises(ERRORS[told["error"]]) as failure:
                session.advance()
            assert session.result is None
            if isinstance(failure.value, RemoteProtocolError):
                assert failure.value.sender == told["sender"]
                assert set(session.blamed) == set(told["blamed"])
                assert listed(session.undecided) == told["undecided"]
            with pytest.raises(LocalProtocolError):
                session.advance()
            return
        assert hexed(session.advance()) == step["down"]
    assert session.result is not None
    expected = told["result"]
    assert session.result.total.tolist() == expected["total"]
    assert session.result.survivors == set(expected["survivors"])
    assert session.result.transcript.hex() == expected["transcript"]
    assert set(session.result.blamed) == set(expected["blamed"])
    assert listed(session.result.undecided) == expected["undecided"]
    added = ["vector", "noise"] if "noise" in told["parameters"] else ["vector"]
    vectors = [told["clients"][str(client)][name] for client in expected["survivors"] for name in added]
    assert expected["total"] == [sum(entries) for entries in zip(*vectors, strict=True)]


@pytest.mark.parametrize("name", [name for name in TRANSCRIPTS if not name.startswith("blame-")])
def test_every_client_sends_what_the_reference_does(name: str) -> None:
    told = VECTORS[name]
    sessions = {me: client(told, int(me), party) for me, party in told["clients"].items()}
    mail: dict[str, str | None] = dict.fromkeys(sessions)
    answered = 0
    for step in told["steps"]:
        for me, message in step["up"].items():
            received = mail[me]
            sent = sessions[me].start() if received is None else sessions[me].receive(bytes.fromhex(received))
            assert sent is not None
            assert sent.hex() == message
            answered += 1
        mail = step["down"]
    assert answered >= 4 * told["parameters"]["min_survivors"]
    for me in told["steps"][-1]["up"]:
        assert sessions[me].state == "done"
        assert not sessions[me]._entropy.left  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", REFUSALS)
def test_a_client_refuses_what_the_reference_refuses(name: str) -> None:
    told = VECTORS[name]
    session = client(told, told["receiver"], told["client"])
    assert session.start().hex() == told["outbox"][0]
    *good, bad = told["inbox"]
    for message, answer in zip(good, told["outbox"][1:], strict=True):
        sent = session.receive(bytes.fromhex(message))
        assert sent is not None
        assert sent.hex() == answer
    state = session.state
    with pytest.raises(ERRORS[told["error"]]) as caught:
        session.receive(bytes.fromhex(bad))
    assert type(caught.value).__name__ == told["error"]
    if told["error"] == "WireError":  # nothing has changed, and what is due is answered as if nothing had been
        assert session.state == state
        answer = session.receive(bytes.fromhex(told["due"]))
        assert answer is not None
        assert answer.hex() == told["answer"]
        return
    assert session.state == "aborted"
    with pytest.raises(LocalProtocolError):
        session.receive(bytes.fromhex(bad))


def test_repeated_and_late_messages_get_what_the_reference_gives() -> None:
    told = VECTORS["repeats"]
    session = client(told, told["receiver"], told["client"])
    assert session.start().hex() == told["start"]
    for delivery in told["deliveries"]:
        message, state = bytes.fromhex(delivery["message"]), session.state
        if "error" in delivery:
            with pytest.raises(ERRORS[delivery["error"]], match="two different messages"):
                session.receive(message)
            assert session.state == state
            continue
        answer = session.receive(message)
        assert (answer.hex() if answer is not None else None) == delivery["answer"]
    assert session.state == "done"


def test_the_vectors_cover_what_they_are_there_for() -> None:
    parameters = [VECTORS[name]["parameters"] for name in TRANSCRIPTS]
    assert {p["degree"] > 0 for p in parameters} == {True, False}
    assert {p["signed"] for p in parameters} == {True, False}
    assert {p["packed"] for p in parameters} == {True, False}
    assert {p["bits"] for p in parameters} >= {16, 20, 32, 33, 64}
    refused = {step["name"] for name in TRANSCRIPTS for step in VECTORS[name]["steps"] if step["refused"]}
    assert refused == {"AdvertiseKeys", "ShareKeys", "MaskedInput", "ConsistencyCheck", "Unmask"}
    assert {len(VECTORS[name]["inbox"]) for name in REFUSALS} == {1, 2, 3, 4}


def rows(after: str) -> list[list[str]]:
    """The cells of the first table behind a line of SPEC.md, without its head."""
    lines = (FOLDER / "SPEC.md").read_text().split(after, 1)[1].splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("|"))
    table = itertools.takewhile(lambda line: line.startswith("|"), lines[start:])
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table][2:]


def test_the_tables_of_the_page_are_those_of_the_code() -> None:
    names = {message.KIND: message.__name__ for message in MESSAGES}
    assert {int(row[0], 16): row[1] for row in rows("## 4. Messages")} == names
    for heading, table, semi_honest in (
        ("## 10. State table", client_table(signed=True), client_table(signed=False)),
        ("Server, signed;", server_table(signed=True), server_table(signed=False)),
    ):
        told = {row[0]: row for row in rows(heading)}
        assert list(told) == [row.state for row in table]
        bare_of = {row.state: row for row in semi_honest}
        for row in table:
            state = row.state
            cells = [getattr(cell, "__name__", cell or "-") for cell in dataclasses.astuple(row)]
            assert [cell.split(" (")[0] for cell in told[state]] == cells
            for bare in (cell.split("(semi-honest: ")[1].rstrip(")") for cell in told[state] if "(" in cell):
                assert bare in [getattr(c, "__name__", c) for c in dataclasses.astuple(bare_of[state])]
    assert len((FOLDER / "SPEC.md").read_text().splitlines()) <= 600


def test_the_reference_writes_these_files() -> None:
    written = references.load("masked-sum", "scenarios").files()
    assert written == {file.name: file.read_text() for file in (FOLDER / "vectors").iterdir()}
