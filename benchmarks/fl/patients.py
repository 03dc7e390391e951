"""Accuracy on MNIST against the epsilon that a server learns about one example, for ten sites and three schemes.

    PRIVFL_DATA=FOLDER python benchmarks/fl/patients.py --model network --epsilon 3

Every arm takes the same steps of DP-SGD over the examples of all sites: q 1/60, 600 steps, clip norm 1. They differ in
the noise of the sum. "central" is a trusted server that adds it once. "sum" is the same unit through a masked sum with
mesh noise, one site corrupt: real plans, contributions, messages and openings. "independent" is a noise by each of ten
sites that is large enough for the site's own examples, which adds up to ten variances. Coins and noise are the
operating system's. Results are appended to results/patients.json.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from privfl.codec import FixedPoint
from privfl.crypto import generate_identities
from privfl.data.mnist import TRAIN, mnist
from privfl.dp import FlatClip, Ledger, Mechanism, Poisson, PrivacyUnit, calibrate, epsilon
from privfl.dp.noise.sampler import rounded_gaussian
from privfl.dp.unit import Everyone
from privfl.fl.client_round import ClientRound
from privfl.fl.encoding import UpdateEncoding
from privfl.fl.examples import ExampleRule, clipped_sum, sampled_people
from privfl.fl.optimizers import ServerSGD
from privfl.fl.plan import RoundPlan, model_hash
from privfl.fl.server_round import ServerRound
from privfl.fl.state import ServerState
from privfl.fl.survivors import SurvivorRule
from privfl.ring import Ring
from privfl.secagg import MaskedSum
from privfl.sums.driver import drive

SITES, Q, STEPS, CLIP, DELTA = 10, 1 / 60, 600, 1.0, 1e-5
DENOMINATOR = 1000.0
CODEC = FixedPoint(2.0**16, Ring(31))
RATES = {"network": {1.0: 2.0, 3.0: 4.0, 8.0: 6.0}, "histograms": {1.0: 8.0, 3.0: 16.0, 8.0: 24.0}}
"""Learning rates by epsilon, chosen for the central arm and kept in all arms."""

RESULTS = Path(__file__).parents[1] / "results" / "patients.json"
UNIT = PrivacyUnit("example", "add_remove")
Floats = np.ndarray


def histograms(images: Floats, cells: int = 7, bins: int = 8) -> Floats:
    """Histograms of gradient directions: `cells` x `cells` of them with `bins` directions, of norm 1 for each image."""
    pixels = images.reshape(-1, 28, 28)
    down, right = np.gradient(pixels, axis=(1, 2))
    size, turn = np.hypot(down, right), (np.arctan2(down, right) % (2 * np.pi)) * (bins / (2 * np.pi))
    low = np.floor(turn).astype(int) % bins
    part = turn - np.floor(turn)
    width = 28 // cells
    found = np.zeros((len(pixels), cells, cells, bins), np.float32)
    for number in range(bins):
        mass = size * ((low == number) * (1 - part) + ((low + 1) % bins == number) * part)
        found[..., number] = mass.reshape(-1, cells, width, cells, width).sum(axis=(2, 4))
    flat = np.sqrt(found.reshape(len(pixels), -1))
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)


class Softmax:
    """Softmax regression: weights `[p, 10]`, then biases."""

    def __init__(self, features: int) -> None:
        self.features, self.length = features, (features + 1) * 10

    def initial(self) -> Floats:
        return np.zeros(self.length)

    def scores(self, model: Floats, x: Floats) -> Floats:
        return x @ model[:-10].reshape(self.features, 10) + model[-10:]

    def gradients(self, model: Floats, x: Floats, y: Floats) -> Floats:
        slope = probabilities(self.scores(model, x))
        slope[np.arange(len(y)), y] -= 1
        return np.concatenate([(x[:, :, None] * slope[:, None, :]).reshape(len(y), -1), slope], axis=1)

    def total(self, model: Floats, x: Floats, y: Floats) -> Floats:
        parts = (self.gradients(model, x[i : i + 256], y[i : i + 256]) for i in range(0, len(y), 256))
        return clipped_sum(parts, CODEC, CLIP, self.length)


class Network:
    """A network 784-64-10 with ReLU: weights and biases of both layers."""

    def __init__(self, features: int, hidden: int = 64) -> None:
        self.sizes = [(features, hidden), (hidden,), (hidden, 10), (10,)]
        self.cuts = np.cumsum([math.prod(size) for size in self.sizes])
        self.length = int(self.cuts[-1])

    def initial(self) -> Floats:
        rng = np.random.default_rng(0)
        parts = [
            rng.uniform(-1, 1, size) / math.sqrt(size[0]) if len(size) > 1 else np.zeros(size) for size in self.sizes
        ]
        return np.concatenate([part.ravel() for part in parts])

    def _parts(self, model: Floats) -> list[Floats]:
        return [part.reshape(size) for part, size in zip(np.split(model, self.cuts[:-1]), self.sizes, strict=True)]

    def scores(self, model: Floats, x: Floats) -> Floats:
        w1, b1, w2, b2 = self._parts(model)
        return np.maximum(x @ w1 + b1, 0) @ w2 + b2

    def slopes(self, model: Floats, x: Floats, y: Floats) -> tuple[Floats, Floats, Floats]:
        w1, b1, w2, b2 = self._parts(model)
        hidden = np.maximum(x @ w1 + b1, 0)
        out = probabilities(hidden @ w2 + b2)
        out[np.arange(len(y)), y] -= 1
        return (out @ w2.T) * (hidden > 0), hidden, out

    def gradients(self, model: Floats, x: Floats, y: Floats) -> Floats:
        inner, hidden, out = self.slopes(model, x, y)
        parts = [x[:, :, None] * inner[:, None, :], inner, hidden[:, :, None] * out[:, None, :], out]
        return np.concatenate([part.reshape(len(y), -1) for part in parts], axis=1)

    def total(self, model: Floats, x: Floats, y: Floats) -> Floats:
        """The same integers as `clipped_sum` of `gradients`, over the pixels that are not zero."""
        inner, hidden, out = self.slopes(model, x, y)
        squares = (np.square(x).sum(1) + 1) * np.square(inner).sum(1) + (np.square(hidden).sum(1) + 1) * np.square(
            out
        ).sum(1)
        factors = _factors_of(np.sqrt(squares), CODEC.scale)
        first, second = np.zeros(self.sizes[0]), np.zeros((len(y), self.length - self.cuts[0]))
        for i in range(len(y)):
            held = np.flatnonzero(x[i])
            first[held] += np.trunc(factors[i] * np.multiply.outer(x[i, held], inner[i]))
        second[:, :64] = inner
        second[:, 64 : 64 + 640] = (hidden[:, :, None] * out[:, None, :]).reshape(len(y), -1)
        second[:, -10:] = out
        rest = np.trunc(second * factors[:, None]).sum(0)
        return np.concatenate([first.ravel(), rest]).astype(np.int64)


def _factors_of(norms: Floats, scale: float) -> Floats:
    limit = CLIP * (1 - 2.0**-40)
    return scale * np.where(norms > limit, limit / np.maximum(norms, 1e-300), 1.0)


def probabilities(scores: Floats) -> Floats:
    e = np.exp(scores - scores.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def data_of(kind: str) -> tuple[Any, ...]:
    digits = mnist()
    x = histograms(digits.features) if kind == "histograms" else digits.features
    return x[:TRAIN], digits.targets[:TRAIN], x[TRAIN:], digits.targets[TRAIN:]


@dataclass(frozen=True)
class Arm:
    """One training: the model, the sites' examples, the noise and the learning rate."""

    learner: Any
    sites: list[tuple[Floats, Floats]]
    noise_multiplier: float
    eta: float
    steps: int
    say: Callable[[int, Floats], None]


