"""A site between two messages of an app: its memory is used while nobody else held or changed the folder."""

import multiprocessing
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sites import NOW, Clock, Federation, a_federation, log_of, set_policy, train

from privfl.errors import StateError
from privfl.fl.frames import REFUSAL
from privfl.site import Site, SiteHome
from privfl.site import memory as memories
from privfl.site.memory import MAX_KEPT, forget, take
from privfl.wire import ClientId


@pytest.fixture(autouse=True)
def _start_without_memory() -> Iterator[None]:
    forget()
    yield
    forget()


@pytest.fixture
def trial(tmp_path: Path) -> Federation:
    return a_federation(tmp_path)


def answer(trial: Federation, client: ClientId, frame: bytes, model: bytes) -> bytes:
    """The answer of a site that is opened for one message."""
    site = trial.site(client)
    try:
        return site.answer(frame, model)
    finally:
        site.leave()


def elsewhere(trial: Federation, client: ClientId, frame: bytes, model: bytes) -> bytes:
    """The answer of another process, which has no memory of this one."""
    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe(duplex=False)

    def work() -> None:
        theirs.send_bytes(b"remembers" if take(trial.homes[client].folder) else answer(trial, client, frame, model))

    child = fork.Process(target=work)
    child.start()
    child.join()
    assert ours.poll(), "the other process failed"
    return bytes(ours.recv_bytes())


def test_a_site_goes_on_from_memory(trial: Federation) -> None:
    seen: dict[ClientId, set[int]] = {client: set() for client in trial.homes}
    kept = []

    def one(client: ClientId) -> Callable[[bytes, bytes], bytes]:
        def of(frame: bytes, model: bytes) -> bytes:
            site = trial.site(client)
            kept.append(site._memory)
            seen[client].add(id(site._memory))
            try:
                return site.answer(frame, model)
            finally:
                site.leave()

        return of

    for round in (1, 2):
        assert trial.round({client: one(client) for client in trial.homes}, round).outcome.survivors == set(trial.homes)
    assert [len(found) for found in seen.values()] == [1] * len(trial.homes)


@pytest.mark.parametrize("seed", range(2))
def test_messages_go_to_this_process_and_to_others_in_any_order(trial: Federation, seed: int) -> None:
    """As in Flower's simulation, where each message of a node may reach another process."""
    draws = random.Random(seed)

    def any_way(client: ClientId, frame: bytes, model: bytes) -> bytes:
        if draws.random() < 0.2:
            forget()
        ways = [draws.choice((answer, elsewhere)) for _ in range(draws.choice((1, 1, 2)))]
        answers = {way(trial, client, frame, model) for way in ways}
        assert len(answers) == 1
        return answers.pop()

    answers = {client: (lambda f, m, client=client: any_way(client, f, m)) for client in trial.homes}
    for round in (1, 2):
        assert trial.round(answers, round).outcome.survivors == set(trial.homes)
    for client, home in trial.homes.items():
        with trial.site(client) as site:
            assert [receipt.kind for receipt in site._memory.chain.receipts] == ["entered", "ended"] * 2
            assert [len(ledger.releases) for ledger in site._memory.account.ledgers] == [2]
        assert log_of(home).count('"answered"') == 2 * 5


def test_a_step_that_another_process_answered_is_not_answered_from_memory(trial: Federation) -> None:
    client = min(trial.homes)
    frame, model = trial.first(client)
    first = answer(trial, client, frame, model)
    plan = trial.plan(2)
    other = trial.first(client, plan)
    assert elsewhere(trial, client, *other) not in (REFUSAL, b"remembers")
    assert answer(trial, client, frame, model) == REFUSAL  # a round that is over
    assert first != REFUSAL
    assert "past its first step" in log_of(trial.homes[client])


