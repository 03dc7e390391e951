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
# # Your own data, end to end
#
# A CSV file of twelve clinics becomes a model with an epsilon that holds against the server, and a report. On the way:
# what a schema declares, what a refusal looks like, and what the noise costs.
# Put a file of your own in place of the one that the first cell makes.

# %%
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from privfl.data import propose
from privfl.data.inspect import with_ranges
from privfl.errors import PrivflError
from privfl.experiment import Client, Data, Experiment, Privacy, Sum
from privfl.experiment.inspection import schema_text
from privfl.report.page import write_report
from privfl.report.run import read_run

QUICK = bool(os.environ.get("PRIVFL_QUICK"))
ROUNDS = 3 if QUICK else 10
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
scratch = TemporaryDirectory()
folder = Path(scratch.name)
rng = np.random.default_rng(4)


def patients(count):
    """Patients of twelve clinics: four are large, and some values are missing."""
    sizes = np.r_[np.full(4, 3.0), np.ones(8)]
    clinic = rng.choice(12, count, p=sizes / sizes.sum())
    age = rng.integers(20, 95, count)
    glucose = np.round(rng.normal(105, 25, count) + 6 * (clinic % 3), 1)
    smoker = rng.choice(["no", "yes", "former"], count, p=[0.6, 0.25, 0.15])
    risk = (age - 58) / 14 + (glucose - 110) / 22 + 0.8 * (smoker == "yes")
    ill = np.where(risk + rng.normal(0, 0.8, count) > 0.2, "yes", "no")
    glucose[rng.random(count) < 0.03] = np.nan
    return pd.DataFrame(
        {
            "clinic": [f"clinic {1 + n}" for n in clinic],
            "age": age,
            "glucose": glucose,
            "smoker": smoker,
            "ill": ill,
        }
    )


patients(2400).to_csv(folder / "patients.csv", index=False)
patients(800).to_csv(folder / "public.csv", index=False)
(folder / "patients.csv").read_text().splitlines()[:4]

# %% [markdown]
# ## Look at it
# `propose` reads the file once, in pieces, and proposes a schema. The same as a command: `privfl data inspect`.

# %%
found = propose(folder / "patients.csv", "ill", "clinic")
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
left.barh(list(found.clients), list(found.clients.values()), color="#0072B2")
left.set(title="Patients of each clinic", xlabel="patients")
left.invert_yaxis()
right.bar(list(found.labels), list(found.labels.values()), color="#E69F00", width=0.5)
right.set(title="Labels", xlabel="ill", ylabel="patients")
plt.show()
print(schema_text(found, "patients.csv"))

# %% [markdown]
# ## A refusal says what to do
# These categories were read from everybody's patients. In a run that claims privacy that would be a release without
# noise, so privfl refuses it. The error names the command and the key.

# %%
privacy = Privacy("distributed", adjacency="zero_out", clip_norm=1.0, epsilon=8.0)
own = {"target": "ill", "client": "clinic", "standardize": "public"}
try:
    Experiment(data=Data(str(folder / "patients.csv"), **own), privacy=privacy)
except PrivflError as error:
    print(str(error).replace(str(folder) + "/", ""))

# %% [markdown]
# ## Declare it
# Ages lie between 0 and 120, and glucose between 40 and 300: everybody knows that without a look at the patients. The
# ranges go into the schema, and the schema into a file that everybody may read. A range that nobody knows can be asked
# for with noise (docs/own-data.md). Public patients to test on are a file of their own, so accuracy costs no privacy.

# %%
declared = with_ranges(found, {"age": (0, 120), "glucose": (40, 300)})
(folder / "schema.toml").write_text(schema_text(declared, "patients.csv"))
data = Data(
    str(folder / "patients.csv"),
    schema=str(folder / "schema.toml"),
    test_path=str(folder / "public.csv"),
    standardize="public",
)
client = Client(steps=30, batch_size=32, learning_rate=1.0)

# %% [markdown]
# ## Train, with more and with less noise
# Every run goes through the masked sum, and every clinic adds its part of the noise before it masks.


# %%
def train(**settings):
    return Experiment(
        data=data,
        client=client,
        sum=Sum("masked"),
        rounds=ROUNDS,
        runs=folder / "runs",
        **settings,
    )


plain = train(overrides={"name": "plain", "data.test": "public"})
accuracy = {"no noise": plain.run().accuracy}
for target in (2.0, 4.0, 8.0):
    noise = Privacy("distributed", adjacency="zero_out", clip_norm=1.0, epsilon=target)
    run = train(privacy=noise, overrides={"name": f"epsilon-{target:g}"})
    accuracy[f"epsilon {target:g}"] = run.run().accuracy
constant = found.labels["no"] / found.examples
figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
colors = ["#009E73", *["#0072B2"] * 3]
bars = axes.bar(list(accuracy), list(accuracy.values()), color=colors, width=0.6)
axes.bar_label(bars, fmt="%.2f")
axes.axhline(
    max(constant, 1 - constant),
    color="#555555",
    linestyle="--",
    label="always the more frequent label",
)
axes.set(
    ylim=(0.4, 1.0),
    ylabel="fraction of public patients correct",
    title="What the noise costs twelve clinics",
)
axes.legend(loc="lower right")
plt.show()

# %% [markdown]
# ## What it guarantees, and against whom
# Against the server itself, because the sum that it opens is noisy already.

# %%
report = run.epsilon("server")
print(report)
errors = int(100 * report.bayes_risk())
print(f"A guess whether a clinic took part is wrong in at least {errors} of 100 cases.")

# %% [markdown]
# ## The report
# One file, without scripts: curves, the privacy card, what each party saw. `privfl report epsilon-8` writes the same.

# %%
page = write_report(read_run(run.files), folder / "report.html")
print(f"{page.name} is written")
scratch.cleanup()

# %% [markdown]
# ## What was shown, and what was not
# Shown: a file becomes a federation of clinics by a schema that everybody may read, a refusal names its remedy, and the
# stated epsilon holds against the server. Not shown: clinics on machines of their own (docs/deploy.md), and the cost of
# choosing among runs. Three budgets were tried on the same patients, and each figure is of one run alone.
