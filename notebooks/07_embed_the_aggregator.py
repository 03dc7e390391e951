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
# # Embed the aggregator in a stack of your own
#
# You have a transport, a scheduler and a database. You want the sum. `privfl.secagg` is a pair of state machines:
# bytes in, bytes out. It opens no socket, reads no clock, starts no thread; numpy and cryptography are all it needs.
#
# Below, the stack is asyncio queues with delays. Put gRPC, MQTT or a message broker in their place.

# %%
import asyncio
import os
import subprocess
import sys
import time

import matplotlib.pyplot as plt
import numpy as np

from privfl.errors import RemoteProtocolError
from privfl.secagg import (
    MaskedSum,
    Ring,
    SumPolicy,
    SumTask,
    generate_identities,
    plan_sum,
)

QUICK = bool(os.environ.get("PRIVFL_QUICK"))
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
CLIENTS = range(10)
LENGTH = 1_000 if QUICK else 20_000

HEAVY = {"torch", "tenseal", "scipy", "sklearn", "dp_accounting"}
probe = f"import sys, privfl.secagg; print(len({HEAVY} & set(sys.modules)))"
count = subprocess.run(
    [sys.executable, "-c", probe], capture_output=True, text=True, check=True
).stdout.strip()
print(f"`import privfl.secagg` loads {count} of: {', '.join(sorted(HEAVY))}")

# %% [markdown]
# ## What the parties agree on
#
# The context binds the sum to your round: put a digest of your model and your job in it. Whoever has another view of
# any of this derives other keys, and the sum fails closed.

# %%
task = SumTask(
    b"job 17, round 1, model 3fa9",
    tuple(CLIENTS),
    min_survivors=6,
    length=LENGTH,
    ring=Ring(32),
    bound=10**6,
)
credentials, directory = generate_identities(
    CLIENTS
)  # in production: clients make their keys, and a third party the directory
scheme = MaskedSum(directory, share_threshold=6)
rng = np.random.default_rng(0)
vectors = {
    client: rng.integers(-task.bound, task.bound, LENGTH, endpoint=True)
    for client in CLIENTS
}
print(
    f"any {scheme.terms(task).threshold} of {len(CLIENTS)} clients can help the "
    "server to open a secret"
)

# %% [markdown]
# ## A client
#
# Client 3 crashes before its upload, client 6 sends a body of zeros, client 8 is too slow.

# %%
started = time.perf_counter()
seen = []  # (seconds, client, direction, bytes, step)


def note(client, direction, message, step):
    seen.append((time.perf_counter() - started, client, direction, len(message), step))


async def client(me, inbox, uplink):
    session = scheme.client(
        task,
        me,
        vectors[me],
        credentials=credentials[me],
        policy=SumPolicy(min_survivors=5),
    )
    message, delays = session.start(), np.random.default_rng(me).uniform(0.02, 0.12, 5)
    for step, delay in enumerate(delays):
        await asyncio.sleep(delay)  # the network
        if me == 3 and step == 2:
            return  # crashes
        if me == 6 and step == 1:
            message = message[:47] + b"\x00" * (
                len(message) - 47
            )  # the header is right
        if me == 8 and step == 3:
            await asyncio.sleep(3 * DEADLINE)
        note(me, "up", message, step)
        await uplink.put((me, message))
        message = session.receive(await inbox.get())
        if message is None:
            return


# %% [markdown]
# ## The server: receive until all have spoken or the deadline has passed, then `advance()`
#
# After each `advance()` this server writes its state down and is killed; another process would take it from there.

# %%
DEADLINE = (
    3.0  # seconds a step: generous, for the machine that runs this notebook may be busy
)


async def serve(uplink, inboxes):
    server, step = scheme.server(task), 0
    while server.result is None:
        try:
            async with asyncio.timeout(DEADLINE):
                while server.awaiting:
                    sender, message = await uplink.get()
                    try:
                        server.receive(sender, message)
                    except RemoteProtocolError as error:
                        print(f"step {step}: dropped and blamed: {error}")
        except TimeoutError:
            print(
                f"step {step}: the deadline has passed, still silent: "
                f"{sorted(server.awaiting)}"
            )
        mail = server.advance()
        if server.result is None:
            state = server.to_bytes()
            server = scheme.resume(task, state)  # the restart
        for receiver, message in mail.items():
            note(receiver, "down", message, step)
            inboxes[receiver].put_nowait(message)
        step += 1
    return server.result, len(state)


