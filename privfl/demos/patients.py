"""The second half of the demonstration: the same hospitals and the same sum, but the protected unit is one patient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from privfl.dp import EpsilonReport
from privfl.errors import StateError
from privfl.experiment.config import Config
from privfl.experiment.experiment import Experiment

STEPS: Final = 12


@dataclass(frozen=True, slots=True)
class PatientResult:
    """The promise to one patient.

    Attributes:
        accuracy: Accuracy of the last model on the public test examples, in [0, 1].
        epsilon: The epsilon of one patient against the server.
        steps: The steps of SGD, each of them one sum.
    """

    accuracy: float
    epsilon: EpsilonReport
    steps: int


def patient_config(hospitals: Config) -> Config:
    """The configuration for patients, from that of the demonstration for hospitals.

    Data, partition, sum, seed and placement of the noise stay. Every hospital samples its own patients in each step and
    clips the gradient of each.

    Args:
        hospitals: The configuration whose unit is a hospital.
    """
    kept = {
        f"data.{name}": getattr(hospitals.data, name)
        for name in ("name", "clients", "partition", "min_examples", "test", "test_fraction", "standardize")
    }
    return Config(name="demo-patients", seed=hospitals.seed, rounds=STEPS).with_overrides(
        kept
        | {
            "evaluate_every": 0,
            "server.eta": 2.0,
            "sum.scheme": hospitals.sum.scheme,
            "privacy.placement": hospitals.privacy.placement,
            "privacy.unit": "example",
            "privacy.clip_norm": 1.0,
            "privacy.sampling_probability": 0.25,
            "privacy.denominator": 85.0,
            "privacy.noise_multiplier": 3.0,
            "privacy.delta": 1e-5,
        }
    )


def for_patients(hospitals: Config) -> PatientResult:
    """Train once more with the patient as the unit, which takes a second or two.

    Args:
        hospitals: The configuration of the demonstration.

    Raises:
        StateError: The run has no accuracy or no epsilon.
    """
    experiment = Experiment(patient_config(hospitals))
    accuracy, epsilon = experiment.run().accuracy, experiment.epsilon("server")
    if accuracy is None or epsilon is None:
        raise StateError("the demonstration for patients has no result: run it again")
    return PatientResult(accuracy, epsilon, STEPS)
