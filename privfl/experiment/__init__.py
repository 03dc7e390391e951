"""The composition root and the Python API: a configuration in, reports and models out."""

from privfl.experiment.audit import AuditPlan, AuditResult, audit
from privfl.experiment.config import Client, Cohort, Config, Data, Engine, Model, Privacy, Server, Sum, load_config
from privfl.experiment.experiment import Experiment
from privfl.experiment.folder import RunFolder
from privfl.experiment.result import Result
from privfl.fl.report import RoundReport

__all__ = [
    "AuditPlan",
    "AuditResult",
    "Client",
    "Cohort",
    "Config",
    "Data",
    "Engine",
    "Experiment",
    "Model",
    "Privacy",
    "Result",
    "RoundReport",
    "RunFolder",
    "Server",
    "Sum",
    "audit",
    "load_config",
]
