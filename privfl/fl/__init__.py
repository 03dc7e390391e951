"""Federated averaging: who takes part, what a client and a server do in a round, and what a run keeps."""

from privfl.fl.client import ClientUpdate, Executor, Train
from privfl.fl.client_round import ClientRound, Contribution
from privfl.fl.client_state import ClientState, SiteState, Stateful, pack_state, unpack_state
from privfl.fl.encoding import UpdateEncoding
from privfl.fl.metrics import Measure, MetricSums, measure_predictions, measure_scores
from privfl.fl.optimizers import FedAdagrad, FedAdam, FedYogi, ServerOptimizer, ServerSGD
from privfl.fl.payment import Payment
from privfl.fl.plan import RoundPlan, model_hash
from privfl.fl.policy import ClientPolicy
from privfl.fl.report import RoundReport
from privfl.fl.round import Parts, run_round
from privfl.fl.run import FederatedRun
from privfl.fl.sampling import (
    CohortSampler,
    EveryoneSampler,
    FixedSizeSampler,
    PoissonSampler,
    TruncatedPoissonSampler,
)
from privfl.fl.server_round import ServerRound
from privfl.fl.state import Outcome, ServerState
from privfl.fl.store import ModelStore
from privfl.fl.survivors import SurvivorRule

__all__ = [
    "ClientPolicy",
    "ClientRound",
    "ClientState",
    "ClientUpdate",
    "CohortSampler",
    "Contribution",
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
    "Outcome",
    "Parts",
    "Payment",
    "PoissonSampler",
    "RoundPlan",
    "RoundReport",
    "ServerOptimizer",
    "ServerRound",
    "ServerSGD",
    "ServerState",
    "SiteState",
    "Stateful",
    "SurvivorRule",
    "Train",
    "TruncatedPoissonSampler",
    "UpdateEncoding",
    "measure_predictions",
    "measure_scores",
    "model_hash",
    "pack_state",
    "run_round",
    "unpack_state",
]
