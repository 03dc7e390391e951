"""Example-level privacy as an experiment: steps as DP-SGD defines them, three sums alike, epsilon, and refusals."""

import dataclasses

import numpy as np
import pytest

from privfl.data import Grouping, load
from privfl.dp import Ledger, Mechanism
from privfl.dp.noise.sampler import seeded_entropy
from privfl.errors import BudgetExceeded, ConfigError, PrivacyError
from privfl.experiment import Experiment
from privfl.experiment.config import Client, Cohort, Config, Data, Model, Privacy, Server, Sum
from privfl.fl.examples import COINS_STREAM, sampled_people

Q, CLIP, DENOMINATOR, ETA = 0.2, 0.7, 90.0, 2.0
DATA = Data(name="breast_cancer", clients=5, standardize="public", test="public")


def an_experiment(scheme="plain", rounds=4, seed=3, **privacy):
    terms = {"unit": "example", "clip_norm": CLIP, "sampling_probability": Q, "denominator": DENOMINATOR}
    return Experiment(
        rounds=rounds,
        seed=seed,
        evaluate_every=0,
        data=DATA,
        server=Server(eta=ETA),
        sum=Sum(scheme=scheme),
        privacy=Privacy(**terms | privacy),
    )


def test_the_model_is_the_same_over_three_sums_to_the_last_bit():
    models = [np.array(an_experiment(scheme).run().model) for scheme in ("plain", "masked", "ckks")]
    assert np.array_equal(models[0], models[1])
    assert np.array_equal(models[0], models[2])
    assert np.linalg.norm(models[0]) > 0.1


def test_a_run_without_noise_is_a_loop_of_clipped_steps():
    experiment = an_experiment(rounds=5)
    run = experiment.run()
    learner, federation = experiment.learner, experiment.federation
    at = learner.initial.astype(float)
    for round in range(1, 6):
        total = np.zeros(len(at))
        for client in range(5):
            x, y = (np.asarray(part, float) for part in federation.train(client))
            entropy = seeded_entropy(experiment.config.seed, round, client, *COINS_STREAM)
            for i in sampled_people(len(y), Q, entropy):
                score = x[i] @ at[:-1] + at[-1]
                gradient = (1 / (1 + np.exp(-score)) - y[i]) * np.append(x[i], 1.0)
                total += gradient * min(1.0, CLIP / np.linalg.norm(gradient))
        at -= ETA * total / DENOMINATOR
    assert np.max(np.abs(run.model - at)) < 1e-4
    assert run.reports[-1].metrics == {}


@pytest.mark.parametrize(("scheme", "placement"), [("masked", "mesh"), ("masked", "distributed"), ("ckks", "private")])
def test_the_server_gets_the_figure_that_was_asked_for(scheme, placement):
    experiment = an_experiment(scheme, rounds=3, placement=placement, epsilon=2.0, delta=1e-4)
    run = experiment.run()
    figures = {observer: experiment.epsilon(observer).epsilon for observer in ("outsider", "server", "participant")}
    assert 1.99 < figures["server"] <= 2.0
    assert figures["outsider"] <= figures["server"]
    assert figures["participant"] <= 2.0
    ledger = Ledger.read(experiment.files.ledger_path)
    assert ledger.unit.level == "example"
    assert {release.draw_known_to for release in ledger.releases} == {"site"}
    assert len(ledger.releases) == 3
    assert all(release.participants == (0, 1, 2, 3, 4) for release in ledger.releases)
    assert not ledger.draws
    assert "single example" in run.epsilon.sentence
    assert any("gradient is not finite" in caveat for caveat in run.reports[0].caveats)


def test_central_noise_is_for_outsiders_and_costs_the_least_noise():
    central = an_experiment("masked", rounds=3, placement="central", epsilon=2.0, delta=1e-4)
    central.run()
    assert central.epsilon().epsilon <= 2.0
    assert np.isinf(central.epsilon("server").epsilon)


def test_each_site_may_have_a_probability_of_its_own():
    rates = (0.02, 0.05, 0.1, 0.15, 0.2)
    settings = {"sampling_probability": None, "sampling_probabilities": rates, "placement": "central"}
    experiment = an_experiment(rounds=2, noise_multiplier=1.0, delta=1e-4, **settings)
    experiment.run()
    same = an_experiment(rounds=2, noise_multiplier=1.0, delta=1e-4, placement="central")
    same.run()
    assert experiment.epsilon().epsilon == same.epsilon().epsilon
    with pytest.raises(ConfigError, match="4 values for 5 clients"):
        an_experiment(**settings | {"sampling_probabilities": rates[1:]}, noise_multiplier=1.0)


def test_people_at_two_sites_need_more_noise():
    terms = {"rounds": 3, "placement": "central", "epsilon": 2.0, "delta": 1e-4}
    one, two = an_experiment(**terms), an_experiment(**terms, sites_per_person=2)
    assert two.config.privacy.noise_multiplier > 1.2 * one.config.privacy.noise_multiplier
    two.run()
    assert two.epsilon().group == 2
    assert 1.99 < two.epsilon().epsilon <= 2.0


