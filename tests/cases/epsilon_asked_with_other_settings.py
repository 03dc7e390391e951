"""A finished run of 30 rounds is opened again under other settings, and its epsilon is asked.
Must hold: the figure of the run as it was, or a typed error; never a figure of settings that did not run."""

import sys
import tempfile

import numpy as np

from privfl.data import load, partition
from privfl.errors import PrivflError
from privfl.experiment import Experiment
from privfl.fl.client import ClientUpdate
from privfl.fl.dropout import nobody

settings = {
    "rounds": 30, "cohort.sampling": "poisson",
    "cohort.probability": 0.5, "cohort.dropout": 0.1, "cohort.min_survivor_fraction": 0.5,
    "privacy.placement": "central", "privacy.clip_norm": 1.0, "privacy.noise_multiplier": 2.0, "evaluate_every": 0,
}  # fmt: skip
train = lambda model, client, round, rng: ClientUpdate(np.zeros(len(model)), 1)
wrong = []
with tempfile.TemporaryDirectory() as runs:
    own = {
        "data": partition(load("breast_cancer"), "iid", clients=40, seed=0),
        "train": train,
        "initial": np.zeros(1),
        "runs": runs,
    }
    run = Experiment(overrides=settings, **own)
    list(run.run())
    truth = run.epsilon().epsilon
    for change, more in (
        ({"rounds": 1}, {}),
        ({"cohort.dropout": 0.0}, {}),
        ({"cohort.min_survivor_fraction": 0.01}, {}),
        ({}, {"dropouts": nobody}),
    ):
        try:
            asked = Experiment(overrides={**settings, **change}, **own, **more).epsilon().epsilon
        except PrivflError as error:
            print(change or "other dropouts", "refused:", error)
            continue
        if abs(asked - truth) > 1e-9:
            wrong.append(f"{change or 'other dropouts'}: {asked:.4f}")
print(f"FAILS: the run's epsilon is {truth:.4f}, but " + "; ".join(wrong) if wrong else f"holds: {truth:.4f}")
sys.exit(bool(wrong))
