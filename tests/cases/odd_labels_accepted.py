"""A perfect model for two classes, with the labels written 1/0, 1/-1 and 2/1, under binary cross-entropy.
Must hold: accuracy 1.0, or a typed error that names the labels expected; never an accuracy of 0 without a word."""

import sys

import numpy as np
import torch
from torch import nn

from privfl.adapters.torch import TorchMeasure, TorchTrain, losses
from privfl.errors import PrivflError
from privfl.fl.metrics import finish

model = nn.Linear(1, 1, bias=False)
with torch.no_grad():
    model.weight.fill_(5.0)
x, wrong = np.array([[1], [-1], [1], [-1]], np.float32), []
for labels in ([1, 0, 1, 0], [1, -1, 1, -1], [2, 1, 2, 1]):
    rows = lambda client: (x, np.array(labels))
    try:
        train = TorchTrain(model, rows, loss=losses.binary_cross_entropy)
        reported = finish(TorchMeasure(model, rows, loss=losses.binary_cross_entropy)(train.initial(), 0))
        loss = train(train.initial(), 0, 1, np.random.default_rng(0)).metrics["loss"]
    except PrivflError as error:
        print(labels, "refused:", error)
        continue
    if reported["accuracy"] < 1 or loss < 0:
        wrong.append(f"{labels}: accuracy {reported['accuracy']}, training loss {loss:.3f}")
print("FAILS: " + "; ".join(wrong) if wrong else "holds")
sys.exit(bool(wrong))