def test_the_examples_of_one_person_share_a_coin_and_a_clip():
    found = load("breast_cancer")
    codes = np.arange(found.example_count) // 3
    data = dataclasses.replace(
        found, groupings=(Grouping("patient", codes, tuple(f"patient {n}" for n in range(codes[-1] + 1))),)
    )

    def run(person):
        privacy = Privacy(unit="example", clip_norm=0.01, sampling_probability=1.0, denominator=100.0, person=person)
        sections = {"data": DATA, "privacy": privacy, "rounds": 1, "evaluate_every": 0, "server": Server(eta=1.0)}
        return Experiment(Config(**sections), data=data)

    alone, shared = run(None), run("patient")
    people = sum(shared.learner.train.people(client) for client in range(5))
    assert people < sum(alone.learner.train.people(client) for client in range(5))
    lengths = [np.linalg.norm(experiment.run().model) for experiment in (alone, shared)]
    assert lengths[1] < lengths[0]
    assert lengths[1] <= 0.01 * people / 100 * (1 + 1e-9)
    with pytest.raises(ConfigError, match="it has: patient"):
        run("hospital")


def test_a_budget_ends_the_run_before_it_is_exceeded():
    experiment = an_experiment(rounds=50, placement="central", epsilon=1.5, noise_multiplier=2.5, delta=1e-4)
    with pytest.raises(BudgetExceeded):
        experiment.run()
    assert 1.0 < experiment.epsilon().epsilon <= 1.5


def test_the_default_delta_is_of_examples():
    experiment = an_experiment(placement="central", noise_multiplier=1.0)
    assert experiment.delta == pytest.approx(1e-5)
    with pytest.raises(ConfigError, match="delta"):
        an_experiment(placement="central", noise_multiplier=1.0, delta=0.01)
    replaced = an_experiment(placement="central", noise_multiplier=1.0, adjacency="replace_one", denominator=None)
    count = replaced.federation.sizes.sum()
    assert replaced.encoding.examples.denominator == pytest.approx(Q * count)


@pytest.mark.parametrize(
    ("section", "error", "says"),
    [
        ({"client": Client(steps=5)}, ConfigError, "several local steps"),
        ({"client": Client(epochs=2)}, ConfigError, "several local steps"),
        ({"client": Client(batch_size=8)}, ConfigError, "batch_size"),
        ({"client": Client(learning_rate=0.5)}, ConfigError, r"server\.eta"),
        ({"client": Client(algorithm="scaffold")}, ConfigError, "scaffold"),
        ({"model": Model(l2=0.1)}, ConfigError, "l2"),
        ({"cohort": Cohort(sampling="poisson", probability=0.5)}, ConfigError, "everyone"),
        ({"cohort": Cohort(on_client_error="drop")}, PrivacyError, "drops out"),
        ({"sum": Sum(rotation=True)}, ConfigError, "rotation"),
        ({"sum": Sum(rounding="stochastic")}, ConfigError, "rounding"),
        ({"server": Server(weighting="examples")}, PrivacyError, "public constant"),
        ({"sum": Sum(bits=16)}, ConfigError, "integer units"),
    ],
)
def test_settings_that_would_break_the_claim_are_refused(section, error, says):
    terms = {"unit": "example", "clip_norm": 1.0, "sampling_probability": Q, "denominator": 90.0}
    noise = {"placement": "central", "noise_multiplier": 1.0}
    with pytest.raises(error, match=says):
        Experiment(**{"data": DATA, "rounds": 2, "privacy": Privacy(**terms, **noise)} | section)


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"placement": "local"}, PrivacyError, "pay for itself"),
        ({"clip_quantile": 0.5}, PrivacyError, "fixed norm"),
        ({"clip": "layers"}, PrivacyError, "fixed norm"),
        ({"loss_bound": 2.0}, PrivacyError, "no price"),
        ({"clip_norm": None}, ConfigError, "clip_norm"),
        ({"sampling_probability": None}, ConfigError, "sampling_probability"),
        ({"sampling_probabilities": (0.1,) * 5}, ConfigError, "one of the two"),
        ({"sampling_probability": None, "sampling_probabilities": (0.1,) * 4 + (1.5,)}, ConfigError, r"\(0, 1\]"),
        ({"denominator": None}, ConfigError, "no public fact"),
        ({"unit": "client"}, ConfigError, "about examples"),
    ],
)
def test_privacy_settings_that_would_break_the_claim_are_refused(changes, error, says):
    with pytest.raises(error, match=says):
        an_experiment(**{"placement": "central", "noise_multiplier": 1.0} | changes)
    with pytest.raises(ConfigError, match="sites_per_person"):
        Experiment(data=DATA, privacy=Privacy(sites_per_person=2))


def test_a_training_without_gradients_of_examples_is_refused():
    privacy = Privacy(unit="example", clip_norm=1.0, sampling_probability=Q, denominator=9.0)
    with pytest.raises(ConfigError, match="TorchExamples"):
        Experiment(train=lambda *given: None, initial=np.zeros(3), clients=3, privacy=privacy)


def test_a_run_is_resumed_and_never_under_another_unit(tmp_path):
    def again(**changes):
        privacy = dataclasses.replace(base.config.privacy, **changes)
        return Experiment(dataclasses.replace(base.config, privacy=privacy, rounds=4), runs=tmp_path)

    base = an_experiment(rounds=2, placement="central", noise_multiplier=1.0)
    base = Experiment(base.config, runs=tmp_path)
    base.run()
    longer = again()
    longer.run(resume=True)
    assert len(longer.reports) == 4
    assert longer.epsilon().rounds == 4
    with pytest.raises(Exception, match="other settings"):
        again(clip_norm=0.1).run(resume=True)


def test_simulated_steps_repeat_and_their_figure_says_so():
    runs = [an_experiment(placement="central", noise_multiplier=1.0, noise="simulation") for _ in range(2)]
    models = [np.array(run.run().model) for run in runs]
    assert np.array_equal(*models)
    assert runs[0].epsilon().label == "epsilon if the noise were secure"
    assert isinstance(runs[0].parts.mechanism, Mechanism)
