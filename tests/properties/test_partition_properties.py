import contextlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privfl.data import Dataset, Grouping, partition, partitions
from privfl.data.partitions import Parts
from privfl.errors import ConfigError

SEEDS = st.integers(0, 2**32)


def check(parts: Parts, rows: int, clients: int, least: int = 1) -> None:
    """Every row exactly once, nobody empty, all sorted."""
    assert len(parts) == clients
    assert all(part.dtype == np.int64 for part in parts)
    assert all((np.diff(part) > 0).all() for part in parts)
    assert min(len(part) for part in parts) >= least
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(rows))


def same(make: Callable[[int], Parts], seed: int) -> Parts:
    first, second = make(seed), make(seed)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)
    return first


@st.composite
def counts(draw: st.DrawFn) -> tuple[int, int, int]:
    """(rows, clients, least) that can be satisfied."""
    clients = draw(st.integers(1, 30))
    least = draw(st.integers(1, 5))
    return draw(st.integers(clients * least, clients * least + 200)), clients, least


@given(counts(), SEEDS)
def test_iid(sizes: tuple[int, int, int], seed: int) -> None:
    rows, clients, _ = sizes
    parts = same(lambda s: partitions.iid(rows, clients, s), seed)
    check(parts, rows, clients, least=rows // clients)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@given(counts(), SEEDS, st.integers(1, 8), st.floats(1e-3, 1e6))
def test_dirichlet(sizes: tuple[int, int, int], seed: int, classes: int, alpha: float) -> None:
    rows, clients, least = sizes
    labels = np.random.default_rng(seed).integers(0, classes, rows)
    check(
        same(lambda s: partitions.dirichlet(labels, clients, alpha, s, min_examples=least), seed), rows, clients, least
    )


@given(st.integers(1, 20), st.integers(1, 4), st.integers(0, 100), SEEDS)
def test_shards(clients: int, per_client: int, more: int, seed: int) -> None:
    rows = clients * per_client + more
    labels = np.random.default_rng(seed).integers(0, 5, rows)
    parts = same(lambda s: partitions.shards(labels, clients, per_client, s), seed)
    check(parts, rows, clients, per_client)
    assert max(map(len, parts)) - min(map(len, parts)) <= per_client


@given(counts(), SEEDS, st.floats(0.0, 20.0))
def test_quantity(sizes: tuple[int, int, int], seed: int, exponent: float) -> None:
    rows, clients, least = sizes
    parts = same(lambda s: partitions.quantity(rows, clients, exponent, s, min_examples=least), seed)
    check(parts, rows, clients, least)


@given(st.lists(st.integers(0, 6), max_size=50))
def test_natural(codes: list[int]) -> None:
    parts = partitions.natural(np.array(codes, np.int64), 7)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(len(codes)))
    for group, part in enumerate(parts):
        assert all(codes[row] == group for row in part)


@given(st.integers(1, 60), st.floats(0.0, 0.999), SEEDS, st.booleans())
def test_hold_out(rows: int, fraction: float, seed: int, tail: bool) -> None:
    own = np.arange(0, 3 * rows, 3)
    train, test = partitions.hold_out(own, fraction, seed, 7, tail=tail)
    np.testing.assert_array_equal(np.sort(np.concatenate([train, test])), own)
    assert len(test) == int(np.floor(rows * fraction))
    assert len(train) >= 1
    if tail and len(test):
        assert train.max() < test.min()


SPECIFICATIONS = ["iid", "dirichlet:0.3", "shards:2", "quantity:1.5", "natural"]


def toy(rows: int, *, held_out: bool, task: str = "multiclass") -> Dataset:
    rng = np.random.default_rng(rows)
    targets = rng.normal(size=rows).astype(np.float32) if task == "regression" else rng.integers(0, 4, rows)
    return Dataset(
        name="toy",
        task=task,  # type: ignore[arg-type]
        features=np.zeros((rows, 1), np.float32),
        targets=targets,
        classes=() if task == "regression" else tuple("abcd"),
        test=np.arange(rows - rows // 4, rows) if held_out else np.zeros(0, np.int64),
        groupings=(Grouping("site", np.arange(rows) % 5, tuple("vwxyz")),),
    )


@settings(max_examples=40)
@given(st.integers(40, 200), SEEDS, st.booleans(), st.sampled_from(["multiclass", "regression"]))
@pytest.mark.parametrize("spec", SPECIFICATIONS)
def test_every_row_of_a_set_has_one_place(spec: str, rows: int, seed: int, held_out: bool, task: str) -> None:
    data = toy(rows, held_out=held_out, task=task)
    fed, again = (partition(data, spec, 5, seed) for _ in range(2))
    places = [*(c.train for c in fed.clients), *(c.test for c in fed.clients), fed.test]
    np.testing.assert_array_equal(np.sort(np.concatenate(places)), np.arange(rows))
    assert all(len(client.train) for client in fed.clients)
    if held_out:
        tested = np.concatenate([*(c.test for c in fed.clients), fed.test])
        np.testing.assert_array_equal(np.sort(tested), data.test)
    for one, other in zip(fed.clients, again.clients, strict=True):
        assert one.name == other.name
        np.testing.assert_array_equal(one.train, other.train)
        np.testing.assert_array_equal(one.test, other.test)


@pytest.mark.parametrize("spec", ["iid", "dirichlet:0.3", "shards:2", "quantity:1.5"])
def test_another_seed_is_another_partition(spec: str) -> None:
    data = toy(200, held_out=False)
    one, other = (partition(data, spec, 5, seed) for seed in (0, 1))
    assert [c.train.tolist() for c in one.clients] != [c.train.tolist() for c in other.clients]


KINDS = st.sampled_from(["iid", "dirichlet", "shards", "quantity", "natural", "", "none"])
ARGUMENTS = st.none() | st.text("0123456789.-+e_ naif:site", max_size=6)


@given(KINDS, ARGUMENTS)
def test_any_text_is_a_partition_or_a_config_error(kind: str, argument: str | None) -> None:
    spec = kind if argument is None else f"{kind}:{argument}"
    with contextlib.suppress(ConfigError):
        assert partition(toy(40, held_out=False), spec, 5).sizes.sum() >= 30
