"""One experiment, three sums, any number of workers: the same model to the last bit, the same price per observer."""

import math
from typing import Any

import numpy as np
import pytest

from privfl.data import Dataset
from privfl.experiment import Experiment
from privfl.fl.dropout import Dropouts
from privfl.he.messages import Deal
from privfl.sums import Drop, Tap
from privfl.sums.driver import ignore
from privfl.wire import peek

SCHEMES = ("plain", "masked", "ckks")
ROUNDS = 3
CENTRAL = {
    "privacy.placement": "central",
    "privacy.clip_norm": 1.0,
    "privacy.noise_multiplier": 2.0,
    "privacy.noise": "simulation",
}
SETTINGS: dict[str, dict[str, Any]] = {
    "weighted": {"server.optimizer": "fedyogi", "sum.rounding": "stochastic"},
    "uniform": {"server.weighting": "uniform", "cohort.sampling": "fixed-size", "cohort.size": 6},
    "central": CENTRAL,
    "poisson": CENTRAL | {"cohort.sampling": "poisson", "cohort.probability": 0.9},
    # Noise shares are sized for what a sum opens: here five of seven, which is the masked sum's own minimum.
    "distributed": CENTRAL | {"privacy.placement": "distributed", "sum.bits": 36, "cohort.min_survivor_fraction": 0.7},
    "layers": CENTRAL | {"privacy.clip": "layers", "privacy.loss_bound": 4.0, "privacy.noise_multiplier": 0.5},
    "rotated": CENTRAL | {"sum.rotation": True},
    "local": CENTRAL | {"privacy.placement": "local", "sum.bits": 36},
}


def first_message_lost(round: int, attempt: int) -> Drop:
    """One of seven clients never speaks, another in every round: the survivors are the same whatever the sum.

    Two would leave a masked sum over a cohort of six below its threshold of shares, and that round would be skipped.
    """
    return lambda client, step: (client + 3 * round) % 7 == 0


SILENT: dict[int, dict[int, int]] = {
    1: {0: 1, 4: 4},
    2: {1: 2, 5: 0},
    3: {2: 3, 6: 1},
    4: {0: 4, 3: 2},
    5: {0: 0, 4: 3},
}
"""By round: the clients that fall silent, and from which of the driver's steps on.

In a CKKS sum step 1 is asked of the dealer alone, client 0 in the first round, and the last one of the opener, client 0
in the fourth.
"""


def run(
    scheme: str,
    *,
    width: int = 5,
    rows: int = 140,
    tap: Tap = ignore,
    dropouts: Dropouts = first_message_lost,
    **overrides: Any,
) -> Experiment:
    rng = np.random.default_rng(7)
    features = rng.normal(size=(rows, width)).astype(np.float32)
    data = Dataset("points", "binary", features, (features[:, 1] > 0).astype(np.int64), classes=("a", "b"))
    common = {
        "rounds": ROUNDS,
        "data.clients": 7,
        "data.partition": "dirichlet:1",
        "client.steps": 6,
        "client.batch_size": 4,
        "sum.scheme": scheme,
        "sum.bits": 30,
    }
    experiment = Experiment(data=data, dropouts=dropouts, tap=tap, overrides=common | overrides)
    list(experiment.run())
    return experiment


@pytest.mark.parametrize("setting", sorted(SETTINGS))
def test_three_sums_give_one_model(setting: str) -> None:
    runs = {scheme: run(scheme, **SETTINGS[setting]) for scheme in SCHEMES}
    plain = runs["plain"]
    assert any(report.dropouts for report in plain.reports)
    assert plain.model.any()
    for scheme in ("masked", "ckks"):
        other = runs[scheme]
        assert [r.dropouts for r in other.reports] == [r.dropouts for r in plain.reports]
        assert [r.model for r in other.reports] == [r.model for r in plain.reports]
        assert other.model.tobytes() == plain.model.tobytes()
        assert [r.metrics for r in other.reports] == [r.metrics for r in plain.reports]
        assert [r.evaluation for r in other.reports] == [r.evaluation for r in plain.reports]
        assert [r.epsilon for r in other.reports] == [r.epsilon for r in plain.reports]


