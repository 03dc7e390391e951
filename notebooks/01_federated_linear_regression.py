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
# # Federated linear regression
#
# Five clinics want one line through their patients: body mass index against the progression of diabetes after a year.
# No clinic shows its patients to anybody. We do federated averaging by hand first, and then with privfl.
#
# Data: 442 patients of Efron, Hastie, Johnstone and Tibshirani (2004), bundled with scikit-learn.

# %%
import os

import matplotlib.pyplot as plt
import numpy as np

from privfl.data import Dataset, Grouping, load
from privfl.experiment import Experiment

QUICK = bool(os.environ.get("PRIVFL_QUICK"))
ROUNDS = 4 if QUICK else 40
STEPS, LEARNING_RATE = 10, 0.2
COLORS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9"]
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
# ## Five clinics that differ
#
# The clinics are ours: we deal the patients out so that each clinic sees its own range of body mass index, as a
# pediatric ward and an obesity clinic would. Units are changed by public constants, not by the data.

# %%
raw = load("diabetes")
bmi = raw.features[:, raw.feature_names.index("bmi")]
order = np.argsort(bmi + np.random.default_rng(0).normal(0, 2.0, raw.example_count))
clinic = np.empty(raw.example_count, np.int64)
for index, rows in enumerate(np.array_split(order, [60, 150, 280, 370])):
    clinic[rows] = index
names = tuple("ABCDE")
patients = Dataset(
    "diabetes by clinic",
    "regression",
    ((bmi - 26) / 5)[:, None].astype(np.float32),
    ((raw.targets - 150) / 75).astype(np.float32),
    groupings=(Grouping("clinic", clinic, names),),
)
settings = {
    "data.partition": "natural",
    "rounds": ROUNDS,
    "evaluate_every": 0,  # at the end only
    "client.learning_rate": LEARNING_RATE,
    "client.epochs": STEPS,
}
plain = Experiment(name="plain", data=patients, overrides=settings)
clients = range(len(names))
print("patients to train on:", dict(zip(names, plain.federation.sizes.tolist())))

# %% [markdown]
# ## FedAvg by hand
#
# In each round every clinic starts at the shared line, takes ten gradient steps on its own patients, and sends back
# how far it moved. The server takes the mean of these moves, weighted by the number of patients.

# %%
line, by_hand = np.zeros(2), [np.zeros(2)]  # slope, intercept
for _ in range(ROUNDS):
    moves, weights = [], []
    for client in clients:
        x, y = (part.astype(np.float64) for part in plain.federation.train(client))
        local = line.copy()
        for _ in range(STEPS):
            error = x[:, 0] * local[0] + local[1] - y
            local -= LEARNING_RATE * np.array([(error * x[:, 0]).mean(), error.mean()])
        moves.append(local - line)
        weights.append(len(y))
    line = line + np.average(moves, axis=0, weights=weights)
    by_hand.append(line)
print("slope and intercept after", ROUNDS, "rounds:", line.round(4))

# %% [markdown]
# ## The same with privfl, three times
#
# Once over the plain sum, where the server reads every move, once over the masked sum, where it reads none, and once
# under CKKS, where it has no key. The moves travel as integers, so the three must agree to the last bit.

# %%
lines = {}
for scheme in ("plain", "masked", "ckks"):
    run = (
        plain
        if scheme == "plain"
        else Experiment(
            name=scheme, data=patients, overrides={**settings, "sum.scheme": scheme}
        )
    )
    last = list(run.run())[-1]
    lines[scheme] = np.stack([version.model for version in run.store.lineage()])
    print(
        f"{scheme:7} slope {lines[scheme][-1][0]:.6f}, R2 on the clinics' own test "
        "patients "
        f"{last.evaluation['r2']:.3f}, {last.bytes_up / len(names):,.0f} bytes up "
        "per clinic and round"
    )
print(
    "plain, masked and CKKS agree to the last bit:",
    all(np.array_equal(lines["plain"], lines[s]) for s in lines),
)
print(
    "greatest difference from the line by hand: "
    f"{abs(lines['plain'] - by_hand).max():.1e} (fixed-point rounding)"
)

# %%
x_all, y_all = (part.astype(np.float64) for part in plain.federation.all_train())
design = np.column_stack([x_all[:, 0], np.ones(len(y_all))])
pooled = np.linalg.lstsq(design, y_all, rcond=None)[0]
grid = np.linspace(-1.8, 3.2, 50)


def units(x, y):
    return 26 + 5 * x, 150 + 75 * y


figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), sharey=True)
for client in clients:
    x, y = plain.federation.train(client)
    left.plot(
        *units(x[:, 0], y),
        ".",
        color=COLORS[client],
        markersize=4,
        label=f"clinic {names[client]}",
    )
    own = np.polyfit(x[:, 0], y, 1)
    span = np.array([x.min(), x.max()])
    left.plot(*units(span, np.polyval(own, span)), color=COLORS[client], linewidth=2.5)
left.set(
    title="What each clinic would learn alone",
    xlabel="body mass index (kg/m²)",
    ylabel="disease progression after one year (score)",
)
left.legend(
    fontsize=8, markerscale=2, loc="upper left", bbox_to_anchor=(0, 1.0), ncols=2
)
shown = [r for r in (0, 1, 2, 4, 8, ROUNDS) if r <= ROUNDS]
for client in clients:
    x, y = plain.federation.train(client)
    right.plot(*units(x[:, 0], y), ".", color="0.8", markersize=4, zorder=1)
for shade, at in zip(np.linspace(0.25, 1, len(shown)), shown):
    right.plot(
        *units(grid, np.polyval(lines["masked"][at], grid)),
        color=plt.cm.viridis_r(shade),
        label=f"round {at}",
    )
right.plot(
    *units(grid, np.polyval(pooled, grid)),
    "k--",
    linewidth=1,
    label="all patients in one place",
)
right.set(title="The shared line, round by round", xlabel="body mass index (kg/m²)")
right.legend(fontsize=8, loc="upper left")
plt.tight_layout()

# %%
distance = np.linalg.norm(lines["masked"] - pooled, axis=1)
plt.figure(figsize=(6, 3))
plt.semilogy(distance, "o-", color=COLORS[0], markersize=3)
plt.xlabel("round")
plt.yticks([0.02, 0.05, 0.1, 0.2, 0.5], ["0.02", "0.05", "0.1", "0.2", "0.5"])
plt.minorticks_off()
plt.ylabel("distance to the pooled line\n(standardized units)")
plt.title(f"Ten local steps a round stop {distance[-1]:.3f} from the pooled line")
plt.tight_layout()

# %% [markdown]
# ## What was shown, and what was not
#
# Shown: FedAvg is a few lines; privfl gives the same line; hiding the moves behind masks or under encryption changes
# not one bit of it. Ten local steps per round pull each clinic towards its own line, so FedAvg stops *near* the
# pooled line, not on it.
#
# Not shown: privacy of the *result*. The shared line itself depends on every patient; only noise limits what it
# tells (notebook 02). The clinics here are made up from one study.
