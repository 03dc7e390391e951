"""TorchTrain with what it cannot take: all layers frozen, weight_norm, pruned, no parameters, lists as examples.
Must hold: it works, or a typed error of privfl states what is wrong; no raw error of torch or Python."""

import re
import sys
import warnings

import numpy as np
import torch
from torch import nn
from torch.nn.utils import prune, weight_norm

from privfl.adapters.torch import TorchTrain
from privfl.data import load, partition
from privfl.errors import PrivflError

warnings.simplefilter("ignore")
data = partition(load("digits"), "iid", clients=2, seed=0)


def pruned():
    layer = nn.Linear(64, 10)
    prune.l1_unstructured(layer, "weight", 0.5)
    return layer


raw = []
for name, make, rows in (
    ("all frozen", lambda: nn.Linear(64, 10).requires_grad_(False), data.train),
    ("weight_norm", lambda: weight_norm(nn.Linear(64, 10)), data.train),
    ("pruned", pruned, data.train),
    ("bfloat16", lambda: nn.Linear(64, 10).to(torch.bfloat16), data.train),
    ("no parameters", nn.Flatten, data.train),
    ("lists as rows", lambda: nn.Linear(64, 10), lambda client: tuple(part.tolist() for part in data.train(client))),
):
    try:
        train = TorchTrain(make(), rows)
        train(train.initial(), 0, 1, np.random.default_rng(0))
    except PrivflError as error:
        print(name, "->", error)
        if re.search(r"(\w+) is (torch\.\w+) and \1 is \2", str(error)):
            raw.append(f"{name} (the error compares a tensor with itself)")
    except Exception as error:
        raw.append(f"{name} ({type(error).__name__})")
print("FAILS: raw or senseless errors for " + ", ".join(raw) if raw else "holds")
sys.exit(bool(raw))