@pytest.mark.parametrize("setting", ["weighted", "central", "distributed"])
@pytest.mark.parametrize("scheme", ["masked", "ckks"])
def test_dropouts_at_any_step_give_the_model_of_a_plain_run_with_the_same_survivors(scheme: str, setting: str) -> None:
    silenced: dict[int, dict[int, int]] = {}

    def noted(round: int, attempt: int) -> Drop:
        def drop(client: int, step: int) -> bool:
            if silent := step >= SILENT[round].get(client, 9):
                silenced.setdefault(round, {}).setdefault(client, step)
            return silent

        return drop

    secret = run(scheme, dropouts=noted, **SETTINGS[setting] | {"rounds": len(SILENT)})
    lost = {report.round: set(report.dropouts) for report in secret.reports}
    assert all(report.status == "trained" for report in secret.reports)
    # Clients fell silent from every step on; some of them had given their vectors by then, and survived.
    assert {step for clients in silenced.values() for step in clients.values()} >= {0, 1, 2, 3, 4}
    assert {silenced[round][client] for round, clients in lost.items() for client in clients} >= {0, 2}
    assert any(lost[round] < set(clients) for round, clients in silenced.items())

    plain = run(
        "plain",
        dropouts=lambda round, attempt: lambda c, step: c in lost[round],
        **SETTINGS[setting] | {"rounds": len(SILENT)},
    )
    assert [set(r.dropouts) for r in plain.reports] == [set(r.dropouts) for r in secret.reports]
    assert [r.model for r in plain.reports] == [r.model for r in secret.reports]
    assert plain.model.tobytes() == secret.model.tobytes()
    assert plain.model.any()


def epsilon(experiment: Experiment, observer: Any) -> float:
    report = experiment.epsilon(observer)
    assert report is not None
    return report.epsilon


def test_the_price_is_one_for_those_who_see_only_models_and_grows_with_what_the_server_sees() -> None:
    runs = {scheme: run(scheme, **CENTRAL) for scheme in SCHEMES}
    prices = {epsilon(runs[scheme], "outsider") for scheme in SCHEMES}
    assert len(prices) == 1
    assert 0 < prices.pop() < math.inf
    # Every participant of a CKKS sum holds the key that its noise is derived from.
    assert epsilon(runs["plain"], "participant") == epsilon(runs["masked"], "participant") < math.inf
    assert epsilon(runs["ckks"], "participant") == epsilon(runs["ckks"], "key_holder") == math.inf
    # Central noise comes after a plain or masked server has seen the sum; of a CKKS sum it sees ciphertexts only.
    assert [epsilon(runs[s], "server") for s in ("plain", "masked")] == [math.inf, math.inf]
    assert epsilon(runs["ckks"], "server") < math.inf


@pytest.mark.parametrize("setting", ["weighted", "local"])
def test_any_number_of_workers_gives_one_model(setting: str) -> None:
    models = [run("plain", **SETTINGS[setting], **{"engine.workers": n}).model.tobytes() for n in (0, 1, 2, 3)]
    assert len(set(models)) == 1


def test_a_session_key_may_last_several_sums() -> None:
    models, deals = [], []
    for sums in (1, 100):
        messages: list[bytes] = []
        experiment = run(
            "ckks", tap=lambda way, client, message, kept=messages: kept.append(message), **{"sum.key_sums": sums}
        )
        models.append(experiment.model.tobytes())
        deals.append(sum(peek(message, max_length=1 << 30)[0].kind == Deal.KIND for message in messages))
    assert len(set(models)) == 1
    # The first round lacks a client that had no key yet; the evaluation after it deals one to all.
    assert deals == [ROUNDS, 1]


def test_any_number_of_threads_for_a_long_sum_gives_one_model() -> None:
    models = [
        run(scheme, width=100_000, rows=42, rounds=1, **{"engine.sum_workers": threads}).model.tobytes()
        for scheme, threads in (("plain", 1), ("masked", 1), ("masked", 2), ("ckks", 1), ("ckks", 2))
    ]
    assert len(set(models)) == 1


def test_secure_noise_is_another_in_every_run_and_keyed_to_the_sum_in_ckks() -> None:
    secure = CENTRAL | {"privacy.noise": "secure"}
    for scheme in ("plain", "ckks"):
        # The clients' session key is fresh in every run, so that nobody can repeat the noise of a keyed opening.
        assert run(scheme, **secure).model.tobytes() != run(scheme, **secure).model.tobytes()
