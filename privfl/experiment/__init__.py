"""The composition root and the Python API: a configuration in, reports and models out."""

from privfl.experiment.config import Config, load_config
from privfl.experiment.experiment import Experiment
from privfl.fl.run import RoundReport

__all__ = ["Config", "Experiment", "RoundReport", "load_config"]
