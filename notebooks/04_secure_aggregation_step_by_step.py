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
# # Secure aggregation, step by step
#
# Seven clients each hold one handwritten digit, 64 integers. The server is to learn the sum of those who stay, and
# nothing else. We carry every message by hand, lose two clients on the way, look at what each key opens, and then let
# the server lie. The protocol: Bonawitz et al. 2017, in its version for servers that may lie.

# %%
import copy
import itertools
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np

from privfl.crypto import AgreementKey, add_keystreams
from privfl.data import load
from privfl.errors import ProtocolError, WireError
from privfl.secagg import MaskedSum, Ring, SumPolicy, SumTask, generate_identities
from privfl.secagg.keys import RosterKeys, roster_digest
from privfl.secagg.messages import (
    Bitmap,
    Boxes,
    MaskedInput,
    Roster,
    Signatures,
    Survivors,
)
from privfl.wire import HEADER_BYTES, SERVER

plt.rcParams.update(
    {"figure.dpi": 80, "axes.spines.top": False, "axes.spines.right": False}
)
STEPS = ["AdvertiseKeys", "ShareKeys", "MaskedInput", "ConsistencyCheck", "Unmask"]
CLIENTS = range(7)

pixels = np.rint(load("digits").features * 16).astype(np.int64)
vectors = {client: pixels[10 + client] for client in CLIENTS}
credentials, directory = generate_identities(
    CLIENTS
)  # in production: clients make their keys, and a third party the directory
scheme = MaskedSum(directory)


def begin(round):
    task = SumTask(
        f"round {round}".encode(),
        tuple(CLIENTS),
        min_survivors=3,
        length=64,
        ring=Ring(16),
        bound=16,
    )
    clients = {
        c: scheme.client(task, c, vectors[c], credentials=credentials[c])
        for c in CLIENTS
    }
    return task, clients, scheme.server(task)


task, clients, server = begin(1)
terms = scheme.terms(task)
print(
    f"{len(CLIENTS)} clients, {terms.threshold} shares open a secret, at least "
    f"{terms.min_survivors_to_open} must stay"
)

# %% [markdown]
# ## The five steps
#
# | step | each client sends | so that |
# |---|---|---|
# | AdvertiseKeys | two fresh public keys, signed | every pair can agree on secrets |
# | ShareKeys | a share of its mask key and of its self-mask seed, sealed for every other client | others can help if it drops out |
# | MaskedInput | its vector + self mask ± one mask per pair | single vectors are hidden, and pairs cancel in the sum |
# | ConsistencyCheck | its signature on the list of survivors | the server shows one list to all |
# | Unmask | for each survivor a share of the *seed*, for each dropout a share of the *mask key*, never both | what is left of the masks comes off the sum only |
#
# Client 2 falls silent before its upload. Client 5 uploads, and is gone before the survivors sign.

# %%
LEAVES = {2: 2, 5: 3}  # client: the first step in which it says nothing
sent = {client: [] for client in CLIENTS}
received = {client: [] for client in CLIENTS}
wire = {}
mail = {client: None for client in CLIENTS}
for step, name in enumerate(STEPS):
    for client, message in mail.items():
        if LEAVES.get(client, 9) <= step:
            continue
        answer = (
            clients[client].start()
            if message is None
            else clients[client].receive(message)
        )
        received[client].append(0 if message is None else len(message))
        sent[client].append(len(answer))
        wire[name, client] = answer
        if (
            name == "ShareKeys"
        ):  # kept for later: one client's secrets, which no server ever holds
            secrets = copy.deepcopy(clients[0])
        server.receive(client, answer)
    mail = server.advance()
    down = (
        f"then {len(next(iter(mail.values()))):4} bytes to each of {len(mail)}"
        if mail
        else ""
    )
    print(
        f"{name:16} {sum(len(s) > step for s in sent.values())} clients send "
        f"{sent[0][step]:4} bytes each; {down}"
    )
result = server.result
truth = sum(vectors[client] for client in sorted(result.survivors))
print(
    "\nsurvivors:",
    sorted(result.survivors),
    " sum exact:",
    np.array_equal(result.total, truth),
)

