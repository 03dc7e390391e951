"""A private run with Poisson cohorts, dropouts and a masked sum, which opens nothing below its own threshold of shares.
Must hold: epsilon covers the visible trained/skipped bits at that threshold, or counts no sampling, or an error."""

import math
import sys
import tempfile

import numpy as np
from scipy.stats import binom

from privfl.data import load, partition
from privfl.errors import ConfigError, PrivflError
from privfl.experiment import Experiment
from privfl.fl.client import ClientUpdate
from privfl.secagg import MaskedSum, Ring, SumTask, generate_identities

clients, q, dropout, fraction, delta, rounds = 60, 0.5, 0.3, 0.05, 1e-5, 8
_, directory = generate_identities(range(clients))


def least(size):
    """The fewest vectors that the masked sum of a cohort opens; one more than its size where it never opens."""
    try:
        task = SumTask(b"", tuple(range(size)), max(1, math.ceil(fraction * size)), 1, Ring(31), 9)
        return MaskedSum(directory).terms(task).min_survivors_to_open
    except ConfigError:
        return size + 1


needed = [least(size) for size in range(clients + 1)]


def skipped(population):
    """The exact probability that a round is skipped."""
    return sum(binom.pmf(k, population, q) * binom.cdf(needed[k] - 1, k, 1 - dropout) for k in range(population + 1))


def delta_of_bits(epsilon):
    """The least delta of the skip bits alone at `epsilon`, with and without one client."""
    a, b, j = skipped(clients), skipped(clients - 1), np.arange(rounds + 1)
    p, r = binom.pmf(j, rounds, a), binom.pmf(j, rounds, b)
    return max(np.maximum(p - np.exp(epsilon) * r, 0).sum(), np.maximum(r - np.exp(epsilon) * p, 0).sum())


data = partition(load("breast_cancer"), "iid", clients=clients, seed=0)
settings = {
    "cohort.sampling": "poisson", "cohort.probability": q,
    "cohort.dropout": dropout, "cohort.min_survivor_fraction": fraction, "sum.scheme": "masked",
    "privacy.placement": "central", "privacy.clip_norm": 1.0, "privacy.noise_multiplier": 1000.0,
    "privacy.delta": delta, "evaluate_every": 0,
}  # fmt: skip
train = lambda model, client, round, rng: ClientUpdate(np.zeros(len(model)), 1)
try:
    with tempfile.TemporaryDirectory() as runs:
        run = Experiment(data=data, train=train, initial=np.zeros(1), rounds=rounds, runs=runs, overrides=settings)
        list(run.run())
        report = run.epsilon()
except PrivflError as error:
    print("refused:", error)
    sys.exit(0)
counted = report.unit.adjacency == "add_remove"
true = delta_of_bits(report.epsilon)
bad = counted and true > delta
print(
    "FAILS:" if bad else "holds:",
    f"epsilon {report.epsilon:.4f} at {delta}, sampling counted: {counted}; the skip bits alone need delta {true:.1e}",
)
sys.exit(int(bad))