def through_the_sum(arm: Arm) -> Ledger:
    """Steps through a masked sum with mesh noise: plans, contributions, messages, openings and the ledger."""
    credentials, directory = generate_identities(range(SITES))
    scheme, learner = MaskedSum(directory), arm.learner
    rule = ExampleRule(Poisson(Q), DENOMINATOR, DENOMINATOR)
    base = RoundPlan(
        run=os.urandom(16), round=1, model_hash="0" * 64, cohort=tuple(range(SITES)), population=SITES,
        sampling=Everyone(), survivor_rule=SurvivorRule(0.8, 8),
        encoding=UpdateEncoding(learner.length, CODEC, FlatClip(CLIP), examples=rule),
        mechanism=Mechanism("mesh", arm.noise_multiplier, spare=1), scheme=scheme.name,
        parameters=scheme.parameters, seed=0,
    )  # fmt: skip
    bound = base.encoding.entry_bound
    ledger, state, optimizer = Ledger(UNIT), ServerState(learner.initial()), ServerSGD(arm.eta)
    for step in range(1, arm.steps + 1):
        plan = replace(base, round=step, model_hash=model_hash(state.sent))
        token = ledger.reserve(plan.worst_case(scheme))
        server = ServerRound(state, plan, scheme=scheme, optimizer=optimizer)
        clients = []
        for me, (x, y) in enumerate(arm.sites):
            chosen = sampled_people(len(y), Q, os.urandom)
            total = -learner.total(state.model, x[chosen], y[chosen])
            vector = plan.add_noise(scheme, me, np.clip(total, -bound, bound))
            clients.append((me, ClientRound(plan, me, vector, scheme=scheme, credentials=credentials[me])))
        drive(server, iter(clients))
        assert server.result is not None
        ledger.settle(token, plan.release(scheme, server.result.survivors, worst_case=False))
        state = server.outcome.state
        arm.say(step, state.model)
    return ledger