# %%
figure, axes = plt.subplots(figsize=(8, 3.1))
most = max(map(max, sent.values()))
for client in CLIENTS:
    for step in range(len(STEPS)):
        here = len(sent[client]) > step
        axes.add_patch(
            plt.Rectangle(
                (step, client), 0.94, 0.86, color="#56B4E9" if here else "0.9"
            )
        )
        text = f"{sent[client][step]} bytes" if here else "silent"
        axes.text(
            step + 0.47,
            client + 0.45,
            text,
            ha="center",
            va="center",
            fontsize=8,
            color="black" if here else "0.45",
        )
axes.set(
    xlim=(0, 5),
    ylim=(7, 0),
    xticks=np.arange(5) + 0.47,
    xticklabels=STEPS,
    yticks=np.arange(7) + 0.45,
    yticklabels=[f"client {client}" for client in CLIENTS],
    title="What each client sent (bytes with header)",
)
axes.tick_params(length=0)
for side in ("left", "bottom"):
    axes.spines[side].set_visible(False)
plt.tight_layout()

# %% [markdown]
# ## What the server holds: uploads, and the sum


# %%
def body(kind, message):
    return kind.from_body(memoryview(message)[HEADER_BYTES:])


def upload(client):
    return task.ring.unpack(
        body(MaskedInput, wire["MaskedInput", client]).values, task.length
    )


stayed = sorted(result.survivors)
figure, axes = plt.subplots(2, 7, figsize=(10, 3.4))
for column, client in enumerate(stayed):
    axes[0, column].imshow(vectors[client].reshape(8, 8), cmap="gray_r")
    axes[1, column].imshow(upload(client).reshape(8, 8), cmap="gray_r")
    axes[0, column].set_title(f"client {client}", fontsize=9)
axes[0, 6].imshow(truth.reshape(8, 8), cmap="gray_r")
axes[1, 6].imshow(result.total.reshape(8, 8), cmap="gray_r")
axes[0, 6].set_title("sum", fontsize=9)
for axis in axes.flat:
    axis.set(xticks=[], yticks=[])
axes[0, 0].set_ylabel("held")
axes[1, 0].set_ylabel("server sees")
plt.tight_layout()

# %% [markdown]
# ## What each key opens
#
# We open client 0's session, as no server can, and take masks off its upload one kind at a time. A lying server's aim
# is to get *both* kinds of share for one client; the protocol gives one kind only.

# %%
roster = roster_digest(
    terms.digest(),
    b"".join(
        client.to_bytes(4, "little")
        + bytes(wire["AdvertiseKeys", client][HEADER_BYTES : HEADER_BYTES + 64])
        + bytes(wire["AdvertiseKeys", client][-64:])
        for client in CLIENTS
    ),
)
keys = RosterKeys(terms.digest(), roster)
own = keys.self_mask(0, secrets._own.seed)
pairs = [peer.mask for peer in secrets._peers.values() if peer.client not in (0, 2)]
with_2 = [peer.mask for peer in secrets._peers.values() if peer.client == 2]
stages = {
    "as uploaded": [],
    "self mask off\n(seed: opened for survivors)": [own],
    "pair masks off\n(mask key: opened for dropouts)": [*pairs, *with_2],
    "all pair masks but one,\nand the self mask": [own, *pairs],
    "both kinds off\n(never happens)": [own, *pairs, *with_2],
}
figure, axes = plt.subplots(1, len(stages), figsize=(11, 2.6))
for axis, (title, masks) in zip(axes, stages.items()):
    left = upload(0).copy()
    add_keystreams(left, [], masks)
    axis.imshow(task.ring.center(left).reshape(8, 8), cmap="gray_r")
    axis.set_title(title, fontsize=8)
    axis.set(xticks=[], yticks=[])
plt.tight_layout()

# %% [markdown]
# | key | who can rebuild it | what it opens |
# |---|---|---|
# | self-mask seed of a survivor | the server, from 5 shares | its self mask; its pair masks stay on, and cancel in the sum |
# | mask key of a dropout | the server, from 5 shares | its pair masks, which survivors' uploads still carry; its own upload never came |
# | box keys | the two clients alone | the sealed shares on their way through the server |
# | signing key | its owner alone | nothing: it only says who speaks |
#
# ## The server lies
#
# Each attack stops a fresh round at the right moment and sends clients what an honest server would not.

# %%
rounds = itertools.count(
    2
)  # a client enters a task once, so that each attack needs a round of its own


