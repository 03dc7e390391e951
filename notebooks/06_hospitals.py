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
# # Four hospitals
#
# Heart disease, collected in Cleveland, Hungary, Switzerland and Long Beach (Detrano et al. 1989; UCI), with what real
# federations bring: unequal sizes, values that were never measured, and a hospital whose training patients are all of
# one class. Where the data folder is absent (`PRIVFL_DATA`), four hospitals of the same kind are made from the bundled
# breast cancer data.

# %%
import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from privfl.data import Channel, Dataset, Grouping, exact_standardizer, load, partition
from privfl.errors import DataError
from privfl.experiment import Experiment
from privfl.fl.metrics import finish
from privfl.report.page import write_report
from privfl.report.run import read_run
from privfl.ring import Ring
from privfl.secagg import MaskedSum, generate_identities

QUICK = bool(os.environ.get("PRIVFL_QUICK"))
ROUNDS = 3 if QUICK else 15
COLORS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7"]
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


# %%
def heart():
    """Heart data; cholesterol and pressure of 0 were not measured: missing values."""
    found = load("heart")
    features = found.features.copy()
    for name in ("chol", "trestbps"):
        column = features[:, found.feature_names.index(name)]
        column[column == 0] = np.nan
    return found.with_features(features)


def stand_in():
    """Four unequal hospitals: one has one class only, one never measured texture."""
    found = load("breast_cancer")
    hospital = np.random.default_rng(0).choice(
        3, found.example_count, p=[0.5, 0.3, 0.2]
    )
    hospital[np.flatnonzero(found.targets == 0)[:40]] = 3
    features = found.features.copy()
    features[hospital == 3, found.feature_names.index("mean texture")] = np.nan
    names = ("first", "second", "third", "fourth")
    return Dataset(
        found.name,
        "binary",
        features,
        found.targets,
        found.feature_names,
        found.classes,
        groupings=(Grouping("hospital", hospital, names),),
    )


try:
    dataset = heart()
except DataError:
    dataset = stand_in()
federation = partition(dataset, "natural")
names, hospitals = federation.names, range(len(federation.names))
print(f"{dataset.name}: {dataset.example_count} patients, {dataset.width} features\n")
print(
    f"{'hospital':12} {'train':>6} {'test':>5} {dataset.classes[1] + ' (train)':>18} "
    f"{'missing values':>15}"
)
for hospital in hospitals:
    x, y = federation.train(hospital)
    print(
        f"{names[hospital]:12} {len(y):6} {len(federation.clients[hospital].test):5} "
        f"{y.mean():18.0%} "
        f"{np.isnan(x).mean():15.1%}"
    )

# %% [markdown]
# ## Preprocessing through the secure sum
#
# Standardization needs the mean and deviation over *all* patients. Each hospital adds up its own measured values,
# their squares and their number; the masked sum adds these up. The server learns three totals a feature. Missing
# values do not count, and become the common mean.

# %%
credentials, directory = generate_identities(hospitals)
traffic = []
channel = Channel(
    MaskedSum(directory),
    Ring(64),
    credentials=credentials,
    tap=lambda direction, hospital, message: traffic.append(len(message)),
)
constants = exact_standardizer(federation, channel)
pooled = federation.all_train()[0].astype(np.float64)
print(
    "as if all patients were in one place:",
    np.allclose(constants.mean, np.nanmean(pooled, 0), rtol=1e-12)
    and np.allclose(constants.std, np.nanstd(pooled, 0), rtol=1e-12),
)
print(f"{len(traffic)} messages, {sum(traffic) / 1000:.1f} kB in all")

# %%
shown = [
    dataset.feature_names.index(n)
    for n in (
        ("age", "chol", "thalach")
        if dataset.name == "heart"
        else ("mean radius", "mean texture", "mean smoothness")
    )
]
units = {
    "age": "age (years)",
    "chol": "serum cholesterol (mg/dl)",
    "thalach": "greatest heart rate (1/min)",
    "mean radius": "mean radius (pixels)",
    "mean texture": "mean texture (gray levels)",
    "mean smoothness": "mean smoothness (no unit)",
}
figure, axes = plt.subplots(1, 3, figsize=(11, 3), sharey=True)
for axis, feature in zip(axes, shown):
    for hospital in hospitals:
        column = federation.train(hospital)[0][:, feature]
        column = column[~np.isnan(column)]
        if len(column):
            low, middle, high = np.percentile(column, [10, 50, 90])
            axis.plot([low, high], [hospital] * 2, color=COLORS[hospital], linewidth=3)
            axis.plot(middle, hospital, "o", color=COLORS[hospital], markersize=7)
        else:
            axis.text(
                constants.mean[feature],
                hospital,
                "never measured",
                ha="center",
                va="center",
                color="0.4",
                backgroundcolor="white",
            )
    axis.axvline(constants.mean[feature], color="0.3", linestyle="--", linewidth=1)
    axis.set(xlabel=units[dataset.feature_names[feature]], ylim=(3.5, -0.5))
