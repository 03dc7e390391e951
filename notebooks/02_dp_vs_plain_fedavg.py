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
# # What privacy costs: DP-FedAvg against plain FedAvg
#
# Twenty hospitals train a logistic regression on the Wisconsin breast cancer data (569 tumors, 30 measurements). We
# add noise in three places and look at accuracy against epsilon:
#
# - **central**: noise on the sum, added where the sum is opened;
# - **distributed**: each hospital adds a share of the noise, and only their sum is ever opened;
# - **local**: each hospital adds all of the noise itself.
#
# The protected unit is a *hospital with all its data*. All hyper-parameters are fixed beforehand and equal in all arms.

# %%
import os

import matplotlib.pyplot as plt
import numpy as np

from privfl.experiment import Experiment

QUICK = bool(os.environ.get("PRIVFL_QUICK"))
SEEDS = range(1 if QUICK else 3)
MULTIPLIERS = [2.0] if QUICK else [8.0, 4.0, 2.0, 1.0]
COLORS = {"central": "#0072B2", "distributed": "#009E73", "local": "#D55E00"}
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
FEDERATION = {
    "data.name": "breast_cancer",
    "data.clients": 20,
    # hospitals differ in how many malignant tumors they see
    "data.partition": "dirichlet:1",
    "data.min_examples": 10,
    # by ranges that were published with the data: costs no privacy
    "data.standardize": "public",
    "data.test": "public",
    "client.steps": 20,
    "client.batch_size": 16,
    "client.learning_rate": 1.0,
    "rounds": 4 if QUICK else 10,
    "evaluate_every": 0,
    "cohort.min_survivor_fraction": 0.9,
}


def accuracy(seed, **overrides):
    run = Experiment(name="run", seed=seed, overrides={**FEDERATION, **overrides})
    return list(run.run())[-1].evaluation["accuracy"], run


# %% [markdown]
# ## Without noise
#
# Two yardsticks: all data in one place, and plain FedAvg.

# %%
pooled = np.mean([accuracy(seed, **{"data.clients": 1})[0] for seed in SEEDS])
fedavg = np.mean([accuracy(seed)[0] for seed in SEEDS])
print(f"pooled {pooled:.3f}, plain FedAvg {fedavg:.3f} (mean over {len(SEEDS)} seeds)")

# %% [markdown]
# ## With noise
#
# `noise_multiplier` is the noise's standard deviation over the clipping norm. Epsilon is read from each run's ledger.

# %% tags=["random"]
points = {placement: [] for placement in COLORS}
for placement, row in points.items():
    for multiplier in MULTIPLIERS:
        noise = {
            "privacy.placement": placement,
            "privacy.clip_norm": 1.0,
            "privacy.noise_multiplier": multiplier,
        }
        results, runs = zip(*(accuracy(seed, **noise) for seed in SEEDS))
        row.append((runs[0].epsilon().epsilon, np.mean(results), np.std(results)))
    print(
        f"{placement:12}",
        "  ".join(
            f"epsilon {e:5.2f}: {100 * m:.1f} ± {100 * s:.1f} %" for e, m, s in row
        ),
    )

# %%
figure, axes = plt.subplots(figsize=(7.5, 4.2))
for placement, row in points.items():
    epsilons, means, deviations = np.array(row).T
    axes.errorbar(
        epsilons,
        100 * means,
        100 * deviations,
        fmt="o-",
        color=COLORS[placement],
        capsize=3,
        markersize=5,
        label=f"{placement} noise",
    )
axes.axhline(
    100 * fedavg,
    color="0.25",
    linestyle="--",
    linewidth=1.2,
    label="plain FedAvg (no epsilon)",
)
axes.axhline(
    100 * pooled,
    color="0.25",
    linestyle=":",
    linewidth=1.2,
    label="pooled (no epsilon)",
)
axes.set_xscale("log")
ticks = [1.5, 3, 5, 8, 12, 20]
axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
axes.minorticks_off()
axes.set(
    xlabel="epsilon at delta = 1e-5, per run (outsider; unit: a hospital, add or "
    "remove)",
    ylabel="accuracy on 113 public test tumors (%)",
    title=f"Mean and standard deviation over {len(SEEDS)} seeds",
)
axes.legend(loc="lower right", fontsize=9)
plt.tight_layout()

# %% [markdown]
# ## The same noise promises different things to different observers
#
# Epsilon depends on who looks. The server of a plain sum reads every vector, so noise that is added later does not
# protect anybody from *it*. Under masks it sees the sum alone, and distributed noise is already inside.

# %%
ROUNDS = 1 if QUICK else 4
print(f"epsilon after {ROUNDS} rounds\n")
print(f"{'noise':12} {'sum':7} {'outsider':>9} {'participant':>12} {'server':>9}")
for placement, scheme in [
    ("central", "plain"),
    ("central", "masked"),
    ("distributed", "plain"),
    ("distributed", "masked"),
    ("local", "plain"),
]:
    _, run = accuracy(
        0,
        **{
            "privacy.placement": placement,
            "privacy.clip_norm": 1.0,
            "privacy.noise_multiplier": 4.0,
            "sum.scheme": scheme,
            "rounds": ROUNDS,
        },
    )
    seen = [
        run.epsilon(observer).epsilon
        for observer in ("outsider", "participant", "server")
    ]
    print(f"{placement:12} {scheme:7} {seen[0]:9.2f} {seen[1]:12.2f} {seen[2]:9.2f}")
print()
print(run.epsilon("server").sentence)

# %% [markdown]
# ## What was shown, and what was not
#
# Shown: central noise costs least. Distributed noise costs somewhat more, because the shares of an observer and of
# absent hospitals must not be counted on, and in return nobody opens a sum without noise. Local noise costs most,
# because twenty full portions add up. Who the observer is matters as much as the number.
#
# Not shown: privacy of single patients (the unit is a hospital, which covers all its patients *and* is harder). Each
# epsilon is for one run: trying several settings or seeds on the same data, as this notebook does, would cost their
# sum. With 113 test tumors a difference of two points is within chance.
