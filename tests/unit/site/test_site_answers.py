"""A site over whole rounds: answers, repeats, refusals, restarts between and within steps."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sites import DELTA, Federation, a_federation, log_of, set_policy, train

from privfl.crypto import SigningKey
from privfl.dp import Mechanism
from privfl.errors import StateError, TooFewSurvivors
from privfl.fl.frames import REFUSAL, model_to_bytes, seal_down
from privfl.fl.receipts import Receipt
from privfl.site import Site
from privfl.site.record import RoundRecord

UNLIMITED = 'placements = ["none"]\nschemes = ["masked", "plain"]\nunlimited = true'


@pytest.fixture
def trial(tmp_path: Path) -> Federation:
    return a_federation(tmp_path)


@pytest.fixture
def first_site(trial: Federation) -> Iterator[Site]:
    with trial.site(min(trial.homes)) as site:
        yield site


@pytest.mark.parametrize("scheme", ["masked", "plain"])
def test_rounds_without_noise_give_the_mean_of_all_sites(tmp_path: Path, scheme: str) -> None:
    trial = a_federation(tmp_path, scheme=scheme, mechanism=Mechanism("none"), policy=UNLIMITED)
    sites = trial.sites()
    for round in (1, 2):
        server = trial.round({client: site.answer for client, site in sites.items()}, round)
        assert server.outcome.survivors == set(sites)
    np.testing.assert_allclose(trial.model, 2 * DELTA, atol=1e-2)
    assert [r.kind for r in trial.receipts.values()] == ["ended"] * 3
    assert {r.number for r in trial.receipts.values()} == {4}  # entered and ended, twice


def test_a_private_round_charges_every_site_its_worst_case(trial: Federation) -> None:
    sites = trial.sites()
    trial.round({client: site.answer for client, site in sites.items()})
    entered = [receipt for receipt in trial.all_receipts if receipt.kind == "entered"]
    worst = trial.plan().worst_case(trial.scheme)
    assert len(entered) == len(sites)
    for receipt in entered:
        site = sites[receipt.client]
        assert receipt.release == replace(worst, participants=(site.client,)).record()
        assert [ledger.releases for ledger in site._memory.account.ledgers] == [(worst,)]
        assert receipt.spent == site.spent() > 0
    assert np.any(trial.model != 0)


def test_the_same_bytes_get_the_same_answer_and_other_bytes_are_refused(trial: Federation, first_site: Site) -> None:
    frame, model = trial.first(first_site.client)
    answer = first_site.answer(frame, model)
    assert answer != REFUSAL
    assert first_site.answer(frame, model) == answer
    plan = trial.plan()
    other = trial.down(first_site.client, plan, 0, trial.invitation(plan), expires=int(trial.clock.now) + 900)
    assert first_site.answer(other, model) == REFUSAL
    assert "other bytes for a step that is answered" in log_of(trial.homes[first_site.client])
    first_site.close()
    with trial.site(first_site.client) as again:  # and after a restart, without training again
        again._halves._train = None  # type: ignore[assignment]
        assert again.answer(frame, model) == answer


def test_first_answers_leave_at_a_fixed_time(trial: Federation, first_site: Site) -> None:
    def slow(*given: Any) -> Any:
        trial.clock.now += 3
        return train(*given)

    first_site._halves._train = slow
    before = trial.clock.now
    assert first_site.answer(*trial.first(first_site.client)) != REFUSAL
    assert trial.clock.now - before == 5.0
    assert trial.clock.slept == [2.0]


def test_a_failed_training_contributes_noise_in_a_private_round_and_nothing_otherwise(tmp_path: Path) -> None:
    def broken(*given: Any) -> Any:
        raise ValueError("a value of an example")

    def wrong_length(*given: Any) -> Any:
        return replace(train(*given), delta=np.zeros(9))

    for name, how in (("raises", broken), ("length", wrong_length)):
        trial = a_federation(tmp_path / name)
        sites = trial.sites()
        sites[min(sites)]._halves._train = how
        server = trial.round({client: site.answer for client, site in sites.items()})
        assert server.outcome.survivors == set(sites)  # three must survive: a silent site would have ended the round
        assert "training failed" in log_of(trial.homes[min(sites)])
    trial = a_federation(tmp_path / "plain", sites=4, mechanism=Mechanism("none"), policy=UNLIMITED)
    sites = trial.sites()
    sites[min(sites)]._halves._train = broken
    server = trial.round({client: site.answer for client, site in sites.items()})
    assert server.outcome.survivors == set(sites) - {min(sites)}


@pytest.mark.parametrize("at", range(5))
def test_a_client_may_be_restarted_between_any_two_messages(trial: Federation, at: int) -> None:
    sites = trial.sites()
    victim = min(sites)

    def restart(step: int) -> None:
        if step == at:
            sites[victim].close()
            sites[victim] = trial.site(victim)

    answers = {client: (lambda f, m, client=client: sites[client].answer(f, m)) for client in sites}
    for round in (1, 2):
        assert trial.round(answers, round, before=restart).outcome.survivors == set(sites)


@pytest.mark.parametrize("point", ["charge", "receipt", "record", "remember"])
@pytest.mark.parametrize("step", [0, 1, 2])
def test_a_client_killed_within_a_step_survives(
    trial: Federation, monkeypatch: pytest.MonkeyPatch, point: str, step: int
) -> None:
    """The process ends right after one durable write, and the server asks again."""
    sites = trial.sites()
    victim, killed = min(sites), []

    class Killed(BaseException):
        pass

    def after(of: Any, name: str) -> None:
        real = getattr(of, name)

        def dying(self: Any, *given: Any, **more: Any) -> Any:
            result = real(self, *given, **more)
            if armed and not killed:
                killed.append(name)
                raise Killed
            return result

        monkeypatch.setattr(of, name, dying)

    from privfl.crypto.memory import TasksInFolder
    from privfl.site.account import Account
    from privfl.site.chain import ReceiptChain

    of, name = {
        "charge": (Account, "charge"),
        "receipt": (ReceiptChain, "append"),
        "record": (RoundRecord, "write"),
        "remember": (TasksInFolder, "begin"),
    }[point]
    after(of, name)
    armed, at = False, -1

    def before(now: int) -> None:
        nonlocal at
        at = now

    def answer(client: int, frame: bytes, model: bytes) -> bytes:
        nonlocal armed
        armed = client == victim and at == step
        try:
            return sites[client].answer(frame, model)
        except Killed:
            sites[client].close()
            sites[client] = trial.site(client)
            return sites[client].answer(frame, model)
        finally:
            armed = False

    server = trial.round({client: (lambda f, m, c=client: answer(c, f, m)) for client in sites}, before=before)
    assert server.outcome.survivors == set(sites)
    assert bool(killed) == (step == 0 or point == "record")
    releases = [release for ledger in sites[victim]._memory.account.ledgers for release in ledger.releases]
    assert len(releases) == 1  # charged once


def test_frames_out_of_order_of_other_rounds_or_without_charter_are_refused(
    trial: Federation, first_site: Site
) -> None:
    me, plan = first_site.client, trial.plan()
    model = model_to_bytes(trial.model)
    assert first_site.answer(trial.down(me, plan, 1, b"x"), b"") == REFUSAL  # no round is in progress
    assert first_site.answer(*trial.first(me)) != REFUSAL
    for frame in (
        trial.down(me, plan, 2, b"x"),  # a step too soon
        trial.down(me, trial.plan(2), 1, b"x"),  # another round
        trial.down(me, trial.plan(1, 1), 1, b"x"),  # another attempt
        trial.down(me, trial.plan(0), 0, trial.invitation(trial.plan(0))),
        trial.down(me, plan, 1, b"not a message of the sum"),
        b"",
        b"pvfl",
        bytes(1000),
        seal_down(_down(trial, me), SigningKey.generate(), charter=trial.charter.digest()),
        seal_down(_down(trial, me), trial.key, charter=bytes(32)),
    ):
        assert first_site.answer(frame, model) == REFUSAL
    home = trial.homes[me]
    home.withdraw(trial.charter.digest().hex())
    assert first_site.answer(*trial.first(me)) == REFUSAL  # even the saved answer, once the approval is withdrawn


def _down(trial: Federation, me: int) -> Any:
    from privfl.fl.frames import Down

    plan = trial.plan(2)
    return Down(2, 0, 0, me, int(trial.clock.now) + 600, trial.invitation(plan))


def test_the_clock_of_server_and_site_may_not_differ_much(trial: Federation, first_site: Site) -> None:
    me, plan = first_site.client, trial.plan()
    model = model_to_bytes(trial.model)
    for expires, said in ((-1, "the frame expired"), (90_000, "max_ahead")):
        frame = trial.down(me, plan, 0, trial.invitation(plan), expires=int(trial.clock.now) + expires)
        assert first_site.answer(frame, model) == REFUSAL
        assert said in log_of(trial.homes[me])
    assert first_site.answer(*trial.first(me)) != REFUSAL
    trial.clock.now -= 86_000
    assert first_site.answer(*trial.first(me, trial.plan(2))) == REFUSAL
    assert "clock" in log_of(trial.homes[me])


def test_expired_keys_and_another_directory_are_refused(tmp_path: Path) -> None:
    trial = a_federation(tmp_path, now=1_800_000_000.0)
    me = min(trial.homes)
    with trial.site(me) as site:
        trial.clock.now += 31 * 86400  # the directory has expired, no key has
        assert site.answer(*trial.first(me)) == REFUSAL
        assert "the directory has expired" in log_of(trial.homes[me])
    later = a_federation(tmp_path / "key")
    me = min(later.homes)
    with later.site(me) as site:
        later.clock.now += 370 * 86400
        longer = type(later.members)(
            later.members.cards.values(),
            issued=later.members.issued,
            expires=later.members.issued + 800 * 86400,
            quorum=2,
        )
        for home in list(later.homes.values())[:2]:
            longer = longer.signed(home.credentials().signing)
        longer.write(later.homes[me] / "directory.json")
        assert site.answer(*later.first(me)) == REFUSAL
        assert "another directory" in log_of(later.homes[me])  # the charter pins the digest
        later.charter = replace(later.charter, directory=longer.digest)
        later.homes[me].approve(later.charter)
        assert site.answer(*later.first(me)) == REFUSAL
        assert "have expired" in log_of(later.homes[me])


def test_the_budget_is_kept_before_anything_leaves(tmp_path: Path) -> None:
    trial = a_federation(tmp_path, policy="epsilon = 12.0")
    sites = trial.sites()
    answers = {client: site.answer for client, site in sites.items()}
    for round in range(1, 20):
        with contextlib.suppress(TooFewSurvivors):
            trial.round(answers, round)
    rounds = len({receipt.round for receipt in trial.all_receipts})
    assert 1 <= rounds < 19
    for client, site in sites.items():
        assert site.spent() <= 12.0
        assert "above the budget" in log_of(trial.homes[client])
    other = a_federation(tmp_path / "none", mechanism=Mechanism("none"), policy='placements = ["none"]')
    with other.site(min(other.homes)) as site:
        assert site.answer(*other.first(site.client)) == REFUSAL
        assert "keeps a budget" in log_of(other.homes[site.client])


def test_least_interval_and_members_bind_the_holder_of_the_servers_key(tmp_path: Path) -> None:
    trial = a_federation(tmp_path, min_interval=60.0, rounds=2)
    me = min(trial.homes)
    with trial.site(me) as site:
        assert site.answer(*trial.first(me)) != REFUSAL
        assert site.answer(*trial.first(me, trial.plan(2))) == REFUSAL
        assert "the charter asks 60" in log_of(trial.homes[me])
        trial.clock.now += 60
        assert site.answer(*trial.first(me, trial.plan(2))) != REFUSAL
        trial.clock.now += 60
        assert site.answer(*trial.first(me, trial.plan(3))) == REFUSAL
        loud = trial.plan(2, 1, mechanism=Mechanism("distributed", 0.1))
        assert site.answer(*trial.first(me, loud)) == REFUSAL
        assert "differs from the charter in: mechanism" in log_of(trial.homes[me])


def test_a_policy_is_checked_when_a_charter_is_approved_and_one_process_holds_a_folder(trial: Federation) -> None:
    home = next(iter(trial.homes.values()))
    for line, match in (
        ({"max_rounds": "3"}, "max_rounds"),
        ({"layout": f'"{"a" * 64}"'}, "layout"),
        ({"schemes": '["plain"]'}, "schemes"),
        ({"key": f'"{"b" * 64}"'}, "another server"),
    ):
        before = (home / "policy.toml").read_text()
        set_policy(home, line)
        with pytest.raises(Exception, match=match):
            home.approve(trial.charter)
        (home / "policy.toml").write_text(before)
    with trial.site(home.card.client), pytest.raises(StateError, match="another process"):
        trial.site(home.card.client)


def test_a_server_that_hides_the_receipt_of_another_site_is_refused(trial: Federation) -> None:
    sites = trial.sites()
    answers = {client: site.answer for client, site in sites.items()}
    trial.round(answers)
    trial.round(answers, 2)
    me, peer = sorted(sites)[:2]
    trial.receipts[peer] = next(r for r in trial.all_receipts if r.client == peer)
    assert sites[me].answer(*trial.first(me, trial.plan(3))) == REFUSAL
    assert "older receipts" in log_of(trial.homes[me])
    assert isinstance(trial.receipts[me], Receipt)
