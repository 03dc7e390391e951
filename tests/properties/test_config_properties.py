"""Configurations for many values: TOML and back, numpy's numbers, and one sentence for whatever is not allowed."""

import dataclasses
import tomllib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privfl.errors import ConfigError
from privfl.experiment.config import SECTIONS, Config, from_mapping, load_config, to_mapping, to_toml
from privfl.experiment.config.schema import config_schema

SCHEMA = config_schema()
KEYS = [(name, key) for name, of in SECTIONS.items() for key in (item.name for item in dataclasses.fields(of))]
TEXT = st.text('ab1.~"\\\n\t\0\x7fé\u20ac\U0001f600', max_size=8)
ANYTHING = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXT, st.lists(st.integers(), max_size=3))


def allowed(name: str, key: str) -> st.SearchStrategy[Any]:
    """Values that the schema of a key allows."""
    schema = SCHEMA["$defs"][SECTIONS[name].__name__]["properties"][key]
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if schema["type"] == "integer":
        return st.integers(schema.get("minimum", 0), schema.get("maximum", 1000))
    if schema["type"] == "number":
        low = schema.get("minimum", schema.get("exclusiveMinimum", 0))
        high = schema.get("maximum", schema.get("exclusiveMaximum", 1000))
        return st.floats(
            low, high, exclude_min="exclusiveMinimum" in schema, exclude_max="exclusiveMaximum" in schema
        )  # fmt: skip
    if schema["type"] == "array":
        numbers = {"integer": st.integers(1, 500), "number": st.floats(0, 1, exclude_min=True)}
        items: st.SearchStrategy[Any] = numbers.get(schema["items"]["type"], TEXT)
        return st.lists(items, max_size=4)
    return st.booleans() if schema["type"] == "boolean" else TEXT


@st.composite
def configs(draw: st.DrawFn) -> Config:
    chosen = draw(st.lists(st.sampled_from(KEYS), max_size=8, unique=True))
    overrides = {f"{name}.{key}": draw(allowed(name, key)) for name, key in chosen}
    return Config(rounds=draw(st.integers(1, 99)), seed=draw(st.integers(0, 2**60))).with_overrides(overrides)


@given(configs())
def test_what_the_schema_allows_is_taken_and_survives_toml(config: Config) -> None:
    assert from_mapping(tomllib.loads(to_toml(config))) == config
    assert from_mapping(to_mapping(config)) == config
    assert config.with_overrides({}) == config


@given(st.sampled_from(KEYS), ANYTHING)
def test_a_value_is_taken_or_refused_with_its_key(place: tuple[str, str], value: Any) -> None:
    name, key = place
    fault = None
    try:
        config = Config().with_overrides({f"{name}.{key}": value})
    except ConfigError as error:
        fault = str(error)
    if fault is not None:
        assert f"{name}.{key}" in fault
        assert "must be" in fault
        return
    kept = getattr(getattr(config, name), key)
    assert value is None or kept == (tuple(value) if isinstance(value, list) else value)


@given(st.sampled_from(KEYS), ANYTHING)
def test_a_section_refuses_what_a_file_does(place: tuple[str, str], value: Any) -> None:
    name, key = place
    if value is None:
        return  # TOML has no null
    refusals = []
    for make in (lambda: SECTIONS[name](**{key: value}), lambda: from_mapping({name: {key: value}})):
        try:
            make()
            refusals.append("")
        except ConfigError as error:
            refusals.append(str(error))
    assert refusals[0] == refusals[1]


@given(st.sampled_from([np.int8, np.uint16, np.int64]), st.integers(1, 100), st.sampled_from([np.float32, np.float64]))
def test_numpy_numbers_are_taken_as_python_s(integer: Any, count: int, real: Any) -> None:
    config = Config(rounds=integer(count)).with_overrides(
        {"data.clients": integer(count), "client.learning_rate": real(count / 128), "model.hidden": [integer(count)]}
    )
    assert config == Config(rounds=count).with_overrides(
        {"data.clients": count, "client.learning_rate": count / 128, "model.hidden": [count]}
    )
    assert type(config.client.learning_rate) is float


def test_a_file_is_what_its_values_are(tmp_path: Any) -> None:
    for mark in (b"", b"\xef\xbb\xbf"):
        (tmp_path / "c.toml").write_bytes(mark + to_toml(Config(rounds=3)).encode())
        assert load_config(tmp_path / "c.toml") == Config(rounds=3)
    (tmp_path / "c.toml").write_bytes(b"\x00")
    with pytest.raises(ConfigError, match="not TOML"):
        load_config(tmp_path / "c.toml")
