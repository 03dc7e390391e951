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
# # The CKKS sum
#
# Clients share a session key that the server never has. They encrypt their vectors; the server adds ciphertexts; one
# client opens the sum. CKKS is an *approximate* scheme, and yet this sum is exact. Here is how, what it costs, and why
# the approximate result itself must never leave the key holder.

# %%
import os

import matplotlib.pyplot as plt
import numpy as np

from privfl.crypto import generate_identities
from privfl.data import load
from privfl.he import CkksSum, plan_ckks, plan_for
from privfl.he.keys import secret_polynomial
from privfl.he.opening import decrypt_sum
from privfl.he.packing import to_slots, unpack
from privfl.he.authenticator import SessionCipher
from privfl.ring import Ring
from privfl.secagg import MaskedSum, plan_sum
from privfl.sums import PlainSum, SumTask, run_sum

QUICK = bool(os.environ.get("PRIVFL_QUICK"))
BLUE, GREEN = "#0072B2", "#009E73"
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
CLIENTS = tuple(range(4 if QUICK else 8))

# %% [markdown]
# ## A whole sum, and two others beside it
#
# Each client holds 2048 integers: 32 handwritten digits. The same vectors go through three sums.

# %%
pixels = np.rint(load("digits").features * 16).astype(np.int64)
vectors = {c: pixels[32 * c : 32 * (c + 1)].ravel() for c in CLIENTS}
credentials, directory = generate_identities(CLIENTS)
totals = {}
for attempt, scheme in enumerate(
    (PlainSum(), MaskedSum(directory), CkksSum(directory))
):
    task = SumTask(
        b"round 1, attempt %d" % attempt, CLIENTS, 3, 2048, Ring(23), 16
    )  # a client enters a task once
    traffic = {"up": 0, "down": 0}

    def tap(direction, client, message):
        traffic[direction] += len(message)

    keys = None if scheme.name.startswith("plain") else credentials
    result = run_sum(scheme, task, vectors, credentials=keys, tap=tap)
    totals[scheme.name] = result.total
    print(
        f"{scheme.name:13} {traffic['up'] / len(CLIENTS) / 1000:5.1f} kB up and "
        f"{traffic['down'] / len(CLIENTS) / 1000:5.1f} kB "
        f"down per client; opened at the {scheme.opener}"
    )
print(
    "equal to the last bit:",
    all(np.array_equal(t, totals["plain-sum/1"]) for t in totals.values()),
)

# %% [markdown]
# ## Packing and exactness
#
# A ciphertext of degree N has N/2 complex slots: two integers go into each, as real and imaginary part. An integer
# unit is scaled up so far that the noise of encryption stays small beside it; whoever opens rounds it away. The
# planner insists that half a unit is at least 14 standard deviations. Below we hold the session key ourselves, to look at
# what an opener sees before rounding. No server can.

# %% tags=["random"]
plan = plan_for(task)
session_key = bytes(
    range(32)
)  # a fixed key for this picture; in a sum it is fresh, and dealt by a client
cipher = SessionCipher(plan, session_key, task.digest())
block, seeds = np.zeros(plan.chunks * plan.degree, np.uint64), []
for c in CLIENTS:
    residues, seed = cipher.ckks.encrypt(vectors[c])
    block = (block + residues) % np.uint64(plan.modulus)  # all that a server does
    seeds.append(seed)
exact = sum(vectors.values())
approximate = decrypt_sum(plan, block, seeds, cipher, unsafe_approximate=True).values[
    :2048
]
slots = to_slots(vectors[0], plan.degree)
print(
    f"degree {plan.degree}, prime of {plan.prime_bits} bits, slot scale "
    f"2^{plan.scale_bits}, "
    f"{slots.shape[1]} slots for {len(vectors[0])} integers"
)
noise = approximate - exact
print(
    f"noise before rounding: {noise.std():.2e} units (planned "
    f"{plan.error_stddev():.2e}), "
    f"half a unit is {plan.margin:.0f} deviations"
)
print(
    "rounded sum exact:", np.array_equal(np.rint(approximate).astype(np.int64), exact)
)

figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 3.4))
left.hist(block / plan.modulus, bins=32, range=(0, 1), color=BLUE)
left.set(
    xlabel=f"ciphertext residue / q  (q has {plan.prime_bits} bits)",
    ylabel="number of residues",
    title="What the server adds up",
)
scale = 10.0 ** np.floor(np.log10(noise.std()))
right.hist(noise / scale, bins=40, color=GREEN, density=True)
grid = np.linspace(-4, 4, 200) * plan.error_stddev() / scale
right.plot(
    grid,
    np.exp(-0.5 * (grid * scale / plan.error_stddev()) ** 2)
    / np.sqrt(2 * np.pi)
    / plan.error_stddev()
    * scale,
    color="black",
    linewidth=1,
    label="as planned",
)
right.set(
    xlabel=f"noise before rounding ($10^{{{int(np.log10(scale))}}}$ integer units)",
    ylabel="density",
    title=f"Half a unit is {plan.margin:.0f} deviations away",
)
right.legend(fontsize=9)
plt.tight_layout()

