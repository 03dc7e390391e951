"""Seconds of flwr 1.41.0's SecAgg+, for benchmarks/secagg: run by an interpreter of its own, prints one JSON object.

    flwr_secagg.py expand LENGTH             one mask: the generator and the addition
    flwr_secagg.py round CLIENTS LENGTH DROPPED    one client's four stages, and the server's unmasking

Its own functions do all the work, on a complete graph with t = floor(2n/3) + 1, modulus 2^32. Left out on the peer's
side: quantisation (replaced by values made beforehand), messages between processes, and signatures, of which it has
none. Clients that are not on the clock share one secret among them instead of splitting each its own, and past 40 of
them upload zeros: the server's work is the same. The server's part is the sum of the uploads and the loop of its
unmask stage, over its own functions.
"""

import importlib
import json
import logging
import sys
import time

import numpy as np
from flwr.common import bytes_to_ndarray, ndarrays_to_parameters
from flwr.common.secure_aggregation.crypto.shamir import combine_shares, create_shares
from flwr.common.secure_aggregation.crypto.symmetric_encryption import generate_shared_key
from flwr.common.secure_aggregation.ndarrays_arithmetic import (
    get_parameters_shape,
    parameters_addition,
    parameters_mod,
    parameters_subtraction,
)
from flwr.common.secure_aggregation.secaggplus_constants import Key
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen
from flwr.supercore.primitives.asymmetric import bytes_to_private_key, bytes_to_public_key

client = importlib.import_module("flwr.client.mod.secure_aggregation.secaggplus_mod")  # its package hides the module
MODULUS = 1 << 32
SPLIT = {}  # (length of a secret, threshold, holders): its shares
logging.disable(logging.CRITICAL)


def expand(length):
    total = [np.zeros(length, np.int64)]
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        total = parameters_addition(total, pseudo_rand_gen(bytes(range(32)), MODULUS, [(length,)]))
        best = min(best, time.perf_counter() - start)
    return {"seconds": best}


def play(clients, length, dropped):
    threshold = 2 * clients // 3 + 1
    ready = [np.random.default_rng(0).integers(0, 1000, length)]
    client.quantize = lambda parameters, clip, target: [array.copy() for array in ready]
    client.parameters_multiply = lambda parameters, factor: parameters
    setup = {
        Key.SAMPLE_NUMBER: clients,
        Key.SHARE_NUMBER: clients,
        Key.THRESHOLD: threshold,
        Key.CLIPPING_RANGE: 8.0,
        Key.TARGET_RANGE: 1 << 20,
        Key.MOD_RANGE: MODULUS,
        Key.MAX_WEIGHT: 1000.0,
    }
    watched, spent = clients - 1, 0.0
    states, keys, boxes = {}, {}, {}
    for nid in range(clients):
        state = states[nid] = client.SecAggPlusState(nid=nid)
        start = time.perf_counter()
        out = client._setup(state, setup)
        spent += (time.perf_counter() - start) * (nid == watched)
        keys[str(nid)] = (out[Key.PUBLIC_KEY_1], out[Key.PUBLIC_KEY_2])
    for nid in range(clients):
        client.create_shares = create_shares if nid == watched else borrowed
        start = time.perf_counter()
        out = client._share_keys(states[nid], keys)
        spent += (time.perf_counter() - start) * (nid == watched)
        for target, box in zip(out[Key.DESTINATION_LIST], out[Key.CIPHERTEXT_LIST], strict=True):
            boxes.setdefault(target, []).append((nid, box))
    alive = set(range(dropped, clients))
    parameters = ndarrays_to_parameters(ready)
    total, server = None, 0.0
    for nid in sorted(alive):
        sources, sealed = zip(*boxes[nid], strict=True)
        configs = {Key.CIPHERTEXT_LIST: list(sealed), Key.SOURCE_LIST: list(sources)}
        if nid != watched and clients > 40:
            # Its upload has the same cost to the server as any other; its shares are all that matters here.
            take_shares(states[nid], sources, sealed)
            upload = [np.zeros(1, np.int64), np.zeros(length, np.int64)]
        else:
            start = time.perf_counter()
            out = client._collect_masked_vectors(states[nid], configs, 1, parameters)
            spent += (time.perf_counter() - start) * (nid == watched)
            upload = out[Key.MASKED_PARAMETERS]
        start = time.perf_counter()
        arrays = [bytes_to_ndarray(a) if isinstance(a, bytes) else a for a in upload]
        total = arrays if total is None else parameters_mod(parameters_addition(total, arrays), MODULUS)
        server += time.perf_counter() - start
    collected = {nid: [] for nid in range(clients)}
    ask = {Key.ACTIVE_NODE_ID_LIST: sorted(alive), Key.DEAD_NODE_ID_LIST: list(range(dropped))}
    for nid in sorted(alive):
        start = time.perf_counter()
        out = client._unmask(states[nid], ask)
        spent += (time.perf_counter() - start) * (nid == watched)
        for owner, share in zip(out[Key.NODE_ID_LIST], out[Key.SHARE_LIST], strict=True):
            collected[owner].append(share)
    start = time.perf_counter()
    unmask(total, collected, alive, keys)
    server += time.perf_counter() - start
    return {"client": spent, "server": server}


def borrowed(secret, threshold, count):
    """Shares of another secret of this length: to the server, and to nobody's clock, they are as good as one's own.

    Splitting costs the peer so much that only the client on the clock does it in earnest.
    """
    known = len(secret), threshold, count
    if known not in SPLIT:
        SPLIT[known] = create_shares(secret, threshold, count)
    return SPLIT[known]


def take_shares(state, sources, sealed):
    for source, box in zip(sources, sealed, strict=True):
        plain = client.decrypt(state.ss2_dict[source], box)
        _, _, seed, key = client.share_keys_plaintext_separate(plain)
        state.rd_seed_share_dict[source], state.sk1_share_dict[source] = seed, key


def unmask(total, collected, alive, keys):
    """The loop of the peer's unmask stage."""
    for nid, shares in collected.items():
        secret = combine_shares(shares)
        if nid in alive:
            total = parameters_subtraction(total, pseudo_rand_gen(secret, MODULUS, get_parameters_shape(total)))
            continue
        for other in collected:
            if other == nid:
                continue
            shared = generate_shared_key(bytes_to_private_key(secret), bytes_to_public_key(keys[str(other)][0]))
            mask = pseudo_rand_gen(shared, MODULUS, get_parameters_shape(total))
            total = (parameters_addition if nid > other else parameters_subtraction)(total, mask)
    return parameters_mod(total, MODULUS)


if __name__ == "__main__":
    what, *numbers = sys.argv[1:]
    print(json.dumps({"expand": expand, "round": play}[what](*map(int, numbers))))
