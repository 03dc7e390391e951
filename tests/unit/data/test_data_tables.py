"""Tables of one's own: what becomes a feature, what is refused and how, and that pieces do not matter."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from privfl.data import Column, Dataset, Schema, load_schema, partition, read_table, tables
from privfl.errors import ConfigError, DataError

COLUMNS = (
    Column("age", low=0, high=120, missing="mean"),
    Column("sex", "category", values=("f", "m"), missing="own"),
    Column("ward", "category", values=("a", "b", "c"), unknown="zeros", missing="zeros"),
    Column("note", "ignore"),
)
SCHEMA = Schema("died", "binary", ("no", "yes"), "hospital", COLUMNS)
ROWS = """hospital,age,sex,ward,note,died
north,50,f,a,x,no
south,?,m,b,y,yes
north,61.5,,z,,no
east,70,m,,z,yes
"""


def file(folder: Path, text: str, name: str = "patients.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def check_rows(dataset: Dataset) -> None:
    assert dataset.feature_names == ("age", "sex=f", "sex=m", "sex=missing", "ward=a", "ward=b", "ward=c")
    expected = [
        [50, 1, 0, 0, 1, 0, 0],
        [np.nan, 0, 1, 0, 0, 1, 0],
        [61.5, 0, 0, 1, 0, 0, 0],
        [70, 0, 1, 0, 0, 0, 0],
    ]
    np.testing.assert_array_equal(dataset.features, np.array(expected, np.float32))
    np.testing.assert_array_equal(dataset.targets, [0, 1, 0, 1])
    assert dataset.grouping("hospital").names == ("east", "north", "south")
    np.testing.assert_array_equal(dataset.grouping().codes, [1, 2, 1, 0])
    assert dataset.own
    assert not dataset.inferred
    assert dataset.ranges == ((0, 120), *[(0.0, 1.0)] * 6)


@pytest.mark.parametrize("piece", [1, 3, 100])
def test_a_csv_file_is_read_in_pieces_of_any_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    monkeypatch.setattr(tables, "_PIECE", piece)
    check_rows(read_table(file(tmp_path, ROWS), SCHEMA))


@pytest.mark.parametrize("separator", [";", "\t"])
def test_other_separators_spaces_and_a_byte_order_mark(tmp_path: Path, separator: str) -> None:
    text = "\ufeff" + ROWS.replace(",", separator + " ")
    check_rows(read_table(file(tmp_path, text), SCHEMA))


def test_a_frame_and_a_parquet_file_give_the_same(tmp_path: Path) -> None:
    frame = pd.read_csv(file(tmp_path, ROWS), na_values=["?"])
    check_rows(read_table(frame, SCHEMA, name="patients"))
    frame.to_parquet(tmp_path / "patients.parquet")
    check_rows(read_table(tmp_path / "patients.parquet", SCHEMA))


def test_a_folder_has_one_client_for_each_file(tmp_path: Path) -> None:
    schema = Schema("died", "binary", ("no", "yes"), None, COLUMNS)
    lines = ROWS.splitlines()
    for name, rows in (("north", [1, 3]), ("south", [2]), ("east", [4])):
        text = [lines[0], *(lines[at] for at in rows)]
        file(tmp_path, "\n".join(line.split(",", 1)[1] for line in text), f"{name}.csv")
    dataset = read_table(tmp_path, schema)
    federation = partition(dataset, "natural", test_fraction=0.0)
    assert federation.names == ("east", "north", "south")
    assert list(federation.sizes) == [1, 2, 1]
    file(tmp_path, "age,died\n1,no\n", "west.csv")
    with pytest.raises(DataError, match=r"west\.csv has other columns than east\.csv: note, sex, ward"):
        read_table(tmp_path, schema)


def test_a_second_table_is_a_public_test_set(tmp_path: Path) -> None:
    test = file(tmp_path, "age,sex,ward,note,died\n33,f,a,,yes\n", "test.csv")
    dataset = read_table(file(tmp_path, ROWS), SCHEMA, test=test)
    np.testing.assert_array_equal(dataset.test, [4])
    assert dataset.features[4, 0] == 33


def test_whole_numbers_name_categories_with_and_without_missing_values(tmp_path: Path) -> None:
    columns = (Column("code", "category", values=("1", "2"), missing="zeros"), Column("x"))
    schema = Schema("y", "multiclass", ("0", "1", "2"), None, columns)
    for text in ("code,x,y\n1,0,2\n2,0,1\n", "code,x,y\n1,0,2\n2,0,1\n,0,0\n"):
        path = file(tmp_path, text)
        for source in (path, pd.read_csv(path)):
            dataset = read_table(source, schema)
            np.testing.assert_array_equal(dataset.features[:, 0], [0, 1, 0][: dataset.example_count])
            np.testing.assert_array_equal(dataset.targets, [2, 1, 0][: dataset.example_count])


def test_a_regression_and_a_number_in_place_of_missing_values(tmp_path: Path) -> None:
    schema = Schema("y", "regression", (), None, (Column("x", missing=-1.5),))
    dataset = read_table(file(tmp_path, "x,y\n1,2.5\n,3e2\n"), schema)
    np.testing.assert_array_equal(dataset.features, [[1], [-1.5]])
    np.testing.assert_array_equal(dataset.targets, [2.5, 300])


SECRET = "Q7Z"
REFUSED = {
    "a missing value": (ROWS.replace("61.5", ""), {"missing": "refuse"}, "'age' has 2 missing values: set [col"),
    "no number": (ROWS.replace("61.5", SECRET), {}, "'age' has 1 values that are no finite numbers: set [columns.age]"),
    "an infinity": (ROWS.replace("61.5", "inf"), {}, "'age' has 1 values that are no finite numbers"),
    "an unknown category": (ROWS.replace(",f,", f",{SECRET},"), {}, "'sex' has 1 values that its list does not hold"),
    "an unknown class": (ROWS.replace("x,no", f"x,{SECRET}"), {}, "'died' has 1 targets that are no class: complete"),
    "a missing target": (ROWS.replace("x,no", "x,"), {}, "'died' has 1 missing targets: leave these examples out"),
    "a missing client": (ROWS.replace("south,", ","), {}, "'hospital' has 1 missing clients: name a client"),
    "a column of no role": (ROWS.replace("hospital", "hospital,extra").replace("north,", f"north,{SECRET},"), {}, ""),
    "an absent column": (ROWS.replace("age", "years"), {}, "has no column 'age'; it has hospital, years"),
    "a repeated column": (ROWS.replace("note", "age"), {}, "has the column 'age' more than once"),
    "no example": (ROWS.splitlines()[0] + "\n", {}, "holds no example"),
    "nothing": ("", {}, "is empty: its first line names the columns"),
    "a line too long": (ROWS + f"north,1,f,a,x,no,{SECRET}\n", {}, "another number of fields than the first"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_each_refusal_names_file_column_count_and_remedy(tmp_path: Path, kind: str) -> None:
    text, change, words = REFUSED[kind]
    columns: Any = (Column("age", **({"missing": "mean"} | change)), *COLUMNS[1:])
    with pytest.raises(DataError) as error:
        read_table(file(tmp_path, text), Schema("died", "binary", ("no", "yes"), "hospital", columns))
    assert "patients" in str(error.value)
    assert words in str(error.value)
    assert SECRET not in str(error.value)
    assert error.value.__cause__ is None


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", b"x", "is not a table: allowed are files that end in .csv, .tsv, .parquet"),
        ("a.parquet", b"x,y\n1,2\n", "is not a Parquet file that can be read"),
        ("a.csv", "x,y\né,1\n".encode("latin-1"), "is not UTF-8 text: save it as UTF-8"),
        ("absent.csv", None, "is not there"),
    ],
)
def test_files_that_are_no_tables(tmp_path: Path, name: str, content: bytes | None, words: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=words):
        read_table(tmp_path / name, SCHEMA)


def test_an_empty_folder_and_an_object_that_is_no_table(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no file that ends in"):
        read_table(tmp_path, SCHEMA)
    with pytest.raises(ConfigError, match="a table is a path or a pandas frame, not a dict"):
        read_table({}, SCHEMA)


SCHEMAS = {
    "kind": "[columns.age]\nkind = 'real'",
    "values": "[columns.age]\nkind = 'category'\nvalues = ['a']",
    "high": "[columns.age]\nkind = 'number'\nlow = 3.0",
    "missing": "[columns.age]\nmissing = 'zeros'",
    "unknown": "[columns.age]\nkind = 'category'\nvalues = ['a', 'b']\nunknown = 'own'",
    "low": "[columns.age]\nkind = 'category'\nvalues = ['a', 'b']\nlow = 1.0\nhigh = 2.0",
    "unknown key columns.age.colour": "[columns.age]\ncolour = 1",
    "two roles": "[columns.died]\nkind = 'ignore'",
    "no column becomes a feature": "[columns.age]\nkind = 'ignore'",
}


@pytest.mark.parametrize("words", SCHEMAS)
def test_a_schema_that_contradicts_itself_is_refused_with_its_key(tmp_path: Path, words: str) -> None:
    path = file(tmp_path, f"target = 'died'\ntask = 'binary'\nclasses = ['no', 'yes']\n{SCHEMAS[words]}\n", "s.toml")
    with pytest.raises(ConfigError, match=words) as error:
        load_schema(path)
    assert str(path) in str(error.value)


def test_a_schema_is_written_and_read_back() -> None:
    assert Schema.from_mapping(SCHEMA.to_mapping()) == SCHEMA
