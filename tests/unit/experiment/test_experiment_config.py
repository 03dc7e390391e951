"""Configurations: every error names its key, what was found, and what is allowed."""

import dataclasses
import json
import pickle
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privfl.errors import ConfigError
from privfl.experiment import Client, Cohort, Data, Engine, Experiment, Model, Privacy, Server, Sum
from privfl.experiment.config import SECTIONS, Config, from_mapping, load_config, to_mapping, to_toml
from privfl.experiment.config.schema import config_schema, reference_page


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
    assert from_mapping(to_mapping(config)) == config
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
        ({"rounds": 0}, r"rounds must be in \[1, 999999\], not 0"),
        ({"rounds": 1.5}, "rounds must be an integer, not 1.5"),
        ({"rounds": True}, "rounds must be an integer, not True"),
        ({"rounds": "3"}, "rounds must be an integer, not '3'"),
        ({"seed": -1}, r"seed must be in \[0, "),
        ({"evaluate_every": -1}, "evaluate_every must be at least 0"),
        ({"data": 3}, "data must be a table, not 3"),
        ({"data.clients": 0}, "data.clients must be at least 1"),
        ({"data.name": 3}, "data.name must be text, not 3"),
        ({"data.test": "both"}, "data.test must be one of 'local', 'public', not 'both'"),
        ({"data.test_fraction": 1.0}, r"test_fraction must be in \(0, 1\), not 1"),
        ({"data.standardize": True}, "data.standardize must be one of"),
        ({"model.hidden": 5}, "model.hidden must be a list, not 5"),
        ({"model.hidden": [5, "a"]}, r"model.hidden\[1\] must be an integer"),
        ({"model.init": "ones"}, "model.init must be one of 'zeros', 'uniform'"),
        ({"client.learning_rate": float("nan")}, "client.learning_rate must be a finite number"),
        ({"client.learning_rate": True}, "client.learning_rate must be a finite number"),
        ({"client.learning_rate": 10**400}, "client.learning_rate must be a finite number"),
        ({"client.steps": "many"}, "client.steps must be an integer"),
        ({"cohort.min_survivor_fraction": 0}, r"min_survivor_fraction must be in \(0, 1\], not 0"),
        ({"cohort.dropout": 1}, r"cohort.dropout must be in \[0, 1\), not 1"),
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


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Sum(scheme="maskd"), "sum.scheme must be one of 'plain', 'masked', 'ckks', not 'maskd'"),
        (lambda: Sum("maskd"), "sum.scheme must be one of"),
        (lambda: Privacy("central", -1.0), "privacy.clip_norm must be greater than 0, not -1.0"),
        (lambda: Privacy("central", clip_norm=0), "privacy.clip_norm must be greater than 0, not 0"),
        (lambda: Privacy(delta=1.0), r"privacy.delta must be in \(0, 1\), not 1.0"),
        (lambda: Privacy(epsilon=float("inf")), "privacy.epsilon must be a finite number"),
        (lambda: Privacy(noise_multiplier=np.float32("nan")), "privacy.noise_multiplier must be a finite number"),
        (lambda: Data(clients="5"), "data.clients must be an integer, not '5'; write it without quotes"),
        (lambda: Data(nmae="digits"), "unknown key 'data.nmae'.*did you mean data.name"),
        (lambda: Client(learning_rate=(1 << 60) + 1), "client.learning_rate must be a finite number that floating"),
        (lambda: Client(steps=0), "client.steps must be at least 1, not 0"),
        (lambda: Client(steps=True), "client.steps must be an integer, not True"),
        (lambda: Cohort("poisson", 1.5), r"cohort.probability must be in \(0, 1\], not 1.5"),
        (lambda: Server(beta_1=1), r"server.beta_1 must be in \[0, 1\)"),
        (lambda: Sum(rotation=1), "sum.rotation must be true or false, not 1"),
        (lambda: Sum(bits=65), r"sum.bits must be in \[8, 64\], not 65"),
        (lambda: Model(hidden=(8, 0)), r"model.hidden\[1\] must be greater than 0, not 0"),
        (lambda: Engine(0, 1, 2), "Engine takes 2 values by position"),
        (lambda: Config(data={"clients": 3}), r"data must be a section Data\(...\), not a dict"),
        (lambda: Config(data=Model()), r"data must be a section Data\(...\), not a Model"),
        (lambda: dataclasses.replace(Config(), rounds=0), r"rounds must be in \[1, 999999\]"),
    ],
)
def test_sections_are_checked_when_they_are_constructed(make: Callable[[], object], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        make()


def test_every_fault_is_named_once() -> None:
    with pytest.raises(ConfigError) as caught:
        Data(clients=0, min_examples=-1, name=7)
    assert str(caught.value) == (
        "data.name must be text, not 7; data.clients must be at least 1, not 0; "
        "data.min_examples must be at least 1, not -1"
    )


def test_no_fault_shows_somebody_s_data() -> None:
    patients = np.arange(900.0).reshape(300, 3) + 0.125
    for make in (lambda: Data(patients), lambda: Data(name=patients.tolist()), lambda: Config(data=patients)):
        with pytest.raises(ConfigError) as caught:
            make()
        assert "0.125" not in str(caught.value)
        assert len(str(caught.value)) < 200


def test_sections_are_values() -> None:
    section = Data("breast_cancer", clients=10, partition="dirichlet:1", standardize="public")
    assert section == Config().with_overrides(
        {"data.clients": 10, "data.partition": "dirichlet:1", "data.standardize": "public"}
    ).data  # fmt: skip
    assert pickle.loads(pickle.dumps(section)) == section  # noqa: S301  # its own value, made a line above
    assert hash(section) == hash(dataclasses.replace(section))
    with pytest.raises(dataclasses.FrozenInstanceError):
        section.clients = 3  # type: ignore[misc]
    assert Config().with_overrides({"data": section}).data == section


def test_numpy_scalars_are_the_numbers_that_they_are() -> None:
    config = Config(rounds=np.int64(2), client=Client(learning_rate=np.array([0.1])[0], steps=np.uint8(4)))
    assert (type(config.rounds), type(config.client.learning_rate), type(config.client.steps)) == (int, float, int)
    assert config.client.learning_rate == 0.1
    changed = config.with_overrides(
        {"model.hidden": list(np.arange(8, 10)), "sum.rotation": np.bool_(True), "data.name": np.str_("digits")}
    )
    assert (changed.model.hidden, changed.sum.rotation, changed.data.name) == ((8, 9), True, "digits")
    assert Model(hidden=np.array([3, 4])).hidden == (3, 4)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"rounds must be an integer, not 2\.5"):
        Config(rounds=np.float64(2.5))  # type: ignore[arg-type]
    assert tomllib.loads(to_toml(changed))["model"]["hidden"] == [8, 9]