def until(step):
    """Play a new round honestly, up to the server's message of `step`.

    1 is the roster, 2 the boxes, 3 the survivors, 4 the signatures.
    """
    task, clients, server = begin(next(rounds))
    mail, said = dict.fromkeys(CLIENTS), {}
    for _ in range(step):
        said = {
            c: clients[c].start() if m is None else clients[c].receive(m)
            for c, m in mail.items()
        }
        for client, message in said.items():
            server.receive(client, message)
        mail = server.advance()
    return (
        clients,
        mail,
        said,
        lambda message: message.to_bytes(
            sender=SERVER, task=scheme.terms(task).digest()
        ),
    )


def survivors(*members):
    return Survivors(Bitmap.of(7, members))


def attack(name, *moves):
    for client, message in moves:
        try:
            client.receive(message)
        except (ProtocolError, WireError) as error:
            print(
                f"{name}\n    {type(error).__name__}: {error}; session {client.state}\n"
            )
            return
    print(f"{name}\n    SUCCEEDED\n")


clients, mail, _, pack = until(1)
entries = bytearray(body(Roster, mail[0]).entries)
entries[3 * 132 + 4 : 3 * 132 + 68] = (
    AgreementKey.generate().public + AgreementKey.generate().public
)
attack(
    "1. put keys of its own in client 3's place",
    (clients[0], pack(Roster(bytes(entries)))),
)

clients, mail, _, pack = until(2)
theirs = replace(body(Boxes, mail[1]), receiver=0)  # as they are, client 0 ignores them
attack("2. hand client 0 the boxes meant for client 1", (clients[0], pack(theirs)))

clients, mail, _, pack = until(3)
attack(
    "3. declare all but two dead, to isolate client 0",
    (clients[0], pack(survivors(0, 1))),
)

clients, mail, _, pack = until(3)
attack(
    "4. show a second list, to get the other kind of share as well",
    (clients[0], mail[0]),
    (clients[0], pack(survivors(0, 1, 2, 3, 4, 5))),
)

clients, mail, _, pack = until(3)
views = {c: (0, 1, 2, 3, 4, 5) if c < 3 else (0, 1, 2, 3, 4, 5, 6) for c in range(6)}
signed = {c: clients[c].receive(pack(survivors(*views[c])))[-64:] for c in views}
split = copy.deepcopy(clients[0])
attack(
    "5. split view: two lists, and to each half its own signatures",
    (clients[0], pack(Signatures(0, Bitmap.of(6, (0, 1)), signed[1] + signed[2]))),
)
attack(
    "6. split view: and the other half's signatures as well",
    (
        split,
        pack(
            Signatures(
                0, Bitmap.of(6, range(5)), b"".join(signed[c] for c in range(1, 6))
            )
        ),
    ),
)

_, old, _, _ = until(2)
clients, mail, _, _ = until(2)
attack("7. replay the messages of another round", (clients[0], old[0]))

small = SumTask(
    b"a small round",
    tuple(CLIENTS),
    min_survivors=1,
    length=64,
    ring=Ring(16),
    bound=16,
)
try:
    scheme.client(
        small,
        0,
        vectors[0],
        credentials=credentials[0],
        policy=SumPolicy(min_survivors=3),
    )
    print("8. plan a sum of a single client\n    SUCCEEDED")
except ProtocolError as error:
    print(f"8. plan a sum of a single client\n    {type(error).__name__}: {error}\n")

try:
    begin(1)[1][0].start()
    print(
        "9. ask for round 1 again, with another list of survivors in mind\n    "
        "SUCCEEDED"
    )
except ProtocolError as error:
    print(
        "9. ask for round 1 again, with another list of survivors in mind\n    "
        f"{type(error).__name__}: {error}"
    )

# %% [markdown]
# ## What was shown, and what was not
#
# Shown: the exact sum comes out although two clients were lost at different steps; a single upload is noise unless
# both kinds of its masks are known; seven lies end the victim's session before a share leaves it, and two more are
# refused before one starts.
#
# Not shown: collusion. From as many colluding clients as the threshold, here 5 of 7, together with the server, nothing
# is hidden; and a server that simply ends the round can always deny service. The sum itself is exact and carries no
# noise: what *it* tells is the subject of notebook 02. `tests/attacks` holds many more attacks than these nine.
