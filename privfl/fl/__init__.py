"""Federated averaging: who takes part, what a client and a server do in a round, and what a run keeps."""

from privfl.fl.client import ClientUpdate, Executor, Train
from privfl.fl.metrics import Measure, MetricSums, measure_predictions, measure_scores
from privfl.fl.optimizers import FedAdagrad, FedAdam, FedYogi, ServerOptimizer, ServerSGD
from privfl.fl.plan import ClientPolicy, RoundPlan, UpdatePlan
from privfl.fl.round import Parts, run_round
from privfl.fl.run import FederatedRun, RoundReport
from privfl.fl.sampling import (
    CohortSampler,
    EveryoneSampler,
    FixedSizeSampler,
    PoissonSampler,
    TruncatedPoissonSampler,
)
from privfl.fl.store import ModelStore

__all__ = [
    "ClientPolicy",
    "ClientUpdate",
    "CohortSampler",
    "EveryoneSampler",
    "Executor",
    "FedAdagrad",
    "FedAdam",
    "FedYogi",
    "FederatedRun",
    "FixedSizeSampler",
    "Measure",
    "MetricSums",
    "ModelStore",
    "Parts",
    "PoissonSampler",
    "RoundPlan",
    "RoundReport",
    "ServerOptimizer",
    "ServerSGD",
    "Train",
    "TruncatedPoissonSampler",
    "UpdatePlan",
    "measure_predictions",
    "measure_scores",
    "run_round",
]
