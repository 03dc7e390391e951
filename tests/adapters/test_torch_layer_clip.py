"""Clipping by layer and by entry in an experiment, the layers being those of the model."""

from pathlib import Path

import numpy as np
import pytest

from privfl.data import Dataset
from privfl.dp import ElementClip, LayerClip
from privfl.errors import ConfigError
from privfl.experiment import Experiment

CENTRAL = {"privacy.placement": "central", "privacy.clip_norm": 1.0, "privacy.noise_multiplier": 1.0}


def an_experiment(runs: Path, **settings: object) -> Experiment:
    rng = np.random.default_rng(2)
    features = rng.normal(size=(60, 3)).astype(np.float32)
    data = Dataset("points", "binary", features, (features[:, 0] > 0).astype(np.int64), classes=("a", "b"))
    common = {"name": "run", "rounds": 2, "data.clients": 4, "client.steps": 1} | CENTRAL
    return Experiment(data=data, runs=runs, overrides=common | settings)


def test_the_layers_of_a_torch_model_are_clipped_one_by_one(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    mlp = {"model.kind": "mlp", "model.hidden": [5], "privacy.clip": "layers"}
    experiment = an_experiment(tmp_path, **mlp)
    clip = experiment.encoding.clip
    assert isinstance(clip, LayerClip)
    assert clip.cuts == (0, 15, 20, 25, 26)  # weights and biases of two layers
    assert clip.norms == pytest.approx((0.5,) * 4)
    assert clip.clip_norm == pytest.approx(1.0)
    reports = list(experiment.run())
    assert reports[-1].status == "trained"
    spent = experiment.epsilon()
    assert spent is not None
    flat = an_experiment(tmp_path, name="flat", **{"model.kind": "mlp", "model.hidden": [5]})
    list(flat.run())
    other = flat.epsilon()
    assert other is not None
    assert spent.epsilon == pytest.approx(other.epsilon, abs=1e-9)  # another way to the same bound
    update = np.full(26, 10.0)
    halves = [np.linalg.norm(clip(update).vector[a:b]) for a, b in zip(clip.cuts, clip.cuts[1:], strict=False)]
    assert halves == pytest.approx([0.5] * 4)


def test_a_linear_model_has_weights_and_biases(tmp_path: Path) -> None:
    clip = an_experiment(tmp_path, **{"privacy.clip": "layers"}).encoding.clip
    assert isinstance(clip, LayerClip)
    assert clip.cuts == (0, 3, 4)


def test_entries_share_the_norm(tmp_path: Path) -> None:
    experiment = an_experiment(tmp_path, **{"privacy.clip": "entries", "privacy.clip_norm": 2.0})
    clip = experiment.encoding.clip
    assert isinstance(clip, ElementClip)
    assert clip.max_abs == pytest.approx(1.0)
    assert clip.clip_norm == pytest.approx(2.0)
    assert list(experiment.run())[-1].status == "trained"


@pytest.mark.parametrize("settings", [{"privacy.clip": "layers"}, {"privacy.clip": "entries"}])
def test_a_way_to_clip_needs_a_norm(tmp_path: Path, settings: dict[str, object]) -> None:
    without = {"privacy.placement": "none", "privacy.noise_multiplier": None, "privacy.clip_norm": None}
    with pytest.raises(ConfigError, match="give it"):
        an_experiment(tmp_path, **without, **settings)