# %% [markdown]
# ## Sizes
#
# A value costs one residue of 5 to 8 bytes, wherever the vector fills its last ciphertext; the random half of each
# ciphertext is sent as a seed of 64 bytes. A masked sum sends the ring's word and keys for every other client.

# %%
lengths = np.unique(np.logspace(1.5, 6, 40).astype(int))
cohort = 100
figure, axes = plt.subplots(figsize=(7, 3.6))
for bits, style in ((23, "-"), (32, "--")):
    ckks = [plan_ckks(int(d), cohort, Ring(bits)).bytes_per_value for d in lengths]
    axes.loglog(lengths, ckks, style, color=GREEN, label=f"CKKS, ring of {bits} bits")
masked = [plan_sum(cohort, int(d), bits=32).bytes_up / d for d in lengths]
axes.loglog(
    lengths, masked, color=BLUE, label="masked, rings of 17 to 32 bits (whole words)"
)
axes.set(
    xlabel="values in the vector",
    ylabel="bytes up per client and value",
    title=f"{cohort} clients, 128-bit security",
)
axes.set_yticks([4, 10, 100, 1000], ["4", "10", "100", "1000"])
axes.legend(fontsize=9)
plt.tight_layout()

# %% [markdown]
# ## Who holds the key
#
# | | server | opener (a client) | other clients | outsider |
# |---|---|---|---|---|
# | session key | no | yes | yes | no |
# | single ciphertexts | yes | no: only their sum | no | no |
# | the sum, rounded | after the opener releases it | yes | as released | as released |
# | approximate values | never | for an instant, inside its process | no | never |
#
# Server and any one client together can read single vectors: that is the price of one shared key, and the masked sum
# does not pay it. Opening needs signatures of more than half of the cohort on one list of survivors.
#
# ## Why an approximate result must not be published
#
# Decryption before rounding satisfies m' = c0 + c1·s exactly. A party that knows m' to full precision, and the traffic, solves
# for the secret s (Li and Micciancio 2021, section 3). We play the attacker: it has the public ciphertext sum and the seeds,
# and receives 2048 floating-point numbers.

# %%
from privfl.he.seal import (
    _parameters,
)  # SEAL's public transform and seed expansion; no secret in it

n, q = plan.degree, plan.modulus
public = _parameters(n, q, plan.security)
x = np.zeros(n, np.int8)
x[1] = 1
roots = public.transform(x).astype(
    object
)  # the points at which SEAL evaluates polynomials
random_half = public.expand(seeds)
c1 = [random_half[i] for i in range(n, 2 * n)]


def solve(values):
    """(m' - c0) / c1, where m' is the integer polynomial whose slots are `values`."""
    exponents = np.array([pow(3, i, 2 * n) for i in range(n // 2)])
    spectrum = np.zeros(2 * n, np.complex128)
    spectrum[exponents] = values[: n // 2] + 1j * values[n // 2 :]
    spectrum[2 * n - exponents] = np.conj(spectrum[exponents])
    transformed = np.zeros(n, object)
    for coefficient in reversed(
        np.rint(np.fft.fft(spectrum)[:n].real / n * plan.scale).tolist()
    ):
        transformed = (transformed * roots + int(coefficient)) % q
    difference = (transformed - block.astype(object)) % q
    return np.array(
        [int(d) * pow(int(a), -1, q) % q for d, a in zip(difference, c1)], np.uint64
    )


secret = public.transform(secret_polynomial(session_key, plan))
for name, values in {
    "approximate values": approximate,
    "rounded values": exact.astype(float),
}.items():
    print(
        f"given the {name:19}: {(solve(values) == secret).mean():6.1%} of the secret "
        "key's coefficients found"
    )

# %% [markdown]
# One unrounded result gives away the whole key, and with it every client's vector. The rounded result gives nothing,
# since it is a function of the clients' integers alone. So `CkksSum` returns integers, as every sum here does.
#
# ## What was shown, and what was not
#
# Shown: an approximate scheme gives an exact sum, with a margin that is planned and measured; what it costs in bytes;
# who could open what; and the key recovery that makes rounding a matter of security.
#
# Not shown: dropouts and lying servers (`tests/attacks`), and collusion of a client with the server, against which
# this sum does not protect single vectors. The released sum carries no noise unless you add some (notebook 02).