def edited(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\n# edited\n")


def copied(path: Path) -> None:
    shutil.copy2(path, path.with_suffix(".copy"))
    path.with_suffix(".copy").replace(path)


@pytest.mark.parametrize(
    ("pattern", "change"),
    [
        ("policy.toml", edited),
        ("policy.toml", copied),
        ("keys.json", copied),
        ("*.pub", copied),
        ("place.json", copied),
        ("receipts.jsonl", copied),
        ("ledgers/*", copied),
        ("rounds/*", copied),
        ("rounds/*", Path.unlink),
    ],
)
def test_a_folder_that_was_changed_is_read_again(trial: Federation, pattern: str, change: Callable) -> None:
    client = min(trial.homes)
    site = trial.site(client)
    assert site.answer(*trial.first(client)) != REFUSAL
    site.leave()
    with trial.site(client) as same:
        assert same._memory is site._memory
        same.leave()
    (path,) = trial.homes[client].folder.glob(pattern)
    change(path)
    with trial.site(client) as again:
        assert again._memory is not site._memory


def test_a_policy_that_is_edited_between_two_messages_counts_at_once(trial: Federation) -> None:
    client = min(trial.homes)
    answer(trial, client, b"", b"")
    policy = trial.homes[client] / "policy.toml"
    policy.write_text(policy.read_text().replace("[demands]", "[demands]\nmax_clip_norm = 0.5"))
    assert answer(trial, client, *trial.first(client)) == REFUSAL
    assert "max_clip_norm" in log_of(trial.homes[client]) or "clip" in log_of(trial.homes[client])


def test_a_site_that_stays_open_enters_no_round_under_an_older_policy(trial: Federation) -> None:
    client = min(trial.homes)
    policy = trial.homes[client] / "policy.toml"
    with trial.site(client) as site:
        asked = trial.first(client)
        first = site.answer(*asked)
        assert first != REFUSAL
        edited(policy)  # in a comment
        assert site.answer(*trial.first(client, trial.plan(2))) != REFUSAL
        asked = trial.first(client, trial.plan(3))
        first = site.answer(*asked)
        set_policy(trial.homes[client], {"min_colluders": "1"})
        assert site.answer(*asked) == first  # what was entered before goes on
        assert site.answer(*trial.first(client, trial.plan(4))) == REFUSAL
        assert "policy.toml was edited after this site was opened" in log_of(trial.homes[client])
    with trial.site(client) as again:
        assert again.answer(*trial.first(client, trial.plan(4))) == REFUSAL
        assert "min_colluders" in log_of(trial.homes[client]) or "collud" in log_of(trial.homes[client])


def test_a_folder_that_somebody_holds_is_refused_as_without_memory(trial: Federation) -> None:
    client = min(trial.homes)
    frame, model = trial.first(client)
    first = answer(trial, client, frame, model)
    with trial.homes[client].writing(), pytest.raises(StateError, match="another process is writing"):
        trial.site(client)
    assert answer(trial, client, frame, model) == first


def test_memory_does_not_open_keys_without_their_passphrase(tmp_path: Path) -> None:
    home = SiteHome.make(tmp_path / "site", "north", now=NOW, passphrase="right").folder
    Site(home, train, passphrase="right", clock=Clock()).leave()
    for wrong in ("wrong", None):
        with pytest.raises(StateError):
            Site(home, train, passphrase=wrong, clock=Clock())
        Site(home, train, passphrase="right", clock=Clock()).leave()


def test_nothing_is_kept_after_a_failure_or_from_a_closed_site(trial: Federation) -> None:
    client, rounds = min(trial.homes), trial.homes[min(trial.homes)] / "rounds"
    frame, model = trial.first(client)
    rounds.write_text("")  # a file where a folder belongs: the record cannot be written
    assert answer(trial, client, frame, model) == REFUSAL
    assert take(trial.homes[client].folder) is None
    rounds.unlink()
    site = trial.site(client)
    assert site.answer(frame, model) != REFUSAL
    site.close()
    site.leave()
    assert take(trial.homes[client].folder) is None
    assert site.answer(frame, model) == REFUSAL  # nor does a site answer that holds no lock
    assert "was closed" in log_of(trial.homes[client])


def test_only_the_latest_memories_are_kept(tmp_path: Path) -> None:
    homes = [SiteHome.make(tmp_path / f"s{n}", f"s{n}", now=NOW).folder for n in range(MAX_KEPT + 1)]
    for home in homes:
        Site(home, train, clock=Clock()).leave()
    assert [home in memories._kept for home in homes] == [False] + [True] * MAX_KEPT
