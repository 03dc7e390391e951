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
# # What the server sees
#
# Eight clients hold a few handwritten digits each. They train one step, and their updates travel to the server as a
# plain sum, a masked sum, and a CKKS sum. We stand beside the server, record every byte, and try to get the digits
# back. Data: Alpaydin and Kaynak (1998), 8 × 8 pixels, bundled with scikit-learn.

# %%
import os

import matplotlib.pyplot as plt
import numpy as np

from privfl.data import ClientExamples, FederatedData, load
from privfl.experiment import Experiment
from privfl.he.messages import Frame
from privfl.secagg.messages import MaskedInput
from privfl.sums.plain import Upload
from privfl.wire import HEADER_BYTES, peek

QUICK = bool(os.environ.get("PRIVFL_QUICK"))
SHOWN = 4 if QUICK else 8
COLORS = {"plain": "#D55E00", "masked": "#0072B2", "ckks": "#009E73"}
plt.rcParams.update(
    {
        "figure.dpi": 80,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.edgecolor": "none",
    }
)

# %% [markdown]
# ## Small batches, one gradient
#
# Client 0 trains on one digit, client 1 on two, client 2 on three of different classes; the others on more. The model
# is a softmax regression, 64 pixels to 10 classes, and the update is a gradient (FedSGD).

# %%
digits = load("digits")
rng = np.random.default_rng(5)
free = rng.permutation(digits.example_count)
batches, taken = [], 0
for count in (1, 2, 3, 8, 8, 8, 8, 8):
    if count <= 3:  # one digit of each of `count` classes
        rows = [
            next(row for row in free[taken:] if digits.targets[row] == c)
            for c in rng.choice(10, count, replace=False)
        ]
        free = np.array([row for row in free if row not in rows])
    else:
        rows, taken = free[taken : taken + count], taken + count
    batches.append(np.sort(rows))
federation = FederatedData(
    digits, tuple(ClientExamples(f"client {i}", rows) for i, rows in enumerate(batches))
)

uploads, models = {}, {}
for scheme, kind in {"plain": Upload, "masked": MaskedInput, "ckks": Frame}.items():

    def tap(
        direction, client, message, scheme=scheme, kind=kind
    ):  # stands beside the server
        header, body = peek(message, max_length=len(message))
        if direction == "up" and header.kind == kind.KIND:
            uploads[scheme, client] = kind.from_body(body)

    run = Experiment(
        name=scheme,
        data=federation,
        tap=tap,
        rounds=1,
        overrides={
            "client.update": "gradient",
            "server.weighting": "uniform",
            "evaluate_every": 0,
            "sum.scheme": scheme,
        },
    )
    list(run.run())
    models[scheme] = run.model
    encoding = run.encoding
print(
    "the three global models are equal to the last bit:",
    np.array_equal(models["plain"], models["masked"])
    and np.array_equal(models["plain"], models["ckks"]),
)

# %% [markdown]
# ## One client's upload in each sum
#
# The server knows the encoding, so it reads each upload as well as it can: words back to numbers. Pictured is client
# 0's gradient for one class, as an image of 8 × 8 pixels, and the histogram of all its values.

# %%
ring, length = encoding.codec.ring, encoding.total_length


def words(scheme, client):
    upload = uploads[scheme, client]
    if scheme == "ckks":  # the ciphertext's residues, cut to as many words
        whole = np.frombuffer(bytes(upload.block), np.uint8)
        return ring.mask(whole[: 4 * length].view(np.uint32).copy())
    return ring.unpack(upload.values, length)


def gradient(scheme, client):
    """The mean gradient that the server sees: weights [64, 10] and biases [10]."""
    values = encoding.codec.decode(ring.center(words(scheme, client)))
    return -values[:640].reshape(64, 10), -values[640:650]


true_class = digits.targets[batches[0][0]]
figure, axes = plt.subplots(2, 3, figsize=(10, 5.6), height_ratios=[1.2, 1])
for column, scheme in enumerate(COLORS):
    top, bottom = axes[0, column], axes[1, column]
    picture = gradient(scheme, 0)[0][:, true_class].reshape(8, 8)
    top.imshow(picture, cmap="gray_r" if picture.mean() > 0 else "gray")
    top.set(title=f"{scheme.replace('ckks', 'CKKS')} sum", xticks=[], yticks=[])
    bottom.hist(
        words(scheme, 0).astype(np.float64) / 2**ring.bits,
        bins=32,
        range=(0, 1),
        color=COLORS[scheme],
    )
    bottom.set(
        xlabel=f"uploaded word / 2^{ring.bits}",
        ylabel="number of words" if column == 0 else "",
    )
