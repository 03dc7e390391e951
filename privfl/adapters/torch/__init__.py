"""Local training and measurement of any `torch.nn.Module` over one flat vector. Needs the extra `torch`."""

from privfl.errors import MissingExtra

try:
    import torch  # noqa: F401 - its absence is reported here, once, with the line that installs it
except ModuleNotFoundError as error:
    raise MissingExtra("torch", "torch") from error

from privfl.adapters.torch.example_gradients import TorchExamples
from privfl.adapters.torch.layout import Layout
from privfl.adapters.torch.losses import accuracy, binary_cross_entropy, cross_entropy, squared_error
from privfl.adapters.torch.measure import TorchMeasure
from privfl.adapters.torch.optim import Sgd
from privfl.adapters.torch.train import TorchTrain

__all__ = [
    "Layout",
    "Sgd",
    "TorchExamples",
    "TorchMeasure",
    "TorchTrain",
    "accuracy",
    "binary_cross_entropy",
    "cross_entropy",
    "squared_error",
]