async def everything():
    uplink, inboxes = asyncio.Queue(), {c: asyncio.Queue() for c in CLIENTS}
    parties = [asyncio.create_task(client(c, inboxes[c], uplink)) for c in CLIENTS]
    result = await serve(uplink, inboxes)
    for party in parties:
        party.cancel()
    await asyncio.gather(*parties, return_exceptions=True)
    return result


result, state_bytes = await everything()
truth = sum(vectors[c] for c in sorted(result.survivors))
print(
    f"\nsurvivors {sorted(result.survivors)}; the sum of {LENGTH:,} values is exact: "
    f"{np.array_equal(result.total, truth)}"
)
print("blamed:", dict(result.blamed))
print(f"state at the last restart: {state_bytes:,} bytes")

# %%
STEPS = ["AdvertiseKeys", "ShareKeys", "MaskedInput", "ConsistencyCheck", "Unmask"]
COLORS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00"]
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.8), width_ratios=[1.7, 1])
for step, (name, color) in enumerate(zip(STEPS, COLORS)):
    up = [(at, c) for at, c, way, _, s in seen if way == "up" and s == step]
    down = [(at, c) for at, c, way, _, s in seen if way == "down" and s == step]
    left.scatter(*zip(*up), marker="^", s=34, color=color, label=name)
    if down:
        left.scatter(*zip(*down), marker="|", s=60, color=color)
left.set(
    xlabel="time since the start (s)",
    yticks=list(CLIENTS),
    ylabel="client",
    ylim=(9.6, -0.6),
    title="Messages up (triangles) and down (bars)",
)
left.legend(
    fontsize=8,
    loc="upper center",
    bbox_to_anchor=(0.5, -0.18),
    ncols=5,
    handletextpad=0.1,
    columnspacing=0.8,
)
width = 0.38
for way, offset, color in (
    ("up", -width / 2, "#0072B2"),
    ("down", width / 2, "#56B4E9"),
):
    sizes = [
        max([size for _, _, w, size, s in seen if w == way and s == step], default=0)
        for step in range(5)
    ]
    right.bar(
        np.arange(5) + offset,
        sizes,
        width,
        color=color,
        label=f"to the {'server' if way == 'up' else 'client'}",
    )
right.set_yscale("log")
right.set(
    ylabel="bytes of the largest message",
    title=f"{LENGTH:,} values of {task.ring.bits} bits, 10 clients",
)
right.set_xticks(range(5), STEPS, rotation=25, ha="right", fontsize=8)
right.legend(fontsize=8)
plt.tight_layout()

# %% [markdown]
# ## Plan it before you run it
#
# `plan_sum` says what a cohort costs on one core, without running it (seconds are estimates, bytes exact). Beyond a hundred clients each talks to some neighbors only.

# %%
print(
    f"{'clients':>8} {'neighbors':>10} {'kB up':>8} {'kB down':>8} {'client s':>9} "
    f"{'server s':>9} {'security':>9}"
)
for count in (10, 100, 1_000, 10_000):
    plan = plan_sum(count, 100_000)
    print(
        f"{count:8,} {plan.degree:10} {plan.bytes_up / 1e3:8.0f} "
        f"{plan.bytes_down / 1e3:8.0f} "
        f"{plan.client_seconds:9.2f} {plan.server_seconds:9.1f} "
        f"{plan.security_bits:6.0f} bit"
    )
print("\n100,000 values of 32 bits;", plan.assumptions)

# %% [markdown]
# ## What was shown, and what was not
#
# Shown: the sum comes out exact from a stack that privfl knows nothing of, with a crash, garbage, a straggler, and a
# server that restarts after every step. A client whose message breaks the rules is named; the others go on.
#
# Not shown: what your stack owes. It must authenticate who sends (the sender's identity is yours to give), keep the
# directory of keys out of the server's hands, and never run a session twice from a copied state. Clients' sessions
# are not meant to be stored. A version over TCP with processes is in `examples/embed_masked_sum.py`.
