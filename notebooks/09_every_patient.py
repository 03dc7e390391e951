# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Five hospitals, one model, every patient
#
# Five hospitals train a logistic regression on the Wisconsin breast cancer data. So far the protected unit was a
# *hospital with all its patients*. A patient asks about one person. We look at three ways to protect that person
# against the **server**, and at what each costs:
#
# - **trusted server**: central DP-SGD, whose server sees the gradients before the noise (its epsilon is infinite);
# - **through the sum**: every hospital samples its own patients, clips each gradient, and adds its part of the noise
#   inside a masked sum;
# - **independent**: every hospital adds all of the noise that its own patients need.

# %%
import os

import matplotlib.pyplot as plt
import numpy as np

from privfl.dp import History, Poisson, PrivacyUnit, calibrate, epsilon
from privfl.experiment import Data, Experiment, Privacy, Server, Sum

QUICK = bool(os.environ.get("PRIVFL_QUICK"))
EPSILONS = [1.0] if QUICK else [0.25, 0.5, 1.0, 3.0]
SEEDS = range(1 if QUICK else 2)
STEPS, Q, EXPECTED, DELTA = 5 if QUICK else 25, 0.1, 45.0, 1e-4
COLORS = {
    "trusted server": "#0072B2",
    "through the sum": "#009E73",
    "independent": "#D55E00",
}
plt.rcParams.update(
    {
        "figure.dpi": 80,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.25,
        "legend.edgecolor": "none",
    }
)

# %% [markdown]
# ## One run through the sum
# A round is one step of SGD over the patients that the hospitals sample. `denominator` is a public constant: the number of
# patients that we expect in a step. Nobody learns how many there were.


# %% tags=["random"]
def run(arm, target, seed, sites=5):
    noise = calibrate(
        epsilon=target,
        delta=DELTA,
        sampling=Poisson(Q),
        rounds=STEPS,
        unit=PrivacyUnit("example"),
        draw_known_to="site",
    ).noise_multiplier
    if arm == "independent":
        noise *= np.sqrt(sites)  # five noises of one size add up to this
    through = arm == "through the sum"
    privacy = Privacy(
        "mesh" if through else "central",
        unit="example",
        clip_norm=1.0,
        sampling_probability=Q,
        denominator=EXPECTED,
        noise_multiplier=noise,
        delta=DELTA,
    )
    return Experiment(
        seed=seed,
        rounds=STEPS,
        evaluate_every=0,
        data=Data("breast_cancer", clients=sites, standardize="public", test="public"),
        server=Server(eta=2.0),
        sum=Sum("masked" if through else "plain"),
        privacy=privacy,
    )


one = run("through the sum", 1.0, seed=0)
result = one.run()
print(f"accuracy {result.accuracy:.3f}")
print(one.epsilon("server").sentence)

# %% [markdown]
# ## Who is the observer?
# The ledger says `draw_known_to: site`: which patients a step samples is known to their own hospital only. So the server
# and the other hospitals get the same figure as an outsider. If they knew the batches, sampling would protect nobody.

# %%
for observer in ("outsider", "participant", "server"):
    print(f"{observer:12} epsilon {one.epsilon(observer).epsilon:.3f}")
releases = one.files.ledger.releases
print(
    "unit:",
    one.epsilon().unit.level,
    "| draws known to:",
    {r.draw_known_to for r in releases},
)

# %% [markdown]
# A patient who was treated at two of the hospitals is sampled by two independent coins. The same ledger states her figure.

# %%
for sites in (1, 2, 3):
    report = epsilon(
        History.of(one.files.ledger), DELTA, observer="server", group=sites
    )
    print(
        f"a person known to {sites} of the hospitals: epsilon {report.epsilon:.2f}"
    )

# %% [markdown]
# ## What it costs

# %% tags=["random"]
accuracy = {
    arm: [
        [run(arm, target, seed).run().accuracy for seed in SEEDS] for target in EPSILONS
    ]
    for arm in COLORS
}
for arm, rows in accuracy.items():
    print(f"{arm:16}", "  ".join(f"{np.mean(row):.3f}" for row in rows))

# %% tags=["random"]
figure, axes = plt.subplots(figsize=(7, 4))
for arm, rows in accuracy.items():
    mean, low, high = (
        np.array([f(row) for row in rows]) for f in (np.mean, np.min, np.max)
    )
    axes.plot(EPSILONS, mean, "o-", color=COLORS[arm], label=arm)
    axes.fill_between(EPSILONS, low, high, color=COLORS[arm], alpha=0.15)
axes.set(
    xscale="log",
    xlabel="epsilon of one patient",
    ylabel="accuracy on public test patients",
)
axes.set_title("The sum is as accurate as a server that everybody trusts")
axes.legend()
figure.tight_layout()
plt.show()

# %% [markdown]
# A linear model feels little of it. `docs/patients.md` has MNIST: a network loses 3 points with independent sites, and a
# third of a point through the sum.
#
# ## Several local steps?
# They are refused. Without noise between them, later gradients follow the first ones, and one patient could move the update
# by far more than the clip.

# %%
from privfl.errors import PrivflError
from privfl.experiment import Client

try:
    Experiment(
        client=Client(steps=5),
        privacy=Privacy(
            "central",
            unit="example",
            clip_norm=1.0,
            sampling_probability=Q,
            denominator=EXPECTED,
            noise_multiplier=1.0,
        ),
    )
except PrivflError as error:
    print(error)

# %% [markdown]
# ## What was shown, and what was not
#
# Shown: the server's figure for one patient is that of a trusted server's outsider, at nearly the same accuracy, and a
# patient of several hospitals has a figure of her own. Every hospital that adds all noise by itself pays for it.
#
# Not shown: what the time of a hospital's answer reveals, which has to be hidden elsewhere. Each epsilon is for one run:
# trying several settings on the same data, as this notebook does, would cost their sum. With 114 test tumors and two
# seeds, a difference of two points is within chance.
