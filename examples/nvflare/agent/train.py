"""The training function that each site installs and pins: it adds one to each weight, as the client script does."""

import numpy as np

from privfl.fl import ClientUpdate


def make(data):
    """Return the training; this one needs no data."""

    def train(model, client, round, rng):
        return ClientUpdate(np.ones(len(model)), 1, {"weight_mean": float(np.mean(model + 1))})

    return train
