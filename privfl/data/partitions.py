"""Ways to split examples among clients: pure functions of their arguments and a seed, each example to one client."""

from __future__ import annotations

import heapq
import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from privfl.data.sets import Indices
from privfl.errors import ConfigError

Parts = tuple[Indices, ...]
"""The positions of each client's examples, increasing int64; together every position in [0, n) exactly once."""

ALPHAS: Final = (1e-3, 1e6)
EXPONENTS: Final = (0.0, 20.0)
_BINS: Final = 10
_STREAM: Final = 0x9A27  # keeps these draws apart from others that a user makes under the same seed


def iid(rows: int, clients: int, seed: int) -> Parts:
    """Shuffle the examples and split them evenly: sizes differ by at most one.

    Args:
        rows: The number of examples.
        clients: The number of clients.
        seed: The seed, at least 0.
    """
    _check_sizes(rows, clients, 1)
    return _sorted(np.array_split(_rng(seed).permutation(rows), clients))


def dirichlet(labels: npt.NDArray[Any], clients: int, alpha: float, seed: int, *, min_examples: int = 1) -> Parts:
    """Split each label's examples in proportions of Dir(alpha) over the clients (Yurochkin et al. 2019, section 4).

    A client with fewer than `min_examples` gets examples of the client that has most. This always ends, and sampling
    again might not.

    Args:
        labels: The label of each example, integers `[n]`.
        clients: The number of clients.
        alpha: In [1e-3, 1e6]. A small one gives each client few labels, a large one is nearly IID.
        seed: The seed, at least 0.
        min_examples: The minimum for each client.

    Raises:
        ConfigError: An argument is out of range, or clients * min_examples exceeds n.
    """
    if not ALPHAS[0] <= alpha <= ALPHAS[1]:
        raise ConfigError(f"alpha must be in [{ALPHAS[0]:g}, {ALPHAS[1]:g}], not {alpha!r}")
    _check_sizes(len(labels), clients, min_examples)
    rng = _rng(seed)
    owner = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        shares = rng.dirichlet(np.full(clients, float(alpha)))
        cuts = np.rint(np.cumsum(shares)[:-1] * len(members)).astype(np.int64)
        for client, part in enumerate(np.split(members, np.clip(cuts, 0, len(members)))):
            owner[part] = client
    _level(owner, clients, min_examples, rng)
    order = np.argsort(owner, kind="stable")
    return _sorted(np.split(order, np.cumsum(np.bincount(owner, minlength=clients))[:-1]))


def shards(labels: npt.NDArray[Any], clients: int, per_client: int, seed: int) -> Parts:
    """Sort by label, cut into clients * per_client shards, give each client `per_client` (McMahan et al. 2017, section
    3).

    Examples of one label are shuffled. Shards differ in size by at most one, so a client sees about `per_client`
    labels.

    Args:
        labels: The label of each example, integers `[n]`.
        clients: The number of clients.
        per_client: The number of shards of each client.
        seed: The seed, at least 0.

    Raises:
        ConfigError: There are more shards than examples.
    """
    if per_client < 1:
        raise ConfigError(f"shards per client must be at least 1, not {per_client}")
    _check_sizes(len(labels), clients, per_client)
    rng = _rng(seed)
    shuffled = rng.permutation(len(labels))
    cut = np.array_split(shuffled[np.argsort(labels[shuffled], kind="stable")], clients * per_client)
    dealt = rng.permutation(clients * per_client).reshape(clients, per_client)
    return _sorted([np.concatenate([cut[shard] for shard in hand]) for hand in dealt])