axes[0].set_yticks(list(hospitals), names)
figure.suptitle(
    "Median and 10-90 % range by hospital; dashed: the mean that came through the "
    "masked sum",
    fontsize=11,
)
plt.tight_layout()

# %% [markdown]
# ## Training
#
# Logistic regression, 15 rounds of 20 local steps, weighted by the number of patients, over the masked sum.
# `data.standardize = "exact"` does what we did above. For comparison each hospital also trains alone, with as many steps.

# %%
settings = {
    "data.standardize": "exact",
    "client.steps": 20,
    "client.batch_size": 16,
    "client.learning_rate": 0.01,
}
shared = Experiment(
    name="shared",
    data=dataset,
    rounds=ROUNDS,
    overrides={**settings, "data.partition": "natural", "sum.scheme": "masked"},
)
reports = list(shared.run())
accuracy = [
    finish(shared.learner.measure(shared.model, hospital))["accuracy"]
    for hospital in hospitals
]
alone = []
for hospital in hospitals:
    only = Dataset(
        names[hospital],
        "binary",
        *(
            np.concatenate(parts)
            for parts in zip(
                federation.train(hospital), federation.local_test(hospital)
            )
        ),
        classes=dataset.classes,
        test=len(federation.clients[hospital].train)
        + np.arange(len(federation.clients[hospital].test)),
    )
    single = Experiment(
        name="alone",
        data=only,
        rounds=ROUNDS,
        overrides={**settings, "data.clients": 1, "evaluate_every": 0},
    )
    alone.append(list(single.run())[-1].evaluation["accuracy"])
print(f"{'hospital':12} {'alone':>7} {'shared':>7}")
for hospital in hospitals:
    print(f"{names[hospital]:12} {alone[hospital]:7.1%} {accuracy[hospital]:7.1%}")
print(f"{'mean':12} {np.mean(alone):7.1%} {np.mean(accuracy):7.1%}")

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.4))
tests = [len(client.test) for client in federation.clients]
left.bar(
    np.array(hospitals) - 0.2,
    100 * np.array(alone),
    0.38,
    color="0.75",
    label="trained alone",
)
left.bar(
    np.array(hospitals) + 0.2,
    100 * np.array(accuracy),
    0.38,
    color="#0072B2",
    label="shared model",
)
left.set_xticks(
    list(hospitals), [f"{n}\n{count} patients" for n, count in zip(names, tests)]
)
left.set(ylabel="accuracy on own test patients (%)", ylim=(0, 119))
left.legend(loc="upper center", ncols=2, fontsize=9)
right.plot(
    [r.round for r in reports],
    [100 * r.evaluation["accuracy"] for r in reports],
    "o-",
    color="#0072B2",
    markersize=4,
    label="accuracy",
)
right.plot(
    [r.round for r in reports],
    [100 * r.evaluation["auc"] for r in reports],
    "s-",
    color="#E69F00",
    markersize=4,
    label="area under the ROC curve",
)
right.set(
    xlabel="round",
    ylabel="value (%)",
    ylim=(50, 100),
    title="Shared model, all test patients, summed under masks",
)
right.title.set_fontsize(10)
right.xaxis.set_major_locator(plt.MaxNLocator(integer=True))
right.legend(loc="lower right", fontsize=9)
plt.tight_layout()

# %% [markdown]
# ## The report of the run
#
# `write_report` makes one page of it that needs neither network nor script; `privfl report` does the same.

# %%
last = reports[-1]
print(f"model        {last.model[:16]}..., parent {last.parent[:16]}...")
print(
    f"rounds       {len(reports)}, all trained: "
    f"{all(r.status == 'trained' for r in reports)}"
)
print(f"hospitals    {last.cohort}, of whom {last.survivors} in the last sum")
print(
    f"bytes        {last.bytes_up / len(names):,.0f} up and "
    f"{last.bytes_down / len(names):,.0f} down per hospital and round"
)
print(
    "metrics      "
    + ", ".join(f"{name} {value:.3f}" for name, value in last.evaluation.items())
)
print(
    "server saw   masked vectors and their sum; no hospital's update, size, mean or "
    "metric"
)
print("epsilon      none: no noise was added, so nothing is claimed")
page = write_report(read_run(shared.folder), Path("hospitals.html"))
print(f"\n{page.name}: {page.stat().st_size / 1000:.0f} kB")

# %% [markdown]
# ## What was shown, and what was not
#
# Shown: standardization and evaluation go through the same secure sum as training; missing values and a hospital of a
# single class give no NaN and no crash.
#
# Not shown: privacy of the result. The exact means and the model carry no noise; with four hospitals a private model
# at the hospital's level would be useless, and privacy of single patients is example-level DP inside each hospital.
# Test sets of 16 to 104 patients carry errors of 4 to 12 points: single bars should not be compared closely. The
# one-class hospital alone does well on its own test patients only because almost all of them are ill.