def at_once(arm: Arm) -> None:
    """The same steps with one rounded Gaussian noise on the sum."""
    model = arm.learner.initial()
    for step in range(1, arm.steps + 1):
        total = np.zeros(arm.learner.length, np.int64)
        for x, y in arm.sites:
            chosen = sampled_people(len(y), Q, os.urandom)
            total += arm.learner.total(model, x[chosen], y[chosen])
        total += rounded_gaussian(arm.noise_multiplier * CLIP * CODEC.scale, arm.learner.length)
        model = model - arm.eta * total / CODEC.scale / DENOMINATOR
        arm.say(step, model)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=["network", "histograms"], required=True)
    parser.add_argument("--epsilon", type=float, required=True)
    parser.add_argument("--arms", default="central,sum,independent")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--eta", type=float)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    x, y, test_x, test_y = data_of(asked.model)
    order = np.random.default_rng(1).permutation(len(y))
    sites = [(x[share], y[share]) for share in np.array_split(order, SITES)]
    learner = Network(x.shape[1]) if asked.model == "network" else Softmax(x.shape[1])
    eta = asked.eta or RATES[asked.model].get(asked.epsilon, 4.0)
    first = learner.initial()
    wanted = clipped_sum([learner.gradients(first, x[:50], y[:50])], CODEC, CLIP, learner.length)
    if np.abs(learner.total(first, x[:50], y[:50]) - wanted).max() > 1:  # a norm may be rounded otherwise
        raise SystemExit("the sum over pixels that are not zero is not the sum")
    z = calibrate(
        epsilon=asked.epsilon, delta=DELTA, sampling=Poisson(Q), rounds=STEPS, unit=UNIT, draw_known_to="site"
    ).noise_multiplier
    for arm in asked.arms.split(",") * asked.repeats:
        began, curve = time.perf_counter(), []

        def say(step: int, model: Floats, curve: list[Any] = curve) -> None:
            if step % 100 == 0 or step == asked.steps:
                right = float(np.mean(learner.scores(model, test_x).argmax(1) == test_y))
                curve.append([step, right])

        factor = math.sqrt(SITES) if arm == "independent" else 1.0
        run = Arm(learner, sites, z * factor, eta, asked.steps, say)
        ledger = through_the_sum(run) if arm == "sum" else at_once(run)
        against = None if ledger is None else epsilon(ledger, DELTA, observer="server", cross_checks=False).epsilon
        entry = {
            "model": asked.model, "epsilon": asked.epsilon, "arm": arm, "noise_multiplier": z, "eta": eta,
            "accuracy": curve[-1][1], "curve": curve, "epsilon_against_server": against,
            "seconds": round(time.perf_counter() - began, 1), "steps": asked.steps,
        }  # fmt: skip
        print(json.dumps(entry), flush=True)
        kept = json.loads(asked.out.read_text()) if asked.out.exists() else []
        asked.out.write_text(json.dumps([*kept, entry], indent=1) + "\n")


if __name__ == "__main__":
    main()