def quantity(rows: int, clients: int, exponent: float, seed: int, *, min_examples: int = 1) -> Parts:
    """Split IID examples unevenly: the client of rank r gets a part proportional to r^-exponent. Ranks are random.

    Args:
        rows: The number of examples.
        clients: The number of clients.
        exponent: In [0, 20]; 0 gives equal sizes.
        seed: The seed, at least 0.
        min_examples: The minimum for each client.
    """
    if not EXPONENTS[0] <= exponent <= EXPONENTS[1]:
        raise ConfigError(f"exponent must be in [{EXPONENTS[0]:g}, {EXPONENTS[1]:g}], not {exponent!r}")
    _check_sizes(rows, clients, min_examples)
    rng = _rng(seed)
    weights = np.arange(1, clients + 1, dtype=np.float64) ** -float(exponent)
    spare = rows - clients * min_examples
    exact = spare * weights / weights.sum()
    sizes = np.floor(exact).astype(np.int64)
    left = spare - int(sizes.sum())
    sizes[np.argsort(sizes - exact, kind="stable")[:left]] += 1  # the largest fractions
    sizes = rng.permutation(sizes + min_examples)
    return _sorted(np.split(rng.permutation(rows), np.cumsum(sizes)[:-1]))


def natural(codes: Indices, groups: int) -> Parts:
    """Give client i the examples with code i; a group without examples is an empty part.

    Args:
        codes: The group of each example, int64 `[n]`.
        groups: The number of groups.
    """
    if codes.size and not 0 <= codes.min() <= codes.max() < groups:
        raise ConfigError(f"codes must lie within [0, {groups})")
    order = np.argsort(codes, kind="stable")
    return _sorted(np.split(order, np.cumsum(np.bincount(codes, minlength=groups))[:-1]))


def bins(targets: npt.NDArray[np.floating[Any]]) -> Indices:
    """Return labels 0..9 for a regression: the tenth of all targets in which each one lies; equal targets share a
    label.
    """
    edges = np.quantile(targets, np.linspace(0.0, 1.0, _BINS + 1)[1:-1])
    return np.searchsorted(edges, targets, side="right").astype(np.int64)


def hold_out(rows: Indices, fraction: float, seed: int, client: int, *, tail: bool = False) -> tuple[Indices, Indices]:
    """Split one client's examples into (train, test): floor(k * fraction) to test, so at least one example to train.

    Args:
        rows: The indices of its examples, int64 `[k]`.
        fraction: The fraction of test examples, in [0, 1).
        seed: The seed, at least 0.
        client: The client; each has a split of its own.
        tail: Test on the last examples, as is right for a continuous text, instead of random ones.
    """
    if not 0.0 <= fraction < 1.0:
        raise ConfigError(f"the test fraction must be in [0, 1), not {fraction!r}")
    kept = len(rows) - math.floor(len(rows) * fraction)
    order = rows if tail else _rng(seed, client).permutation(rows)
    return np.sort(order[:kept]), np.sort(order[kept:])


def _level(owner: Indices, clients: int, min_examples: int, rng: np.random.Generator) -> None:
    """Move examples from the largest clients to the smallest until each has `min_examples`; changes `owner`."""
    sizes = np.bincount(owner, minlength=clients)
    needy = np.flatnonzero(sizes < min_examples)
    if not len(needy):
        return
    richest = [(-int(size), client) for client, size in enumerate(sizes) if size > min_examples]
    heapq.heapify(richest)
    stock: dict[int, list[int]] = {}
    for client in needy:
        for _ in range(min_examples - int(sizes[client])):
            size, donor = heapq.heappop(richest)
            if donor not in stock:
                stock[donor] = rng.permutation(np.flatnonzero(owner == donor)).tolist()
            owner[stock[donor].pop()] = client
            heapq.heappush(richest, (size + 1, donor))  # never falls below `min_examples`: the mean of all is above it


def _check_sizes(rows: int, clients: int, min_examples: int) -> None:
    if clients < 1:
        raise ConfigError(f"there must be at least 1 client, not {clients}")
    if min_examples < 1:
        raise ConfigError(f"a client needs at least 1 example, not {min_examples}")
    if clients * min_examples > rows:
        raise ConfigError(
            f"{clients} clients with at least {min_examples} examples each need {clients * min_examples}, not {rows}"
        )


def _rng(*key: int) -> np.random.Generator:
    if any(part < 0 for part in key):
        raise ConfigError(f"a seed must be at least 0, not {min(key)}")
    return np.random.default_rng(np.random.SeedSequence([_STREAM, *key]))


def _sorted(parts: list[npt.NDArray[Any]]) -> Parts:
    return tuple(np.sort(part).astype(np.int64, copy=False) for part in parts)
