"""OpacusTrain over uint8 text examples, which TorchTrain takes, and of a model with a layer outside its forward pass.
Must hold: it works, or a typed error of privfl names the layer or dtype; no raw error of torch or Opacus."""

import sys
import warnings

import numpy as np
from torch import nn

from privfl.adapters.opacus import OpacusTrain
from privfl.data import load, partition
from privfl.errors import PrivflError

warnings.simplefilter("ignore")
data = partition(load("digits"), "iid", clients=2, seed=0)


class Text(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.last = nn.Embedding(20, 8), nn.Linear(8, 10)

    def forward(self, x):
        return self.last(self.table(x).mean(1))


class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.left = nn.Linear(64, 10), nn.Linear(3, 3)

    def forward(self, x):
        return self.used(x)


text, raw = (lambda client: (data.train(client)[0].astype(np.uint8), data.train(client)[1])), []
for name, module, rows in (("uint8 rows", Text(), text), ("unused layer", Unused(), data.train)):
    try:
        train = OpacusTrain(module, rows, clip_norm=1.0, noise_multiplier=1.0, batch_size=16, steps=2)
        train(train.initial(), 0, 1, np.random.default_rng(0))
    except PrivflError as error:
        print(name, "->", error)
    except Exception as error:
        raw.append(f"{name}: {type(error).__name__}: {str(error)[:80]}")
print("FAILS: " + "; ".join(raw) if raw else "holds")
sys.exit(bool(raw))
