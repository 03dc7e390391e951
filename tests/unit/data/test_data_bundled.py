import subprocess
import sys

import numpy as np
import pytest

from privfl import data
from privfl.errors import MissingExtra


@pytest.mark.parametrize(
    ("name", "task", "shape", "classes"),
    [
        ("breast_cancer", "binary", (569, 30), 2),
        ("digits", "multiclass", (1797, 64), 10),
        ("diabetes", "regression", (442, 10), 0),
    ],
)
def test_bundled_sets(name: str, task: str, shape: tuple[int, int], classes: int) -> None:
    found = data.load(name)
    assert (found.name, found.task, found.features.shape, len(found.classes)) == (name, task, shape, classes)
    assert found.features.dtype == np.float32
    assert len(found.feature_names) == shape[1]
    assert not len(found.test)


def test_their_values_are_those_of_their_publishers() -> None:
    cancer = data.load("breast_cancer")
    assert cancer.classes == ("malignant", "benign")
    np.testing.assert_array_equal(np.bincount(cancer.targets), [212, 357])
    assert cancer.features[0, 0] == np.float32(17.99)
    digits = data.load("digits")
    assert (digits.features.min(), digits.features.max()) == (0.0, 1.0)
    diabetes = data.load("diabetes")
    assert diabetes.features[0, 0] == 59.0  # an age in years: not scaled over everybody's rows
    assert (diabetes.targets.min(), diabetes.targets.max()) == (25.0, 346.0)


def test_without_scikit_learn_the_pip_line_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(MissingExtra, match=r"pip install 'privfl\[data\]'"):
        data.load("digits")


def test_importing_the_package_does_not_import_scikit_learn() -> None:
    code = (
        "import sys, privfl.data; sys.exit(any(m.split('.')[0] in ('sklearn', 'scipy', 'torch') for m in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
