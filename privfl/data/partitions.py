"""Ways to deal rows out to clients: pure functions of their arguments and a seed, each row to exactly one client."""

from __future__ import annotations

import heapq
import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from privfl.data.sets import Rows
from privfl.errors import ConfigError

Parts = tuple[Rows, ...]
"""Row positions of each client, increasing int64; together every position in [0, rows) exactly once."""

ALPHAS: Final = (1e-3, 1e6)
EXPONENTS: Final = (0.0, 20.0)
_BINS: Final = 10
_STREAM: Final = 0x9A27  # keeps these draws apart from others that a user makes under the same seed


def iid(rows: int, clients: int, seed: int) -> Parts:
    """Shuffle `rows` rows and deal them out evenly: sizes differ by at most one."""
    _check_sizes(rows, clients, 1)
    return _sorted(np.array_split(_rng(seed).permutation(rows), clients))


def dirichlet(labels: npt.NDArray[Any], clients: int, alpha: float, seed: int, *, min_examples: int = 1) -> Parts:
    """Share out each label's rows by its own draw from Dir(alpha) over the clients (Yurochkin et al. 2019, section 4).

    `labels` `[n]` is of any integer type; `alpha` in [1e-3, 1e6]: small means few labels a client, large means IID.
    A client left with fewer than `min_examples` rows is given rows of the client that has most, so this ends where
    redrawing may not. Raises `ConfigError` when clients * min_examples exceeds n.
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
    """Sort by label, cut into clients * per_client shards, deal each client `per_client` (McMahan et al. 2017, sec. 3).

    Rows of one label are shuffled; shards differ in size by at most one, so a client sees about `per_client` labels.
    Raises `ConfigError` when there are more shards than rows.
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
    """IID rows, but the client of rank r holds a share proportional to r^-exponent, and `min_examples` rows at least.

    `exponent` in [0, 20]; 0 means equal sizes. Which client has which rank is drawn.
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


def natural(codes: Rows, groups: int) -> Parts:
    """Client i holds the rows with code i; a group without rows is an empty part."""
    if codes.size and not 0 <= codes.min() <= codes.max() < groups:
        raise ConfigError(f"codes must lie within [0, {groups})")
    order = np.argsort(codes, kind="stable")
    return _sorted(np.split(order, np.cumsum(np.bincount(codes, minlength=groups))[:-1]))


def bins(targets: npt.NDArray[np.floating[Any]]) -> Rows:
    """Labels 0..9 for a regression: the tenth of all targets in which each one lies; equal targets share a label."""
    edges = np.quantile(targets, np.linspace(0.0, 1.0, _BINS + 1)[1:-1])
    return np.searchsorted(edges, targets, side="right").astype(np.int64)


def hold_out(rows: Rows, fraction: float, seed: int, client: int, *, tail: bool = False) -> tuple[Rows, Rows]:
    """Split one client's rows `[k]` into (train, test): floor(k * fraction) to test, so one row at least to train.

    Drawn by (seed, client); with `tail` the last rows, as is right for a text that goes on. `fraction` in [0, 1).
    """
    if not 0.0 <= fraction < 1.0:
        raise ConfigError(f"the test fraction must be in [0, 1), not {fraction!r}")
    kept = len(rows) - math.floor(len(rows) * fraction)
    order = rows if tail else _rng(seed, client).permutation(rows)
    return np.sort(order[:kept]), np.sort(order[kept:])


def _level(owner: Rows, clients: int, min_examples: int, rng: np.random.Generator) -> None:
    """Give the poorest clients rows of the richest, one by one, until everyone has `min_examples`; changes `owner`."""
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
        raise ConfigError(f"a client needs at least 1 row, not {min_examples}")
    if clients * min_examples > rows:
        raise ConfigError(
            f"{clients} clients with at least {min_examples} rows each need {clients * min_examples} rows, not {rows}"
        )


def _rng(*key: int) -> np.random.Generator:
    if any(part < 0 for part in key):
        raise ConfigError(f"a seed must be at least 0, not {min(key)}")
    return np.random.default_rng(np.random.SeedSequence([_STREAM, *key]))


def _sorted(parts: list[npt.NDArray[Any]]) -> Parts:
    return tuple(np.sort(part).astype(np.int64, copy=False) for part in parts)
