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
# # What do epsilon 1, 3 and 8 buy?
#
# Epsilon bounds what *any* attack can learn, so it says little about a particular one. Here one number is looked at
# from four sides, always against the server, which reads all that a masked sum shows it:
#
# - **what it promises**: the best that any test could do;
# - **an audit**: how much of that promise the worst client would use up;
# - **two attacks**: is this digit in the data? what does it look like?
# - **the price**: the accuracy that is left.
#
# The model is a softmax regression on handwritten digits (Alpaydin and Kaynak 1998). It is trained for one round of
# FedSGD, so all epsilon is in one release, and the same noise is behind every figure. The protected unit is a client
# with all its data.

# %%
import os

import matplotlib.pyplot as plt
import numpy as np

from privfl.experiment import AttackPlan, AuditPlan, Experiment, attack, audit
from privfl.report.attack import draw_inversion, draw_membership

QUICK = bool(os.environ.get("PRIVFL_QUICK"))
EPSILONS = (8.0, 3.0, 1.0)
plt.rcParams.update({"figure.dpi": 80, "legend.edgecolor": "none",
                     "axes.spines.top": False, "axes.spines.right": False})
DIGITS = {
    "data.name": "digits", "data.clients": 10, "data.test": "public",
    "client.update": "gradient", "rounds": 1, "evaluate_every": 0,
    "cohort.min_survivor_fraction": 1.0,
}

# %% [markdown]
# ## Is this digit in the data?
#
# Ten clients hold one digit each: the hardest case to protect. The server knows a digit, and asks whether the first
# client holds it, or another digit in its place. It scores what it sees by a likelihood ratio, fitted on digits of its
# own. In each trial the digits are dealt to the clients at random; the rounds are the real ones, noise included.

# %%
membership = attack(
    Experiment(overrides=DIGITS), "membership",
    plan=AttackPlan(epsilons=EPSILONS, trials=60 if QUICK else 500, examples=1),
)
figure = plt.figure(figsize=(10, 4.2), layout="constrained")
draw_membership(figure, membership)

# %%
print(f"{'server sees':14} {'AUC':>6} {'at most':>8} {'TPR at 1 %':>11} {'at most':>8}")
for case in membership.cases:
    auc, tpr = case.rates.auc, case.rates.tpr
    print(f"{case.name:14} {auc.value:6.2f} {auc.limit:8.2f}", end="")
    print(f" {tpr.value:11.2f} {tpr.limit:8.2f}")
answer = "yes" if membership.refuted else "no"
print("\na guess lies above what epsilon allows:", answer)

# %% [markdown]
# A plain update of one digit answers every time. The masked sum hides *whose* digit it was, but ten digits are few: the
# sum still answers almost every time. With noise the guesses fall below the dashed curves, which no test can exceed.
#
# "At most" is about an exchange: the client has other data in one world than in the other. That is two steps of the
# unit "a client is there or not", so it allows more than epsilon itself does.
#
# ## What does it look like?
#
# For softmax regression, the gradient of one image is a multiple of the image. From a sum at the zero model, the
# server gets the mean image of each class. The last line is a guess without any update: the mean of the server's own
# digits with this label.

# %% tags=["random"]
inversion = attack(
    Experiment(overrides=DIGITS), "inversion",
    plan=AttackPlan(epsilons=EPSILONS, images=2 if QUICK else 6),
)
figure = plt.figure(figsize=(7.4, 7.4), layout="constrained")
draw_inversion(figure, inversion)

# %%
for case in inversion.cases:
    print(f"{case.name:14} recovered {case.recovered} of {len(inversion.truths)}")

# %% [markdown]
# From the masked sum, digits that are alone in their class come out whole, and the others as the mean of their class.
# With noise nothing can be seen, at epsilon 8 either. A reconstruction that is worse than the guess gave the server
# nothing that it did not have.
#
# ## How much of the promise is used?
#
# Those attacks stay far below the bound. That does not mean that the bound is loose: it holds for the worst client,
# and an audit builds that client. Its contribution is as large as the clip allows, all in one direction, and all
# others contribute zeros.

