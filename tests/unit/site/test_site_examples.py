"""A site in rounds about examples: its own coins, once for each attempt; what fails; and what its policy refuses."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sites import Federation, a_federation, log_of, set_policy
from sites import train as of_clients

from privfl.dp import Accountant, FlatClip, Ledger, Mechanism, Poisson
from privfl.dp.unit import PoissonBySite
from privfl.errors import ClientFailed, ConfigError, PlanRejected, StateError
from privfl.fl.client_state import Stateful
from privfl.fl.examples import ExampleRule, clipped_sum
from privfl.fl.frames import REFUSAL
from privfl.fl.linear import LinearModel, LinearTrain
from privfl.site import Site
from privfl.site.account import Account
from privfl.site.chain import ReceiptChain
from privfl.site.examples import SiteCoins
from privfl.site.health import findings
from privfl.site.record import RoundRecord
from privfl.site.training import ChildBoth, ChildExamples, ChildTraining

MODEL = LinearModel("linear", 3)
RULE = ExampleRule(Poisson(0.5), 20.0, 40.0)
EVERY = ExampleRule(Poisson(1.0), 20.0, 40.0)
FREE = 'placements = ["none"]\nunlimited = true'
PEOPLE = 40


def rows(client: int) -> tuple[np.ndarray, np.ndarray]:
    """The examples of a site: ten million of its identity are a seed like any other."""
    rng = np.random.default_rng(client % 1000)
    return rng.normal(size=(PEOPLE, 3)), rng.normal(size=PEOPLE)


TRAIN = LinearTrain(MODEL, rows)


class Spied:
    """Notes whom a site sampled, and fails at some people."""

    def __init__(self, broken: Sequence[int] = ()) -> None:
        self.broken, self.chosen = set(broken), list[tuple[int, ...]]()

    def people(self, client: int) -> int:
        return PEOPLE

    def gradients(self, model: np.ndarray, client: int, chosen: np.ndarray) -> Iterator[np.ndarray]:
        self.chosen.append(tuple(map(int, chosen)))
        for person in chosen:
            if int(person) in self.broken:
                raise ValueError("a value that nobody expects")
            yield from TRAIN.gradients(model, client, np.array([person]))


def contribution(trial: Federation, client: int, people: Sequence[int]) -> np.ndarray:
    """What one site adds to the sum without noise, in integers."""
    encoding = trial.plan().encoding
    gradients = TRAIN.gradients(np.zeros(4), client, np.array(people))
    return -clipped_sum(gradients, encoding.codec, encoding.clip.clip_norm, 4)


def test_a_round_is_one_step_over_the_examples_that_the_sites_sampled(tmp_path: Path) -> None:
    trial = a_federation(tmp_path, examples=RULE, mechanism=Mechanism("none"), policy=FREE)
    spies = {client: Spied() for client in trial.homes}
    sites = {client: trial.site(client, spy) for client, spy in spies.items()}
    server = trial.round({client: site.answer for client, site in sites.items()})
    assert server.outcome.survivors == set(sites)
    total = sum(contribution(trial, client, spy.chosen[0]) for client, spy in spies.items())
    np.testing.assert_allclose(trial.model, total / 2.0**10 / RULE.denominator, atol=1e-12)
    samples = [spy.chosen[0] for spy in spies.values()]
    assert len(set(samples)) == len(samples)
    assert all(PEOPLE / 5 < len(sample) < PEOPLE * 4 / 5 for sample in samples)


@pytest.mark.parametrize("placement", ["distributed", "mesh"])
def test_a_private_round_charges_every_site_in_examples(tmp_path: Path, placement: str) -> None:
    mesh = {"spare": 1, "members": 3, "min_members_to_open": 3} if placement == "mesh" else {}
    mechanism = Mechanism(placement, 2.0, **mesh)  # type: ignore[arg-type]
    trial = a_federation(tmp_path, examples=RULE, mechanism=mechanism)
    sites = trial.sites(TRAIN)
    for round in (1, 2):
        trial.round({client: site.answer for client, site in sites.items()}, round)
    worst = [trial.plan(round).worst_case(trial.scheme) for round in (1, 2)]
    assert {release.draw_known_to for release in worst} == {"site"}
    entered = [receipt for receipt in trial.all_receipts if receipt.kind == "entered"]
    assert len(entered) == 2 * len(sites)
    for receipt in entered:
        assert receipt.release["draw_known_to"] == "site"
    for site in sites.values():
        (ledger,) = site._memory.account.ledgers
        assert (ledger.unit.level, ledger.draws, ledger.unsettled == ()) == ("example", (), False)
        assert [replace(release, round=1) for release in ledger.releases] == [worst[0]] * 2
        figure = Accountant(1e-5, observer="server").spent(ledger)
        assert figure <= site.spent() < figure + 0.01
        bare = Ledger(replace(ledger.unit, level="client"))
        for release in ledger.releases:
            bare.draw(release.round, release.sampling, None)
            bare.reserve(replace(release, draw_known_to=None))
        assert figure < Accountant(1e-5, observer="server").spent(bare)  # the sampling is known to the site alone
    assert np.any(trial.model != 0)


@pytest.mark.parametrize("point", ["charge", "receipt", "coins", "record", "remember"])
def test_a_site_killed_at_any_point_never_samples_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    trial = a_federation(tmp_path, examples=RULE)
    spy, others = Spied(), Spied()
    victim, killed = min(trial.homes), []
    sites = {client: trial.site(client, spy if client == victim else others) for client in trial.homes}

    class Killed(BaseException):
        pass

    from privfl.crypto.memory import TasksInFolder

    of, name = {
        "charge": (Account, "charge"),
        "receipt": (ReceiptChain, "append"),
        "coins": (SiteCoins, "of"),
        "record": (RoundRecord, "write"),
        "remember": (TasksInFolder, "begin"),
    }[point]
    real = getattr(of, name)

    def dying(self: Any, *given: Any, **more: Any) -> Any:
        result = real(self, *given, **more)
        if armed and not killed:
            killed.append(name)
            raise Killed
        return result

    monkeypatch.setattr(of, name, dying)
    armed = True
    frame, model = trial.first(victim)
    with pytest.raises(Killed):
        sites[victim].answer(frame, model)
    sites[victim].close()
    with trial.site(victim, spy) as again:
        answer = again.answer(frame, model)
        assert answer != REFUSAL
        assert again.answer(frame, model) == answer
        assert len(set(spy.chosen)) == 1
        assert len(spy.chosen) == 1  # trained before the kill or after it
        assert [len(ledger.releases) for ledger in again._memory.account.ledgers] == [1]
        assert not list((trial.homes[victim] / "rounds").glob("*.coins")) or point == "record"
        sites[victim] = again
        armed = False
        answers = {client: site.answer for client, site in sites.items()}
        assert trial.round(answers, 1, 1).outcome.survivors == set(sites)
        assert len(set(spy.chosen)) == 2  # another attempt has other coins


def test_a_site_killed_while_it_trains_trains_on_the_same_sample(tmp_path: Path) -> None:
    trial = a_federation(tmp_path, examples=RULE)
    me = min(trial.homes)

    class Killed(BaseException):
        pass

    class Dying(Spied):
        def gradients(self, model: np.ndarray, client: int, chosen: np.ndarray) -> Iterator[np.ndarray]:
            self.chosen.append(tuple(map(int, chosen)))
            raise Killed

    first, second, third = Dying(), Spied(), Spied()
    frame, model = trial.first(me)
    with trial.site(me, first) as site, pytest.raises(Killed):
        site.answer(frame, model)
    with trial.site(me, second) as site:
        answer = site.answer(frame, model)
        assert answer != REFUSAL
    assert first.chosen == second.chosen
    with trial.site(me, third) as site:
        assert site.answer(frame, model) == answer  # the saved one, with its noise
        assert not third.chosen
    trial.homes[me].end_rounds()
    assert not list((trial.homes[me] / "rounds").glob("*"))


def test_a_gradient_that_fails_counts_as_zero_and_the_others_stay(tmp_path: Path) -> None:
    """One person's examples never decide what becomes of the others': the sum changes by one clipped gradient."""
    trial = a_federation(tmp_path, examples=EVERY, mechanism=Mechanism("none"), policy=FREE)
    broken = {client: Spied(broken=(3, 20)) for client in trial.homes}
    sites = {client: trial.site(client, spy) for client, spy in broken.items()}
    trial.round({client: site.answer for client, site in sites.items()})
    good = [person for person in range(PEOPLE) if person not in (3, 20)]
    total = sum(contribution(trial, client, good) for client in sites)
    np.testing.assert_allclose(trial.model, total / 2.0**10 / RULE.denominator, atol=1e-12)
    for home in trial.homes.values():
        assert "gradients failed" in log_of(home)
        assert "nobody expects" in log_of(home)


def test_a_training_that_fails_as_a_whole_contributes_noise(tmp_path: Path) -> None:
    class Gone(Spied):
        def people(self, client: int) -> int:
            raise OSError("the disk")

    class TooMany(Spied):  # one gradient for each example, and not for each person
        def gradients(self, model: np.ndarray, client: int, chosen: np.ndarray) -> Iterator[np.ndarray]:
            yield np.ones((len(chosen) + 1, len(model)))

    class TooManyEach(Spied):
        def gradients(self, model: np.ndarray, client: int, chosen: np.ndarray) -> Iterator[np.ndarray]:
            if len(chosen) > 1:
                raise ValueError
            yield np.ones((2, len(model)))

    wide = LinearTrain(LinearModel("linear", 9), lambda client: (np.ones((4, 9)), np.ones(4)))
    trial = a_federation(tmp_path, examples=EVERY)
    victim = min(trial.homes)
    for round, how in enumerate((Gone(), TooMany(), TooManyEach(), wide), start=1):
        sites = trial.sites(TRAIN)
        sites[victim]._halves._train = how
        server = trial.round({client: site.answer for client, site in sites.items()}, round)
        assert server.outcome.survivors == set(sites)
        events = [line.partition('"event":"')[2].partition('"')[0] for line in log_of(trial.homes[victim]).splitlines()]
        failed = [event for event in events if event.endswith("failed")]
        assert failed == ["training failed"] * min(round, 3) + ["gradients failed"] * (round == 4)
        for site in sites.values():
            site.close()


@pytest.mark.parametrize(
    ("policy", "text"),
    [
        ("max_sampling_probability = 0.4", "this client allows 0.4"),
        ("max_clip_norm = 0.5", "this client allows 0.5"),
        ("min_noise_stddev = 3.0", "insists on 3"),
        ("min_colluders = 1", "insists on 1"),
        ('placements = ["mesh"]', "this client accepts: mesh"),
        ("epsilon = 0.01", "budget"),
    ],
)
def test_a_plan_beyond_the_policy_is_refused_before_it_costs_anything(tmp_path: Path, policy: str, text: str) -> None:
    trial = a_federation(tmp_path, examples=RULE)
    me = min(trial.homes)
    key, _, value = policy.partition(" = ")
    set_policy(trial.homes[me], {key: value})
    with trial.site(me, TRAIN) as site:
        assert site.answer(*trial.first(me)) == REFUSAL
        assert site.spent() == 0
        assert not list((trial.homes[me] / "rounds").glob("*"))
    assert text in log_of(trial.homes[me])


def test_a_plan_of_other_terms_than_the_charter_is_refused(tmp_path: Path) -> None:
    trial = a_federation(tmp_path, examples=RULE)
    free = a_federation(tmp_path / "free", examples=RULE, mechanism=Mechanism("none"), policy=FREE)
    for given in (trial, free):
        me = min(given.homes)
        encoding = given.plan().encoding
        others = [
            replace(encoding, examples=replace(RULE, sampling=Poisson(0.6))),
            replace(encoding, examples=replace(RULE, denominator=10.0)),
            replace(encoding, examples=replace(RULE, max_entry=41.0)),
            replace(encoding, examples=None),
        ]
        with given.site(me, TRAIN) as site:
            for other in others:
                assert site.answer(*given.first(me, given.plan(encoding=other))) == REFUSAL
            assert site.spent() == 0
        assert log_of(given.homes[me]).count("differs from the charter in: encoding") == len(others)
    me = min(trial.homes)
    less = trial.plan(mechanism=Mechanism("distributed", 1.0))
    clipped = trial.plan(encoding=replace(trial.plan().encoding, clip=FlatClip(2.0)))
    with trial.site(me, TRAIN) as site:
        assert {site.answer(*trial.first(me, plan)) for plan in (less, clipped)} == {REFUSAL}


def test_a_charter_of_another_unit_or_a_larger_probability_is_not_approved(tmp_path: Path) -> None:
    trial, of_sites = a_federation(tmp_path, examples=RULE), a_federation(tmp_path / "sites")
    home = trial.homes[min(trial.homes)]
    set_policy(home, {"unit": '"client"'})
    with pytest.raises(PlanRejected, match="make another site's folder"):
        home.approve(trial.charter)
    set_policy(home, {"unit": '"example"', "max_sampling_probability": "0.25"})
    with pytest.raises(PlanRejected, match=r"probability 0\.5, and this client allows 0\.25"):
        home.approve(trial.charter)
    other = of_sites.homes[min(of_sites.homes)]
    set_policy(other, {"unit": '"example"'})
    with pytest.raises(PlanRejected, match="hides one client"):
        other.approve(of_sites.charter)
    words = trial.charter.in_words()
    assert (words["unit"], words["denominator"]) == ("one example", "20, a public constant")
    assert "samples its own examples" in words["sampling"]
    assert words["clip norm"] == "1, of each gradient"
    by_site = replace(RULE, sampling=PoissonBySite(tuple((client, 0.1) for client in sorted(trial.homes))))
    encoding = replace(trial.charter.terms.encoding, examples=by_site)
    set_policy(home, {"max_sampling_probability": "0.1"})
    home.approve(replace(trial.charter, terms=replace(trial.charter.terms, encoding=encoding)))


def test_a_folder_keeps_figures_of_one_unit(tmp_path: Path) -> None:
    trial = a_federation(tmp_path, examples=RULE)
    me = min(trial.homes)
    home = trial.homes[me]
    with trial.site(me, TRAIN) as site:
        assert site.answer(*trial.first(me)) != REFUSAL
    set_policy(home, {"unit": '"client"'})
    with pytest.raises(StateError, match=r"counts examples under replace_one, and .* asks for clients"):
        trial.site(me, TRAIN)
    faults = [finding for finding in findings(home, trial.clock.now) if finding.level == "fault"]
    assert {"ledger", f"charter {trial.charter.digest().hex()[:16]}"} <= {fault.about for fault in faults}
    set_policy(home, {"unit": '"example"', "adjacency": '"add_remove"'})
    with pytest.raises(StateError, match="asks for examples under add_remove"):
        trial.site(me, TRAIN)
    set_policy(home, {"adjacency": '"replace_one"', "answer_after": "0.0"})
    assert any("answer_after is 0" in finding.text for finding in findings(home, trial.clock.now))


def test_a_budget_may_count_people_with_an_example_at_several_sites(tmp_path: Path) -> None:
    spent = []
    for sites in (1, 2):
        policy = f'adjacency = "add_remove"\nsites_per_person = {sites}'
        trial = a_federation(tmp_path / str(sites), examples=RULE, policy=policy)
        me = min(trial.homes)
        with trial.site(me, TRAIN) as site:
            assert site.answer(*trial.first(me)) != REFUSAL
            spent.append(site.spent())
            exact = Accountant(1e-5, observer="server", group=sites).spent(site._memory.account.ledgers)
            assert exact <= spent[-1] < exact + 0.01
    assert spent[1] > 1.5 * spent[0]


def test_plan_and_training_must_agree_about_examples(tmp_path: Path) -> None:
    trial, of_sites = a_federation(tmp_path, examples=RULE), a_federation(tmp_path / "sites")
    for given, how, text in (
        (trial, of_clients, "gives no gradients of single examples"),
        (of_sites, Spied(), "gives gradients alone"),
    ):
        me = min(given.homes)
        with given.site(me, how) as site:
            assert site.answer(*given.first(me)) == REFUSAL
            assert site.spent() == 0
        assert text in log_of(given.homes[me])


@pytest.fixture
def child() -> Iterator[ChildTraining]:
    made = ChildTraining(lambda: LinearTrain(MODEL, rows))
    yield made
    made.close()


def test_a_child_sums_what_the_site_itself_would(tmp_path: Path, child: ChildTraining) -> None:
    learner = child.learner()
    assert isinstance(learner, ChildBoth)  # a linear model trains whole clients, too
    trial = a_federation(tmp_path, examples=EVERY, mechanism=Mechanism("none"), policy=FREE)
    sites = trial.sites(learner)
    trial.round({client: site.answer for client, site in sites.items()})
    total = sum(contribution(trial, client, range(PEOPLE)) for client in sites)
    np.testing.assert_allclose(trial.model, total / 2.0**10 / RULE.denominator, atol=1e-12)
    me = min(trial.homes)
    expected = np.linalg.norm(np.concatenate(list(TRAIN.gradients(trial.model, me, np.arange(PEOPLE)))), axis=1)
    np.testing.assert_array_equal(child.norms(trial.model, me), expected)
    rng = np.random.default_rng(0)
    assert learner(np.zeros(4), me, 1, rng).examples == PEOPLE


def test_a_childs_training_is_of_one_of_three_kinds() -> None:
    for made, of in ((Spied(), ChildExamples), (Stateful(lambda *given: given), Stateful)):
        child = ChildTraining(lambda made=made: made)  # type: ignore[misc]
        assert type(child.learner()) is of
        child.close()
    child = ChildTraining(lambda: 3)  # type: ignore[arg-type, return-value]
    with pytest.raises(ConfigError, match="must return a training function"):
        child.learner()
    with pytest.raises(ClientFailed, match="no gradients of single examples"):
        child.norms(np.zeros(4), 0)
    child.close()


def test_a_child_that_dies_in_the_middle_costs_its_round_no_survivor(tmp_path: Path) -> None:
    class Dead(Spied):
        def people(self, client: int) -> int:
            raise SystemExit

    child = ChildTraining(Dead)
    trial = a_federation(tmp_path, examples=RULE)
    victim = min(trial.homes)
    sites: dict[int, Site] = trial.sites(TRAIN) | {}
    sites[victim]._halves._train = child.learner()
    server = trial.round({client: site.answer for client, site in sites.items()})
    child.close()
    assert server.outcome.survivors == set(sites)
    assert "has died" in log_of(trial.homes[victim])
