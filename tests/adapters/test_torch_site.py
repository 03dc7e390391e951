"""A hospital's training function in torch, run by its agent as the one in numpy is."""

import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from privfl.fl.client import client_rng
from privfl.site.installed import file_hash, installed_training
from privfl.site.policy import Training
from privfl.site.training import ChildTraining

APPS = Path(__file__).parents[2] / "examples" / "flower" / "hospitals"


def test_the_training_in_torch_is_that_in_numpy(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(80, 5))
    labels = (features @ rng.normal(size=5) > 0).astype(float)
    np.savez(tmp_path / "data.npz", features=features, labels=labels)
    shutil.copy(APPS / "training_torch.py", tmp_path / "train.py")
    policy = Training(sha256=file_hash(tmp_path, Training()), data="data.npz")
    torch.nn.functional.logsigmoid(torch.zeros(1 << 20))  # starts the threads that a forked child does not have
    expected = runpy.run_path(str(APPS / "training.py"))["make"](tmp_path / "data.npz")
    child = ChildTraining(lambda: installed_training(tmp_path, policy))
    try:
        learner, model = child.learner(), np.zeros(6)
        for round in (1, 2):
            found = learner(model, 7, round, client_rng(1, round, 7))
            wanted = expected(model, 7, round, client_rng(1, round, 7))
            np.testing.assert_allclose(found.delta, wanted.delta, atol=1e-9)
            assert found.examples == wanted.examples == 80
            model = model + found.delta
        assert ((features @ model[:-1] + model[-1] > 0) == labels).mean() > 0.95
    finally:
        child.close()