# %%
def private(epsilon):
    """The run with the least noise in a masked sum for this epsilon."""
    return Experiment(overrides={
        **DIGITS, "sum.scheme": "masked", "privacy.placement": "private",
        "privacy.clip_norm": 0.2, "privacy.epsilon": epsilon,
    })


audits = {}
for epsilon in EPSILONS:
    plan = AuditPlan(trials=2000 if QUICK else 10_000, check=1, one_run=False)
    audits[epsilon] = audit(private(epsilon), observer="server", plan=plan)

figure, axis = plt.subplots(figsize=(6, 3))
for place, (epsilon, result) in enumerate(audits.items()):
    low, high = result.lower.epsilon, result.stated.epsilon
    axis.plot([low, high], [place, place], lw=6, color="#0072B2", solid_capstyle="butt")
    axis.text(high + 0.15, place, f"{low:.2f} to {high:.2f}", va="center")
axis.set(yticks=range(3), yticklabels=[f"epsilon {e:g}" for e in EPSILONS],
         xlim=(0, 10.5), ylim=(-0.6, 2.6),
         xlabel="the true epsilon lies in the bar (lower end: 95 % confidence)")
plt.tight_layout()

# %% [markdown]
# ## The price
#
# The same noise hides in a larger sum more cheaply. One hundred clients share about 1400 digits, fourteen each,
# and the same three noise multipliers are added to the sum of one hundred updates. All three sums give the same model
# to the last bit, so the plain one stands in for the masked one here; it is quicker. Each figure is the mean over
# seeds, and the bar their range.

# %%
SEEDS = range(2 if QUICK else 6)
CROWD = {**DIGITS, "data.clients": 100, "privacy.clip_norm": 1.0}


def accuracies(**overrides):
    runs = (Experiment(seed=seed, overrides={**CROWD, **overrides}) for seed in SEEDS)
    return np.array([run.run().accuracy for run in runs])


prices = {"no noise": accuracies()}
for epsilon in EPSILONS:
    multiplier = private(epsilon).config.privacy.noise_multiplier
    prices[f"epsilon {epsilon:g}"] = accuracies(**{
        "privacy.placement": "distributed", "privacy.noise": "simulation",
        "privacy.noise_multiplier": multiplier,
    })

figure, axis = plt.subplots(figsize=(6, 3))
for place, (name, values) in enumerate(prices.items()):
    axis.bar(place, values.mean(), width=0.6, color="#D55E00" if place else "#999999")
    axis.plot([place, place], [values.min(), values.max()], color="black")
    axis.text(place + 0.05, values.max() + 0.02, f"{values.mean():.2f}")
axis.axhline(0.1, color="gray", ls=":")
axis.set(xticks=range(len(prices)), xticklabels=prices, ylim=(0, 1),
         ylabel="accuracy on public digits")
plt.tight_layout()

# %% [markdown]
# ## Side by side

# %%
print("             true epsilon   membership AUC   recovered   accuracy, 100 clients")
lines = zip(membership.cases[1:], inversion.cases[1:], prices.items())
for case, images, (name, values) in lines:
    found = f"{images.recovered} of {len(inversion.truths)}"
    result = audits.get(float(name.split()[-1])) if name != "no noise" else None
    span = "infinite"
    if result:
        span = f"{result.lower.epsilon:.2f} to {result.stated.epsilon:.2f}"
    area = case.rates.auc.value
    print(f"{name:12} {span:>13} {area:16.2f} {found:>11} {values.mean():15.2f}")

# %% [markdown]
# ## What was shown, and what was not
#
# Shown: without noise, a plain update of one digit is the digit, and a masked sum of few digits still reveals most of
# them. Noise of any of the three sizes ended both attacks on single digits, or nearly so, and a hundred clients paid
# for it in accuracy. The worst client uses up most of the promise.
#
# Not shown: that no better attack exists. An attack that fails proves nothing; only epsilon speaks about all of them.
# These attackers see one round, and the epsilon of many rounds grows. A model with more parameters, other data or
# fewer clients pays another price. `privfl attack` answers for a configuration of yours, and docs/attack.md says how.
