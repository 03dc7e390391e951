import time

import numpy as np
import pytest

from privfl import data
from privfl.data import Dataset, Grouping, partitions
from privfl.errors import ConfigError


def toy(**changes: object) -> Dataset:
    rng = np.random.default_rng(0)
    given: dict[str, object] = {
        "name": "toy",
        "task": "multiclass",
        "features": np.zeros((1000, 1), np.float32),
        "targets": rng.integers(0, 10, 1000),
        "classes": tuple("0123456789"),
    }
    return Dataset(**(given | changes))  # type: ignore[arg-type]


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(
        ConfigError, match="unknown data set 'iris'; allowed are adult, breast_cancer, diabetes, digits"
    ):
        data.load("iris")
    assert data.NAMES == (
        "adult", "breast_cancer", "diabetes", "digits", "heart", "mnist", "parkinsons", "shakespeare",
    )  # fmt: skip


@pytest.mark.parametrize("spec", ["", "random", "iid:3", "dirichlet", "dirichlet:", "shards", "natural:", ":", "IID"])
def test_an_unknown_spec_lists_the_known(spec: str) -> None:
    with pytest.raises(ConfigError, match=r"unknown partition .*; allowed are iid, dirichlet:ALPHA, shards:PER_CLIENT"):
        data.partition(toy(), spec, 5)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("dirichlet:x", "dirichlet takes a number, not 'x'"),
        ("dirichlet:0", r"alpha must be in \[0.001, 1e\+06\], not 0.0"),
        ("dirichlet:nan", "not nan"),
        ("dirichlet:inf", "not inf"),
        ("shards:1.5", "shards takes a number, not '1.5'"),
        ("shards:0", "shards per client must be at least 1, not 0"),
        ("shards:300", "5 clients with at least 300 examples each need 1500, not 1000"),
        ("quantity:-1", r"exponent must be in \[0, 20\], not -1.0"),
        ("natural", "no natural clients by anything; it has: none"),
        ("natural:site", "no natural clients by site"),
    ],
)
def test_numbers_out_of_range_are_named(spec: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        data.partition(toy(), spec, 5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"clients": 0}, "at least 1 client, not 0"),
        ({"clients": 1001}, "need 1001, not 1000"),
        ({"clients": None}, "needs the number of clients"),
        ({"clients": 5, "seed": -1}, "a seed must be at least 0, not -1"),
        ({"clients": 5, "test_fraction": 1.0}, r"in \[0, 1\), not 1.0"),
        ({"clients": 5, "test_fraction": float("nan")}, "not nan"),
    ],
)
def test_arguments_out_of_range_are_named(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        data.partition(toy(), "iid", **arguments)  # type: ignore[arg-type]


def test_least_must_be_possible() -> None:
    with pytest.raises(ConfigError, match="needs at least 1 example, not 0"):
        data.partition(toy(), "dirichlet:1", 5, min_examples=0)
    assert (data.partition(toy(), "dirichlet:0.01", 10, min_examples=100, test_fraction=0.0).sizes == 100).all()


def test_alpha_says_how_alike_the_clients_are() -> None:
    def spread(spec: str) -> float:
        counts = data.partition(toy(), spec, 10, 3).label_counts()
        return float(np.std(counts / counts.sum(axis=1, keepdims=True), axis=0).mean())

    assert spread("dirichlet:1000") < 0.06
    assert spread("dirichlet:0.1") > 0.15
    assert spread("iid") < 0.06


def test_a_shard_client_sees_few_labels() -> None:
    seen = (data.partition(toy(), "shards:2", 50, 0).label_counts() > 0).sum(axis=1)
    assert seen.max() <= 4
    assert seen.mean() < 3
    assert ((data.partition(toy(), "iid", 50, 0).label_counts() > 0).sum(axis=1)).mean() > 6


def test_quantity_skew_follows_the_power_law() -> None:
    sizes = np.sort(data.partition(toy(), "quantity:1", 10, 0, test_fraction=0.0).sizes)[::-1]
    weights = 1 / np.arange(1, 11)
    np.testing.assert_allclose(sizes, 1 + 990 * weights / weights.sum(), atol=1)
    richest = {int(data.partition(toy(), "quantity:1", 10, seed).sizes.argmax()) for seed in range(8)}
    assert len(richest) > 1  # who is rich is drawn
    assert (data.partition(toy(), "quantity:0", 10, 0, test_fraction=0.0).sizes == 100).all()


def test_a_published_test_split_is_public_unless_it_belongs_to_a_group() -> None:
    codes = np.arange(1000) % 3
    fed = data.partition(toy(test=np.arange(900, 1000)), "iid", 5)
    assert fed.test.tolist() == list(range(900, 1000))
    assert all(len(client.test) == 0 for client in fed.clients)
    fed = data.partition(toy(test=np.arange(900, 1000), groupings=(Grouping("g", codes, tuple("abc")),)), "natural")
    assert sum(len(client.test) for client in fed.clients) == 100
    assert not len(fed.test)


def test_a_group_with_test_rows_only_is_public_and_an_empty_one_is_left_out() -> None:
    codes = np.repeat([0, 1], [900, 100])
    data_ = toy(test=np.arange(900, 1000), groupings=(Grouping("g", codes, ("train", "test", "empty")),))
    fed = data.partition(data_, "natural")
    assert fed.names == ("train",)
    assert fed.test.tolist() == list(range(900, 1000))
    with pytest.raises(ConfigError, match="toy has 1 natural clients by g, not 3"):
        data.partition(data_, "natural", 3)


def test_natural_codes_must_fit() -> None:
    with pytest.raises(ConfigError, match=r"within \[0, 2\)"):
        partitions.natural(np.array([0, 2]), 2)


def test_a_regression_is_binned_by_tenths() -> None:
    targets = np.random.default_rng(1).normal(size=1000).astype(np.float32)
    np.testing.assert_array_equal(np.bincount(partitions.bins(targets)), np.full(10, 100))
    assert set(partitions.bins(np.zeros(50, np.float32)).tolist()) == {9}  # equal targets share a label
    fed = data.partition(toy(task="regression", targets=targets, classes=()), "shards:1", 10, 0)
    assert np.mean([np.std(fed.train(client)[1]) for client in range(10)]) < 0.5


def test_text_has_no_labels_to_skew() -> None:
    codes = np.zeros((50, 4), np.uint8)
    text = Dataset("play", "text", codes, codes, classes=("a",))
    for spec in ("dirichlet:1", "shards:2"):
        with pytest.raises(ConfigError, match=r"play is text, .* use iid, quantity or natural"):
            data.partition(text, spec, 5)
    assert data.partition(text, "quantity:1", 5).sizes.sum() > 30


def test_many_clients_are_dealt_in_no_time() -> None:
    labels = np.random.default_rng(0).integers(0, 10, 60_000)
    start = time.perf_counter()
    parts = partitions.dirichlet(labels, 5000, 0.001, 0, min_examples=10)  # nearly all of it is leveled out again
    assert time.perf_counter() - start < 10.0
    assert min(map(len, parts)) == 10