axes[0, 0].set_ylabel(f"client 0's upload,\ngradient of class {true_class}")
plt.tight_layout()

# %% [markdown]
# On the left a digit can be seen without any attack. The histograms say the same: small gradients lie at both ends of
# the ring (zero from above and from below); masked and encrypted words fill it evenly.
#
# ## Gradient inversion
#
# For softmax regression the gradient of class c is the sum over the batch of (probability − label) · pixels, and its
# bias is the same sum without the pixels. With one row, weights / bias gives *the pixels, exactly*. With a few rows of
# different classes, the biases tell which classes are there, and at the zero model all probabilities are 1/10: what is
# left is a small linear system. (Zhu, Liu and Han 2019 do the same for deep models by optimization.)


# %%
def invert(weights, biases, count):
    """Images [count, 64] from a mean gradient at zero, where all classes are alike."""
    labels = np.sort(
        np.argsort(biases)[:count]
    )  # the most negative biases: the classes that are in the batch
    mixing = np.full((count, count), 0.1) - np.eye(count)
    return np.linalg.solve(mixing / count, weights[:, labels].T)


victims = (0, 1, 2)
figure, axes = plt.subplots(4, 6, figsize=(9, 6.6))
errors = {scheme: [] for scheme in COLORS}
column = 0
for victim in victims:
    rows = batches[victim]
    original = digits.features[rows[np.argsort(digits.targets[rows])]]
    for position in range(len(rows)):
        axes[0, column].imshow(
            original[position].reshape(8, 8), cmap="gray_r", vmin=0, vmax=1
        )
        axes[0, column].set_title(
            f"client {victim}\n{len(rows)} image{'s' * (len(rows) > 1)}", fontsize=9
        )
        for line, scheme in enumerate(COLORS, start=1):
            weights, biases = gradient(scheme, victim)
            images = invert(weights, biases, len(rows))
            image = images[position]
            spread = (0, 1) if scheme == "plain" else (image.min(), image.max())
            axes[line, column].imshow(
                image.reshape(8, 8), cmap="gray_r", vmin=spread[0], vmax=spread[1]
            )
            fit = np.corrcoef(image, original[position])[0, 1]
            errors[scheme].append((np.abs(image - original[position]).max(), fit))
        column += 1
for axis in axes.flat:
    axis.set(xticks=[], yticks=[])
for axis, text in zip(
    axes[:, 0], ("true input", "from plain", "from masked", "from CKKS")
):
    axis.set_ylabel(text, fontsize=10)
plt.tight_layout()

# %% tags=["random"]
print(
    f"{'attack on':10} {'greatest pixel error':>21} {'correlation with the input':>28}"
)
for scheme, values in errors.items():
    pixel, fit = np.array(values).T
    print(f"{scheme:10} {pixel.max():21.1e} {fit.min():13.2f} .. {fit.max():.2f}")
plain = np.array(errors["plain"])
hidden = np.array(errors["masked"] + errors["ckks"])
print(
    "\nplain: every pixel recovered"
    if plain[:, 0].max() < 0.01
    else "\nplain: the attack failed"
)
print(
    "masked and CKKS: noise"
    if np.abs(hidden[:, 1]).max() < 0.6
    else "masked or CKKS: something was recovered"
)

# %% [markdown]
# ## And the sum that the server is meant to see?
#
# Of the masked round the server learns the mean gradient of all 46 digits. Weights over biases, class by class, give a
# mix of everybody's digits: nobody's own image, but not nothing either.

# %%
mean_gradient = -models["masked"]
blur = (mean_gradient[:640].reshape(64, 10) / mean_gradient[640:650])[:, :SHOWN]
figure, axes = plt.subplots(1, SHOWN, figsize=(1.15 * SHOWN, 1.6))
for label, axis in enumerate(axes):
    axis.imshow(blur[:, label].reshape(8, 8), cmap="gray_r")
    axis.set(title=f"class {label}", xticks=[], yticks=[])
plt.tight_layout()

# %% [markdown]
# ## What was shown, and what was not
#
# Shown: a plain update of a small batch *is* the data: the server inverts it by division. The same bytes behind
# pairwise masks, or as a CKKS ciphertext, give noise, and the global model is the same to the last bit.
#
# Not shown: that the sum itself tells nothing. It does tell something: with few clients, or with a client whose data
# nobody shares, the sum can be close to one client's update. Masks and encryption hide *who* contributed *what*; only
# noise bounds what the sum tells (notebook 02). Nor did the server lie here (notebook 04).
