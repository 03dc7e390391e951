"""A server and real sites in one process, with losses, repeats, delays, and restarts of both sides at random."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from federations import Sites, check_ledgers, small

from privfl.crypto.members import Members
from privfl.errors import StateError
from privfl.fl.client import client_rng
from privfl.fl.exchange import LocalTransport
from privfl.fl.frames import REFUSAL
from privfl.fl.linear import LinearModel, LinearTrain
from privfl.wire import ClientId

SITES = 5
EXACT: dict[str, object] = {"rounds": 1000}
NOISY = EXACT | {"privacy.placement": "distributed", "privacy.clip_norm": 1.0, "privacy.noise_multiplier": 2.0}

STEPS: dict[str, object] = NOISY | {
    "privacy.unit": "example",
    "privacy.sampling_probability": 0.25,
    "privacy.denominator": 50.0,
    "privacy.delta": 1e-5,
}
ROWS = np.random.default_rng(5).normal(size=(40, 5)), np.arange(40) % 2.0
OVER_EXAMPLES = LinearTrain(LinearModel("logistic", 5), lambda client: ROWS)


class Killed(Exception):
    """The server's process died."""


@dataclass
class Trouble:
    """A transport that loses, repeats and delays, and restarts sites or kills the server, all from one seed."""

    sites: Sites
    draws: random.Random
    calm: bool = False
    late: list[tuple[ClientId, bytes]] = field(default_factory=list)

    def exchange(self, frames: Mapping[ClientId, bytes], model: bytes) -> Iterable[tuple[ClientId, bytes]]:
        late, self.late = self.late, []
        yield from late
        for client, frame in frames.items():
            yield from self._one(client, frame, model)
        if self._happens(0.03):
            raise Killed

    def _happens(self, probability: float) -> bool:
        return not self.calm and self.draws.random() < probability

    def _one(self, client: ClientId, frame: bytes, model: bytes) -> Iterator[tuple[ClientId, bytes]]:
        if self._happens(0.05):
            return  # the frame is lost
        if self._happens(0.1):
            self.sites.restart(client)
        answer = self.sites.site(client).answer(frame, model)
        if self._happens(0.1):
            self.sites.restart(client)
        if self._happens(0.1):
            again = self.sites.site(client).answer(frame, model)
            assert again in (answer, REFUSAL)
        if self._happens(0.02):
            raise Killed
        if self._happens(0.04):
            self.late.append((client, answer))  # it comes in another step
            return
        yield client, answer
        if self._happens(0.1):
            yield client, answer


def expected(model: np.ndarray, clients: Iterable[ClientId], round: int) -> np.ndarray:
    updates = [small(model, client, round, client_rng(0, round, client)) for client in clients]
    return model + np.average([u.delta for u in updates], axis=0, weights=[u.examples for u in updates])


def soak(folder: Path, settings: Mapping[str, object], rounds: int, seed: int) -> tuple[Sites, dict[str, int]]:
    """Run rounds in trouble; check each, and return how often what happened."""
    sites, draws = Sites.make(folder, settings), random.Random(seed)
    if settings is STEPS:
        sites.train = OVER_EXAMPLES
    sites.approve()
    counts = {"trained": 0, "skipped": 0, "killed": 0, "dropouts": 0}
    trouble = Trouble(sites, draws)
    while True:
        with sites.server() as server:
            try:
                while server.round < rounds:
                    before, round = server.model, server.round + 1
                    report = server.train_round(trouble)
                    counts[report.status] += 1
                    counts["dropouts"] += len(report.dropouts)
                    if report.status == "skipped":
                        np.testing.assert_array_equal(server.model, before)
                    elif settings is EXACT:
                        survivors = set(server.clients) - set(report.dropouts)
                        np.testing.assert_allclose(server.model, expected(before, survivors, round), atol=1e-6)
                trouble.calm, trouble.late = True, []
                last = server.train_round(trouble)
                assert (last.status, last.survivors) == ("trained", SITES)  # nobody is locked out
                break
            except Killed:
                counts["killed"] += 1
    sites.close()
    return sites, counts


