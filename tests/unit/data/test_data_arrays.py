"""Examples that a program holds already."""

import numpy as np
import pytest

from privfl.data import from_arrays, from_torch, partition
from privfl.errors import ConfigError, DataError


def test_arrays_of_any_shape_and_type_are_flattened() -> None:
    images = np.arange(4 * 2 * 3, dtype=np.uint8).reshape(4, 2, 3)
    dataset = from_arrays(images, ["b", "a", "b", "a"], clients=[10, 2, 10, 2], test=[3])
    assert dataset.features.dtype == np.float32
    np.testing.assert_array_equal(dataset.features, images.reshape(4, 6))
    assert (dataset.task, dataset.classes) == ("binary", ("a", "b"))
    np.testing.assert_array_equal(dataset.targets, [1, 0, 1, 0])
    assert partition(dataset, "natural").names == ("10", "2")
    assert dataset.own


@pytest.mark.parametrize(
    ("targets", "settings", "task", "codes"),
    [
        ([0, 1, 2], {}, "multiclass", [0, 1, 2]),
        ([5, -1, 5], {}, "binary", [1, 0, 1]),
        ([1.0, 0.0, 1.0], {}, "binary", [1, 0, 1]),
        ([1.5, 0.0, 1.0], {}, "regression", [1.5, 0, 1]),
        ([3, 4, 4], {"task": "regression"}, "regression", [3, 4, 4]),
        ([True, False, True], {}, "binary", [1, 0, 1]),
        ([0, 1, 1], {"classes": ["x", "y", "z"]}, "multiclass", [0, 1, 1]),
    ],
)
def test_the_targets_decide_on_the_task(targets, settings, task, codes) -> None:
    dataset = from_arrays(np.ones((3, 1)), targets, **settings)
    assert dataset.task == task
    np.testing.assert_array_equal(dataset.targets, codes)


@pytest.mark.parametrize(
    ("features", "targets", "settings"),
    [
        (np.ones(3), [0, 1, 1], {}),
        (np.ones((0, 2)), [], {}),
        (np.array([["a"], ["b"]]), [0, 1], {}),
        (np.ones((3, 1)), [0, 1], {}),
        (np.ones((3, 1)), [0, 0, 0], {}),
        (np.ones((3, 1)), [0.5, np.nan, 1], {}),
        (np.ones((3, 1)), [1.0, np.nan, 1], {"task": "classes"}),
        (np.ones((3, 1)), [0, 1, 1], {"clients": [1, 2]}),
        (np.ones((3, 1)), [0, 1, 3], {"classes": ["x", "y"]}),
        (np.full((3, 1), np.inf), [0, 1, 1], {}),
    ],
)
def test_arrays_that_are_no_examples_are_refused(features, targets, settings) -> None:
    with pytest.raises(DataError):
        from_arrays(features, targets, **settings)


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(ConfigError, match="task must be 'classes' or 'regression'"):
        from_arrays(np.ones((2, 1)), [0, 1], task="binary")


def test_a_data_set_of_pairs_is_read_once() -> None:
    class Pairs:
        reads = 0

        def __len__(self) -> int:
            return 3

        def __getitem__(self, at: int):
            self.reads += 1
            return np.full((2, 2), at), at % 2

    pairs = Pairs()
    dataset = from_torch(pairs, clients=[0, 1, 1])
    assert (dataset.name, dataset.features.shape, dataset.task, pairs.reads) == ("Pairs", (3, 4), "binary", 3)
    with pytest.raises(DataError, match=r"must be \(features, target\)"):
        from_torch([1, 2, 3])
