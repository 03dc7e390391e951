"""OpacusTrain over examples of which one is NaN, infinite, or so large that its gradient overflows.
Must hold: the update stays finite, so that the noise hides whether the example is there, as epsilon states."""

import sys
import warnings

import numpy as np
from torch import nn

from privfl.adapters.opacus import OpacusTrain

warnings.simplefilter("ignore")
rng = np.random.default_rng(0)
x = rng.normal(size=(200, 5)).astype(np.float32)
y = (x[:, 0] > 0).astype(np.int64)
wrong = []
for value in (np.nan, np.inf, 3e38):
    rows = np.vstack([x, np.full((1, 5), value, np.float32)]), np.append(y, 0)
    train = OpacusTrain(
        nn.Linear(5, 2), lambda client: rows, clip_norm=1.0, noise_multiplier=1.0, batch_size=50, steps=20
    )
    update = train(train.initial(), 0, 0, np.random.default_rng(1))
    if not np.isfinite(update.delta).all():
        wrong.append(f"{value:g} (stated epsilon {train.report(0, 1e-5).epsilon:.2f})")
print("FAILS: the update is not finite with one row of " + ", ".join(wrong) if wrong else "holds")
sys.exit(bool(wrong))