def test_a_byte_order_mark_is_not_part_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(b'\xef\xbb\xbfname = "mine"\nrounds = 3\n')
    assert load_config(path) == load_config(str(path)) == Config(name="mine", rounds=3)
    path.write_bytes('name = "mine"'.encode("utf-16"))
    with pytest.raises(ConfigError, match="save it as UTF-8"):
        load_config(path)


def test_the_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text("rounds = 1")
    assert load_config("~/mine.toml").rounds == 1
    assert Experiment.from_file("~/mine.toml", runs="~/runs").folder == tmp_path / "runs" / "run"
    with pytest.raises(ConfigError, match="no such home folder"):
        Experiment(runs="~nobody-of-this-name/runs")
    assert not (tmp_path / "~").exists()


def test_the_schema_describes_what_a_file_may_hold() -> None:
    schema = config_schema()
    assert json.loads(json.dumps(schema)) == schema
    assert set(schema["properties"]) == {item.name for item in dataclasses.fields(Config)}
    assert schema["additionalProperties"] is False
    for name, of in SECTIONS.items():
        table = schema["$defs"][of.__name__]
        assert set(table["properties"]) == {item.name for item in dataclasses.fields(of)}
        for key, value in table["properties"].items():
            assert value["description"].endswith("."), f"{name}.{key}"
            assert "null" not in json.dumps(value), "TOML has no null"
    clients = schema["$defs"]["Data"]["properties"]["clients"]
    assert (clients["type"], clients["minimum"], clients["default"]) == ("integer", 1, 10)
    delta = schema["$defs"]["Privacy"]["properties"]["delta"]
    assert (delta["exclusiveMinimum"], delta["exclusiveMaximum"]) == (0, 1)
    assert schema["$defs"]["Sum"]["properties"]["scheme"]["enum"] == ["plain", "masked", "ckks"]


def test_every_section_documents_its_attributes() -> None:
    for of in (Config, *SECTIONS.values()):
        text = str(of.__doc__)
        assert all(f"\n    {item.name}: " in text for item in dataclasses.fields(of)), of


def test_the_configuration_reference_is_what_is_generated() -> None:
    page = Path(__file__).parents[3] / "docs" / "configuration.md"
    assert page.read_text(encoding="utf-8") == reference_page(), "run: privfl config reference"
    for name, of in SECTIONS.items():
        assert f"## [{name}]" in reference_page()
        for item in dataclasses.fields(of):
            assert f"- `{item.name}` (" in reference_page()
