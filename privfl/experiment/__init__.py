"""The composition root and the Python API: a configuration in, reports and models out."""

from privfl.experiment.attack import AttackPlan, InversionResult, MembershipResult, attack
from privfl.experiment.audit import AuditPlan, AuditResult, audit
from privfl.experiment.config import (
    Buffer,
    Client,
    Cohort,
    Config,
    Data,
    Engine,
    Model,
    Privacy,
    Server,
    Sum,
    load_config,
)
from privfl.experiment.experiment import Experiment
from privfl.experiment.folder import RunFolder
from privfl.experiment.result import Result
from privfl.fl.report import RoundReport

__all__ = [
    "AttackPlan",
    "AuditPlan",
    "AuditResult",
    "Buffer",
    "Client",
    "Cohort",
    "Config",
    "Data",
    "Engine",
    "Experiment",
    "InversionResult",
    "MembershipResult",
    "Model",
    "Privacy",
    "Result",
    "RoundReport",
    "RunFolder",
    "Server",
    "Sum",
    "attack",
    "audit",
    "load_config",
]
