"""The schema that a table's examples propose, and what it is marked with."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from privfl.data import Column, propose, read_table, tables
from privfl.errors import ConfigError, DataError


def frame() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    rows = 400
    return pd.DataFrame(
        {
            "hospital": rng.choice(["n", "s"], rows),
            "age": rng.integers(18, 90, rows).astype(float),
            "sex": rng.choice(["f", "m"], rows),
            "name": [f"person {at}" for at in range(rows)],
            "site": "main",
            "smokes": rng.choice([True, False], rows),
            "outcome": rng.choice(["dead", "alive", "moved"], rows),
        }
    )


def test_each_kind_of_column_is_proposed_with_its_remark() -> None:
    table = frame()
    table.loc[[2, 5], "age"] = None
    table.loc[7, "sex"] = None
    found = propose(table, "outcome", "hospital")
    assert found.schema.columns == (
        Column("age", "number", missing="mean"),
        Column("sex", "category", values=("f", "m"), missing="own"),
        Column("name", "ignore"),
        Column("site", "ignore"),
        Column("smokes", "category", values=("False", "True")),
    )
    assert (found.schema.task, found.schema.classes) == ("multiclass", ("alive", "dead", "moved"))
    assert found.schema.inferred
    assert found.notes == {
        "age": "2 missing values",
        "sex": "1 missing values",
        "name": "text of more than 50 different values",
        "site": "the same value everywhere",
    }
    assert sum(found.clients.values()) == sum(found.labels.values()) == found.examples == 400
    assert list(found.clients) == ["n", "s"]
    assert read_table(table, found.schema).example_count == 400


@pytest.mark.parametrize("piece", [7, 1000])
def test_a_file_and_its_frame_propose_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    monkeypatch.setattr(tables, "_PIECE", piece)
    table = frame()
    table.to_csv(tmp_path / "t.csv", index=False)
    table.to_parquet(tmp_path / "t.parquet")
    whole = propose(table, "outcome", "hospital")
    assert propose(tmp_path / "t.csv", "outcome", "hospital") == whole
    assert propose(tmp_path / "t.parquet", "outcome", "hospital") == whole
    one, other = (read_table(source, whole.schema) for source in (table, tmp_path / "t.csv"))
    np.testing.assert_array_equal(one.features, other.features)
    np.testing.assert_array_equal(one.targets, other.targets)


@pytest.mark.parametrize(
    ("values", "task", "classes"),
    [
        ([0, 1, 0], "binary", ("0", "1")),
        ([10, 9, 2], "multiclass", ("2", "9", "10")),
        ([0.5, 1, 2], "regression", ()),
        ([1.0, 0.0, None], "binary", ("0", "1")),
        (["-", "+", "-"], "binary", ("+", "-")),
        ([True, False, True], "binary", ("False", "True")),
    ],
)
def test_the_target_decides_on_the_task(values, task, classes) -> None:
    schema = propose(pd.DataFrame({"x": [1.0, 2.0, 3.0], "y": values}), "y").schema
    assert (schema.task, schema.classes) == (task, classes)


def test_a_target_that_cannot_be_learned_and_names_that_are_no_columns() -> None:
    table = frame()
    with pytest.raises(DataError, match="the target 'site' has 1 different values"):
        propose(table, "site")
    with pytest.raises(DataError, match="the target 'name' is text of more than 50"):
        propose(table, "name")
    for target, client, words in ((None, None, "data.target"), ("died", None, "data.target"), ("age", "x", "client")):
        with pytest.raises(ConfigError, match=f"{words}.*hospital, age, sex"):
            propose(table, target, client)
    with pytest.raises(DataError, match="holds no example"):
        propose(table[:0], "age")
