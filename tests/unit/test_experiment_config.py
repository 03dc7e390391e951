"""Configurations: every error names its key, what was found, and what is allowed."""

from pathlib import Path
from typing import Any

import pytest

from privfl.errors import ConfigError
from privfl.experiment.config import Config, from_mapping, load_config, to_mapping, to_toml


def test_an_empty_file_is_the_default(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("")
    assert load_config(tmp_path / "c.toml") == Config()


FULL: dict[str, Any] = {
    "name": 'quote " back \\ slash é',
    "rounds": 7,
    "seed": 2**40,
    "data.folder": "/somewhere else",
    "data.test": "public",
    "model.hidden": [],
    "model.init": "uniform",
    "client.learning_rate": 1e-05,
    "client.steps": 3,
    "cohort.sampling": "poisson",
    "cohort.probability": 1e16 / 1e17,
    "server.eta": 3,
    "privacy.placement": "central",
    "privacy.clip_norm": 0.1,
}


def test_toml_reads_back_to_an_equal_value(tmp_path: Path) -> None:
    config = Config().with_overrides(FULL)
    (tmp_path / "c.toml").write_text(to_toml(config), encoding="utf-8")
    assert load_config(tmp_path / "c.toml") == config
    assert from_mapping(Config, to_mapping(config)) == config
    assert config.server.eta == 3.0
    assert type(config.server.eta) is float
    assert config.model.hidden == ()


def test_overrides_set_and_unset() -> None:
    config = Config().with_overrides({"client.steps": 5, "rounds": 2})
    assert (config.client.steps, config.rounds) == (5, 2)
    assert config.with_overrides({"client.steps": None}) == Config(rounds=2)
    assert Config().with_overrides({"data": {"clients": 3}}).data.clients == 3


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ({"rouns": 3}, "unknown key 'rouns'; allowed: .*rounds"),
        ({"data.nam": "x"}, "unknown key 'data.nam'; allowed: .*name"),
        ({"date.name": "x"}, "unknown section 'date'"),
        ({"rounds.x": 1}, "unknown section 'rounds'"),
        ({"data.a.b": 1}, "unknown section"),
        ({"rounds": 0}, "rounds must be at least 1, not 0"),
        ({"rounds": 1.5}, "rounds must be an integer, not 1.5"),
        ({"rounds": True}, "rounds must be an integer, not True"),
        ({"rounds": "3"}, "rounds must be an integer, not '3'"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"evaluate_every": -1}, "evaluate_every must be at least 0"),
        ({"data": 3}, "data must be a table, not 3"),
        ({"data.clients": 0}, "data.clients must be at least 1"),
        ({"data.name": 3}, "data.name must be text, not 3"),
        ({"data.test": "both"}, "data.test must be one of 'local', 'public', not 'both'"),
        ({"data.test_fraction": 1.0}, r"test_fraction is a share in \(0, 1\)"),
        ({"data.standardize": True}, "data.standardize must be one of"),
        ({"model.hidden": 5}, "model.hidden must be a list, not 5"),
        ({"model.hidden": [5, "a"]}, r"model.hidden\[1\] must be an integer"),
        ({"model.init": "ones"}, "model.init must be one of 'zeros', 'uniform'"),
        ({"client.learning_rate": float("nan")}, "client.learning_rate must be a finite number"),
        ({"client.learning_rate": True}, "client.learning_rate must be a finite number"),
        ({"client.learning_rate": 10**400}, "client.learning_rate must be a finite number"),
        ({"client.steps": "many"}, "client.steps must be an integer"),
        ({"cohort.min_survivors": 0}, r"min_survivors is a share in \(0, 1\]"),
        ({"cohort.dropout": 1}, r"cohort.dropout is a probability in \[0, 1\)"),
        ({"cohort.retries": -1}, "cohort.retries must be at least 0"),
        ({"engine.workers": -1}, "engine.workers must be at least 0"),
        ({"sum.key_sums": 0}, "sum.key_sums must be at least 1, not 0"),
        ({"engine.sum_workers": 0}, "engine.sum_workers must be at least 1, not 0"),
        ({"sum.scheme": "magic"}, "sum.scheme must be one of 'plain', 'masked', 'ckks'"),
        ({"privacy.placement": []}, "privacy.placement must be one of"),
        ({"name": ""}, "usable as a folder's name"),
        ({"name": "a/b"}, "usable as a folder's name"),
        ({"name": "..", "rounds": 2}, "usable as a folder's name"),
        ({"name": "a\0b"}, "usable as a folder's name"),
        ({"name": "a\nb"}, "usable as a folder's name"),
    ],
)
def test_what_is_wrong_is_named(overrides: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        Config().with_overrides(overrides)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    with pytest.raises(ConfigError, match=r"cannot read .*No such file"):
        load_config(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_config(path)
    path.write_text("rounds = ")
    with pytest.raises(ConfigError, match="not TOML"):
        load_config(path)
    path.write_text("[cohort]\nsise = 3\n")
    with pytest.raises(ConfigError, match=r"unknown key 'cohort\.sise'"):
        load_config(path)