def check(counts: Mapping[str, int], rounds: int) -> None:
    assert counts["trained"] + counts["skipped"] == rounds
    assert all(counts[what] > 0 for what in ("trained", "dropouts", "killed"))


@pytest.fixture
def quick() -> Iterator[Path]:
    """A folder in memory where there is one: these tests sync thousands of files."""
    memory = Path("/dev/shm")  # noqa: S108 - a private folder is made in it
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


def test_rounds_in_trouble_give_the_sum_of_the_survivors_or_nothing(quick: Path) -> None:
    check(soak(quick, EXACT, 12, seed=3)[1], 12)


def test_a_key_that_expires_during_a_run_stops_it_by_name(quick: Path) -> None:
    sites = Sites.make(quick, EXACT, days={2: 1})
    sites.approve()
    transport = LocalTransport({client: sites.site(client) for client in sites.homes})
    name = f"the key of client {sites.members.names['site-2']} has expired"
    with sites.server() as server:
        assert server.train_round(transport).survivors == SITES
        sites.now = 100_000.0
        with pytest.raises(StateError, match=name):
            server.train_round(transport)
        assert server.round == 1
    with pytest.raises(StateError, match=name), sites.server():
        pass
    sites.close()


def test_sites_refuse_what_their_own_budget_does_not_pay(quick: Path) -> None:
    """The server has no budget, and its rounds are skipped once the sites have spent theirs."""
    sites = Sites.make(quick, NOISY, epsilon=8.0)
    sites.approve()
    transport = LocalTransport({client: sites.site(client) for client in sites.homes})
    with sites.server() as server:
        statuses = [server.train_round(transport).status for _ in range(6)]
    paid = statuses.count("trained")
    assert 1 <= paid < 6
    assert statuses == ["trained"] * paid + ["skipped"] * (6 - paid)
    assert all(sites.site(client).spent() <= 8.0 for client in sites.homes)
    sites.close()


def test_a_directory_that_has_expired_or_lacks_signatures_starts_nothing(quick: Path) -> None:
    sites = Sites.make(quick, EXACT)
    with pytest.raises(StateError, match="expired"), sites.server(clock=lambda: 2.0**36):
        pass
    sites.members = Members(sites.members.cards.values(), issued=0, expires=1 << 35, quorum=2)
    with pytest.raises(StateError, match="0 of 2 signatures"), sites.server():
        pass


def test_a_charter_of_another_directory_is_not_heard_by_any_site(quick: Path) -> None:
    sites = Sites.make(quick, EXACT)
    sites.approve()
    other = Members(sites.members.cards.values(), issued=0, expires=1 << 34, quorum=1)
    sites.members = other.signed(next(iter(sites.homes.values())).credentials().signing)
    transport = LocalTransport({client: sites.site(client) for client in sites.homes})
    with pytest.raises(StateError, match="other"), sites.server():
        pass  # the run was started with the directory that sites approved
    sites.run = "another"
    with sites.server() as server:
        assert server.train_round(transport).status == "skipped"
    sites.close()


def test_ledgers_of_server_and_sites_agree_in_trouble(quick: Path) -> None:
    agree(quick, 10, seed=1)


def test_ledgers_of_examples_agree_in_trouble(quick: Path) -> None:
    agree(quick, 6, seed=4, settings=STEPS)


def agree(folder: Path, rounds: int, seed: int, settings: Mapping[str, object] = NOISY) -> None:
    sites, counts = soak(folder, settings, rounds, seed)
    check(counts, rounds)
    check_ledgers(folder, sites)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_200_rounds_in_trouble(quick: Path, seed: int) -> None:
    check(soak(quick, EXACT, 200, seed)[1], 200)


@pytest.mark.slow
def test_ledgers_agree_after_200_rounds_in_trouble(quick: Path) -> None:
    agree(quick, 200, seed=11)


@pytest.mark.slow
def test_ledgers_of_examples_agree_after_60_rounds_in_trouble(quick: Path) -> None:
    agree(quick, 60, seed=2, settings=STEPS)
