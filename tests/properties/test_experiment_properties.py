"""Small odd federations over all settings at once, against a bare loop: right, or a caveat, or a typed error."""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from odd_federations import Case, cases

from privfl.errors import PrivflError
from privfl.experiment import Experiment
from privfl.fl.client import client_rng
from privfl.fl.range import TOLERANCE
from privfl.fl.report import RoundReport
from privfl.fl.sampling import seeded_uniforms

LIMITED = ("precision of the sum is limited", "had room for", "weights count up to")
"""Caveats that say by how much, or that, a mean is not the bare loop's."""

# --- the bare loop ---------------------------------------------------------------------------------------------------


def local(run: Experiment, model: np.ndarray, client: int, round: int) -> tuple[np.ndarray, float, dict[str, float]]:
    """Update, weight and metrics of one client; for linear models by plain gradient descent written here."""
    rng, config = client_rng(run.config.seed, round, client), run.config
    if run.parts.objects.train is not None or config.model.kind == "mlp":
        update = run.learner.train(model.copy(), client, round, rng)
        return np.asarray(update.delta, np.float64), update.examples, dict(update.metrics)
    x, y = (np.asarray(part, np.float64) for part in run.federation.train(client))
    task, outputs, w = run.federation.dataset.task, max(1, len(run.learner.initial) // (x.shape[1] + 1)), model.copy()
    truth = np.eye(outputs)[y.astype(int)] if task == "multiclass" else y[:, None]

    def predict(w: np.ndarray, x: np.ndarray) -> np.ndarray:
        z = x @ w[:-outputs].reshape(-1, outputs) + w[-outputs:]
        if task == "multiclass":
            e = np.exp(z - z.max(1, keepdims=True))
            return e / e.sum(1, keepdims=True)
        return z if task == "regression" else 0.5 * (1 + np.tanh(z / 2))

    def slope(w: np.ndarray, at: np.ndarray) -> np.ndarray:
        off = predict(w, x[at]) - truth[at]
        penalty = config.model.l2 * w[:-outputs]
        return np.concatenate([(x[at].T @ off).ravel() / len(at) + penalty, off.sum(0) / len(at)])

    everything, size, c = np.arange(len(y)), min(config.client.batch_size or len(y), len(y)), config.client
    if c.update == "gradient":
        w = w - slope(w, everything)
    else:
        passes = c.epochs if c.steps is None else -(-c.steps // -(-len(y) // size))
        orders = [rng.permutation(len(y)) for _ in range(passes)]
        for at in [order[i : i + size] for order in orders for i in range(0, len(y), size)][: c.steps]:
            w = w - c.learning_rate * slope(w, at)
    return w - model, len(y), {}


def length(vector: np.ndarray) -> float:
    """The l2 norm, also of a vector whose squares are beyond floating point."""
    scale = float(np.abs(vector).max(initial=0.0))
    return scale * float(np.linalg.norm(vector / scale)) if scale > 0 else 0.0


def clipped(run: Experiment, delta: np.ndarray, bound: float | None) -> np.ndarray:
    norm, layers = run.config.privacy.clip_norm, run.learner.layers
    if norm is None or run.config.privacy.clip == "entries":
        limit = bound if norm is None else norm / math.sqrt(len(delta))
        return np.clip(delta, -(limit or math.inf), limit or math.inf)
    parts = np.split(delta, np.cumsum(layers)[:-1]) if run.config.privacy.clip == "layers" else [delta]
    return np.concatenate([p * min(1, norm / math.sqrt(len(parts)) / max(length(p), 1e-300)) for p in parts])


def next_model(run: Experiment, before: Any, mean: np.ndarray) -> np.ndarray:
    s, m, v = run.config.server, before.moments.get("m", 0.0), before.moments.get("v")
    if s.optimizer == "sgd":
        return before.model + (s.eta or 1.0) * ((s.momentum or 0.0) * m + mean)
    b1 = s.beta_1 if s.beta_1 is not None else 0.0 if s.optimizer == "fedadagrad" else 0.9
    b2, tau = s.beta_2 if s.beta_2 is not None else 0.99, s.tau or 1e-3
    m, v = b1 * m + (1 - b1) * mean, np.full(len(mean), tau**2) if v is None else v
    v = {
        "fedadagrad": v + mean**2,
        "fedadam": b2 * v + (1 - b2) * mean**2,
        "fedyogi": v - (1 - b2) * mean**2 * np.sign(v - mean**2),
    }[s.optimizer]
    return before.model + (s.eta or 0.1) * m / (np.sqrt(v) + tau)


# --- what must hold --------------------------------------------------------------------------------------------------


def said(report: RoundReport, *words: str) -> bool:
    return any(word in caveat for caveat in report.caveats for word in words)


def reached_precision(report: RoundReport) -> float | None:
    """The relative error that a caveat admits; 0 without one, None where it states no number."""
    if not said(report, *LIMITED):
        return 0.0
    found = re.search(r"may be (\S+) of the largest entry", " ".join(report.caveats))
    return float(found[1]) if found else None


def check_round(run: Experiment, report: RoundReport) -> None:
    """The stored model after a round is what the bare loop makes of the stored model before it."""
    before, after = run.store.load(report.round - 1).state, run.store.load(report.round).state
    cohort = run.parts.sampler.sample(run.parts.clients, seeded_uniforms(run.config.seed, report.round))
    assert (len(cohort), report.survivors) == (report.cohort, len(cohort) - len(report.dropouts))
    alive, found, kinds = [client for client in cohort if client not in report.dropouts], {}, Counter[str]()
    with np.errstate(all="ignore"):
        for client in cohort:
            try:
                found[client] = local(run, before.model, client, report.round)
                if found[client][0].shape != before.model.shape:
                    raise ValueError  # privfl refuses it
            except Exception as error:  # noqa: BLE001 - whatever the training of a case raises
                kinds["ConfigError" if isinstance(error, (ValueError, PrivflError)) else type(error).__name__] += 1
                assert client not in alive
    assert report.client_errors == dict(kinds)
    assert bool(kinds) == said(report, "raised an error")
    private, by_examples = run.private, run.encoding.weighting == "examples"
    summed = {metric.name for metric in run.encoding.metrics}
    finite = [
        client for client in alive
        if np.isfinite(found[client][0]).all()
        and all(math.isfinite(value) for name, value in found[client][2].items() if name in summed)
    ]  # fmt: skip
    examples = {client: found[client][1] for client in finite}
    weights = {c: float(n if by_examples else 1 if private else min(n, 1)) for c, n in examples.items()}
    rejected = sum(1 for client in alive if client not in finite)
    if not private and alive:
        assert report.rejected_updates == rejected
        assert bool(rejected) == said(report, "left out")
        assert (not all(examples.values())) == said(report, "had no example", "no client had an example")
    total = sum(weights.values())
    if private:
        sampling = run.config.cohort
        total = {"everyone": float(len(cohort)), "fixed-size": 2.0, "poisson": 0.6 * run.parts.clients}[
            sampling.sampling
        ]
    if report.status == "skipped":
        assert after.model.tobytes() == before.model.tobytes()
        assert report.cohort == 0 or not total or report.survivors == 0 or said(report, "had room for")
        return
    assert total > 0
    bound = report.entry_bound
    parts = [weights[client] * clipped(run, found[client][0], bound) for client in finite]
    mean = np.sum(parts, axis=0) / total if parts else np.zeros(len(before.model))
    lost = [
        np.abs(found[c][0] - clipped(run, found[c][0], bound)).max() / np.abs(found[c][0]).max()
        for c in finite
        if weights[c] and found[c][0].any()
    ]
    if not private and any(part > 1e-9 for part in lost):
        assert said(report, "clipped")
    largest = np.abs(mean).max()
    reached = reached_precision(report)
    if reached is None:
        return
    allowed = max(TOLERANCE, 1.01 * reached) * largest + 1e-300
    if private:
        codec, norm = run.encoding.codec, run.config.privacy.clip_norm or 1.0
        allowed = (
            10 * 0.01 * norm + 2 * len(cohort) * math.sqrt(len(mean)) / codec.scale
        ) / total + TOLERANCE * largest
    expected = next_model(run, before, mean)
    eps = float(np.finfo(before.model.dtype).eps)
    rate = (run.config.server.eta or 1.0) * (
        1.0 if run.config.server.optimizer == "sgd" else 4 / (run.config.server.tau or 1e-3)
    )
    slack = rate * (allowed + 4 * eps * np.abs(before.model).max()) + 4 * eps * np.abs(expected).max()
    assert np.abs(after.model - expected).max() <= slack, (after.model - expected, slack)


def check_evaluation(run: Experiment, report: RoundReport) -> None:
    """Every figure is the pooled one; what is absent has a reason."""
    every = run.config.evaluate_every
    if report.round != run.config.rounds and (not every or report.round % every):
        assert not report.evaluation
        return
    assert report.evaluation or report.evaluation_caveats
    model, figures = run.store.load(report.round).model.astype(np.float64), report.evaluation
    given = run.parts.objects
    if given.measure is not None and not run.private:
        sums = [given.measure(model, client).values for client in range(run.parts.clients)]
        with_it = [s for s in sums if "mine" in s]
        rows = sum(float(s["rows"][0]) for s in with_it)
        value = math.fsum(float(s["mine"][0]) for s in with_it) / rows if rows else math.nan
        if math.isfinite(value):
            assert figures["mine"] == pytest.approx(value, rel=1e-6)
        else:
            assert "mine" not in figures
        lacking = any(s["rows"][0] for s in sums if "mine" not in s)
        assert not lacking or said(report, "returned") or "mine" not in figures
        return
    if given.train is not None or run.config.model.kind == "mlp":
        return
    data = run.federation
    test = [data.public_test()] if len(data.test) else [data.local_test(c) for c in range(len(data.clients))]
    x, y = np.concatenate([t[0] for t in test]).astype(np.float64), np.concatenate([t[1] for t in test])
    if not len(y) or not figures:
        return
    outputs = len(model) // (x.shape[1] + 1)
    with np.errstate(all="ignore"):
        z = x @ model[:-outputs].reshape(-1, outputs) + model[-outputs:]
        if data.dataset.task == "regression":
            mse, spread = np.mean((z[:, 0] - y) ** 2), np.var(y.astype(np.float64))
            want = {"mse": mse} | (
                {"r2": 1 - mse / spread} if spread > 1e-9 * np.mean(y.astype(np.float64) ** 2) else {}
            )
        else:
            guess = z.argmax(1) if outputs > 1 else (z[:, 0] > 0).astype(int)
            want = {"accuracy": np.mean(guess == y)}
    for name, value in want.items():
        if math.isfinite(value):
            assert figures[name] == pytest.approx(value, rel=1e-6, abs=1e-6 if name == "r2" else 0), name
        else:
            assert name not in figures


def outcome(case: Case) -> str:
    """Run a case; "equal", "limited" (with a caveat), or the type of the error."""
    try:
        run = Experiment(**case)
        reports = list(run.run())
    except PrivflError as error:
        return type(error).__name__
    assert len(reports) == run.config.rounds
    for report in reports:
        check_round(run, report)
        check_evaluation(run, report)
    return "limited" if any(said(report, *LIMITED) for report in reports) else "equal"


def fuzz(examples: int) -> Counter[str]:
    ends: Counter[str] = Counter()

    @settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        derandomize=True,
    )
    @given(st.data())
    def one(data: st.DataObject) -> None:
        try:
            case = data.draw(cases())
        except PrivflError as error:  # a data set that is refused where it is made
            ends[type(error).__name__] += 1
            return
        ends[outcome(case)] += 1

    one()
    return ends


def test_a_federation_is_right_or_says_so() -> None:
    ends = fuzz(40)
    assert ends["equal"] > 10, ends


@pytest.mark.slow
def test_300_federations_are_right_or_say_so() -> None:
    ends = fuzz(300)
    assert ends["equal"] > 100, ends
