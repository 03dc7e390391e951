"""Arrays of any shape and type for a training of one's own, in memory and on the disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privfl.codec import Vector
from privfl.data import Dataset
from privfl.errors import ConfigError, DataError
from privfl.experiment import Experiment
from privfl.fl.client import ClientUpdate

RNG = np.random.default_rng(0)
ARRAYS: dict[str, tuple[Any, Any]] = {
    "images": (RNG.integers(0, 256, (40, 3, 8, 8)).astype(np.uint8), RNG.integers(0, 5, 40)),
    "tokens": (RNG.integers(0, 900, (40, 12)).astype(np.int32), RNG.integers(0, 900, (40, 12)).astype(np.int32)),
    "several targets": (RNG.normal(size=(40, 6)), RNG.normal(size=(40, 3)).astype(np.float16)),
    "scalars": (np.arange(40), np.arange(40) > 20),
}


def trained(features: Any, targets: Any, folder: Path) -> tuple[Vector, set[Any]]:
    """The model after two rounds of a training that sums its examples, and what it saw."""
    seen = set()
    data = Dataset("mine", "own", features, targets)
    experiment: Experiment | None = None

    def train(model: Vector, client: int, round: int, rng: np.random.Generator) -> ClientUpdate:
        assert experiment is not None
        x, y = experiment.federation.train(client)
        seen.add((x.dtype, x.shape[1:], y.dtype, y.shape[1:]))
        return ClientUpdate(np.array([x.sum(), y.sum(dtype=float)]) / 1e6, len(x))

    train.fingerprint = lambda: "sums"  # type: ignore[attr-defined]
    settings = {"data.clients": 4}
    experiment = Experiment(data=data, train=train, initial=np.zeros(2), rounds=2, runs=folder, overrides=settings)
    experiment.run()
    return experiment.model, seen


@pytest.mark.parametrize("name", ARRAYS)
def test_a_training_gets_examples_as_they_are(name: str, tmp_path: Path) -> None:
    features, targets = ARRAYS[name]
    model, seen = trained(features, targets, tmp_path)
    assert seen == {(features.dtype, features.shape[1:], targets.dtype, targets.shape[1:])}
    assert model.any()


def test_a_memory_mapped_array_stays_on_the_disk(tmp_path: Path) -> None:
    features, targets = ARRAYS["images"]
    np.save(tmp_path / "features.npy", features)
    mapped = np.load(tmp_path / "features.npy", mmap_mode="r")
    data = Dataset("mine", "own", mapped, targets)
    assert np.shares_memory(data.features, mapped)
    in_memory, _ = trained(features, targets, tmp_path / "a")
    on_disk, _ = trained(mapped, targets, tmp_path / "b")
    assert in_memory.tobytes() == on_disk.tobytes()


@pytest.mark.parametrize(
    ("features", "targets"),
    [
        (np.array(["a", "b"]), np.zeros(2)),
        (np.array([object(), 1]), np.zeros(2)),
        (np.zeros((0, 3)), np.zeros(0)),
        (np.float64(3.0), np.zeros(1)),
        (np.zeros((3, 2)), np.zeros(4)),
    ],
)
def test_other_arrays_are_refused(features: Any, targets: Any) -> None:
    with pytest.raises(DataError, match="mine: "):
        Dataset("mine", "own", features, targets)


def test_what_needs_a_table_is_refused() -> None:
    data = Dataset("mine", "own", *ARRAYS["tokens"])
    with pytest.raises(ConfigError, match="is an array of your own: give a `train`"):
        Experiment(data=data, overrides={"data.clients": 4})
    with pytest.raises(ConfigError, match="are no labels for 'dirichlet'"):
        Experiment(data=data, overrides={"data.clients": 4, "data.partition": "dirichlet:1"})
