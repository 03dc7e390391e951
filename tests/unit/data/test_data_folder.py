import gzip
import shutil
import struct
import time
from pathlib import Path

import numpy as np
import pytest

from privfl import data
from privfl.data import folder as folders
from privfl.data.adult import COUNTRIES, adult
from privfl.data.heart import FEATURES, HOSPITALS, heart, split
from privfl.data.mnist import mnist, parse_idx
from privfl.data.parkinsons import parkinsons
from privfl.data.shakespeare import ALPHABET, decode_text, encode_text, shakespeare, speeches
from privfl.errors import ConfigError, DataError

ALL = ("adult", "heart", "mnist", "parkinsons", "shakespeare")


def put(root: Path, name: str, content: bytes | str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


# --- absent and altered files


@pytest.mark.parametrize("name", ALL)
def test_an_absent_file_names_the_folder_and_the_page(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read") as caught:
        data.load(name, tmp_path)
    assert str(tmp_path / name) in str(caught.value)
    assert folders.PAGES[name] in str(caught.value)


def test_no_folder_at_all_names_the_variable_and_the_page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PRIVFL_DATA", raising=False)
    with pytest.raises(DataError, match=r"PRIVFL_DATA; heart/.*archive\.ics\.uci\.edu"):
        data.load("heart")
    monkeypatch.setenv("PRIVFL_DATA", str(tmp_path / "none"))
    with pytest.raises(DataError, match=r"none does not exist; heart/"):
        data.load("heart")


def test_the_variable_serves_where_no_argument_does(monkeypatch: pytest.MonkeyPatch, data_folder: Path) -> None:
    monkeypatch.setenv("PRIVFL_DATA", str(data_folder))
    assert data.load("heart").example_count == 740


@pytest.mark.parametrize("name", ALL)
def test_an_altered_file_is_refused(name: str, tmp_path: Path) -> None:
    for file in folders.CHECKSUMS:
        put(tmp_path, file, b"something else")
    with pytest.raises(DataError, match=r"(md5|sha256) [0-9a-f]+, expected is [0-9a-f]+; download it again from http"):
        data.load(name, tmp_path)


def test_the_listed_checksums_are_those_of_the_files(data_folder: Path) -> None:
    for file in folders.CHECKSUMS:
        name, _, rest = file.partition("/")
        assert folders.read(name, rest, data_folder)


# --- MNIST


def idx(values: np.ndarray) -> bytes:  # type: ignore[type-arg]
    header = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
    return gzip.compress(header + values.tobytes(), mtime=0)


def test_mnist(data_folder: Path) -> None:
    start = time.perf_counter()
    found = mnist(data_folder)
    assert time.perf_counter() - start < 15.0  # 0.8 s on an idle core; the bound only tells minutes from seconds
    assert (found.features.shape, found.features.dtype) == ((70_000, 784), np.float32)
    assert (found.features.min(), found.features.max()) == (0.0, 1.0)
    np.testing.assert_array_equal(found.targets[:5], [5, 0, 4, 1, 9])
    np.testing.assert_array_equal(found.targets[60_000:60_003], [7, 2, 1])
    np.testing.assert_array_equal(found.test, np.arange(60_000, 70_000))
    assert abs(float(found.features[:60_000].mean(dtype=np.float64)) - 0.1307) < 1e-4


def test_an_mnist_file_with_a_wrong_md5_is_refused(tmp_path: Path, data_folder: Path) -> None:
    (tmp_path / "mnist").mkdir()
    for path in (data_folder / "mnist").iterdir():
        shutil.copyfile(path, tmp_path / "mnist" / path.name)
    file = tmp_path / "mnist" / "train-labels-idx1-ubyte.gz"
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)
    with pytest.raises(DataError, match=r"train-labels-idx1-ubyte\.gz has the md5"):
        mnist(tmp_path)
    with pytest.raises(DataError, match="not a whole gzip file"):
        mnist(tmp_path, verify=False)


def test_idx_is_read_exactly() -> None:
    values = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    np.testing.assert_array_equal(parse_idx(idx(values), (2, 3, 4)), values)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "holds|begin"),
        (b"plain bytes", "not a whole gzip"),
        (idx(np.zeros((2, 3), np.uint8))[:-9], "not a whole gzip"),
        (idx(np.zeros((2, 3), np.uint8))[:5], "not a whole gzip"),
        (idx(np.zeros((3, 2), np.uint8)), "does not begin with"),
        (idx(np.zeros(6, np.uint8)), "does not begin with"),
        (gzip.compress(struct.pack(">HBBII", 0, 9, 2, 2, 3) + bytes(6), mtime=0), "does not begin with"),
        (gzip.compress(struct.pack(">HBBII", 0, 8, 2, 2, 3) + bytes(5), mtime=0), "fewer than"),
        (gzip.compress(struct.pack(">HBBII", 0, 8, 2, 2, 3) + bytes(7), mtime=0), "more than"),
        (gzip.compress(struct.pack(">HBBII", 0, 8, 2, 2, 3) + bytes(1 << 20), mtime=0), "more than"),
    ],
)
def test_malformed_idx_is_refused(content: bytes, words: str) -> None:
    with pytest.raises(DataError, match=words):
        parse_idx(content, (2, 3), "here")


def test_garbled_deflate_is_refused() -> None:
    raw = bytearray(idx(np.random.default_rng(0).integers(0, 255, (2, 300), np.uint8)))
    raw[10] = 0xFF  # an impossible block type
    with pytest.raises(DataError, match="here is not a whole gzip file"):
        parse_idx(bytes(raw), (2, 300), "here")


def test_a_label_above_nine_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "mnist/train-images-idx3-ubyte.gz", idx(np.zeros((60_000, 28, 28), np.uint8)))
    put(tmp_path, "mnist/train-labels-idx1-ubyte.gz", idx(np.full(60_000, 10, np.uint8)))
    with pytest.raises(DataError, match="a label is above 9"):
        mnist(tmp_path, verify=False)


# --- heart


def test_heart_has_the_rows_and_splits_of_its_rule(data_folder: Path) -> None:
    found = heart(data_folder)
    assert (found.features.shape, found.feature_names) == ((740, 13), FEATURES)
    assert np.isfinite(found.features).all()
    grouping = found.grouping()
    assert grouping.names == HOSPITALS
    np.testing.assert_array_equal(np.bincount(grouping.codes), [303, 261, 46, 130])
    fed = data.partition(found, "natural", 4)
    assert [(len(c.train), len(c.test)) for c in fed.clients] == [(199, 104), (172, 89), (30, 16), (85, 45)]
    assert not len(fed.test)
    assert fed.label_counts()[2].tolist() == [0, 30]  # switzerland trains on one class
    assert (fed.train(2)[0][:, FEATURES.index("chol")] == 0).all()  # and on a constant column
    np.testing.assert_array_equal(found.features[0], [63, 1, 145, 233, 1, 150, 0, np.float32(2.3), 0, 0, 0, 0, 1])
    np.testing.assert_array_equal(found.features[1, -5:], [0, 0, 1, 0, 1])
    assert found.targets[:3].tolist() == [0, 1, 1]


def test_the_heart_split_is_that_of_scikit_learn(data_folder: Path) -> None:
    selection = pytest.importorskip("sklearn.model_selection")
    found = heart(data_folder)
    for code in range(4):
        rows = np.flatnonzero(found.grouping().codes == code)
        labels = found.targets[rows]
        stratify = labels if np.bincount(labels, minlength=2).min() > 2 else None
        train, test = selection.train_test_split(
            np.arange(len(rows)), test_size=1 - 0.66, train_size=0.66, random_state=43, stratify=stratify
        )
        own = split(labels)
        np.testing.assert_array_equal(own[0], np.sort(train))
        np.testing.assert_array_equal(own[1], np.sort(test))
        np.testing.assert_array_equal(np.intersect1d(found.test, rows), rows[np.sort(test)])


@pytest.mark.parametrize(("healthy", "ill"), [(3, 3), (10, 10), (7, 50), (25, 26), (2, 40), (0, 9), (101, 99)])
def test_the_split_is_that_of_scikit_learn_for_other_labels(healthy: int, ill: int) -> None:
    selection = pytest.importorskip("sklearn.model_selection")
    labels = np.random.default_rng(1).permutation(np.repeat([0, 1], [healthy, ill]))
    stratify = labels if min(healthy, ill) > 2 else None
    train, test = selection.train_test_split(
        np.arange(len(labels)), test_size=1 - 0.66, train_size=0.66, random_state=43, stratify=stratify
    )
    np.testing.assert_array_equal(split(labels)[0], np.sort(train))
    np.testing.assert_array_equal(split(labels)[1], np.sort(test))


ROW = "63,1,4,145,233,1,2,150,0,2.3,3,0,6,1\n"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "no rows"),
        ("1,2,3\n", "line 1: 3 values, expected 14"),
        (ROW.replace("145", "high"), r"column \d+: a value is not a number"),
        (ROW.replace("145", "nan"), r"column \d+: a value is not a finite number"),
        (ROW.replace(",4,", ",5,", 1), "column 2 is not one of those allowed"),
        (ROW, "1 rows without missing values, expected 2"),
        ("63,1,?,145,233,1,2,150,0,2.3,3,0,6,1\n", "0 rows without missing"),
        (b"\xff", "not ASCII text, at byte 0"),
    ],
)
def test_malformed_heart_files_are_refused(content: bytes | str, words: str, tmp_path: Path) -> None:
    put(tmp_path, "heart/processed.cleveland.data", content)
    with pytest.raises(DataError, match=words):
        heart(tmp_path, verify=False)


# --- adult


def test_adult(data_folder: Path) -> None:
    found = adult(data_folder)
    assert (found.features.shape, len(found.test)) == ((48_842, 88), 16_281)
    assert np.isfinite(found.features).all()
    assert found.targets[found.test].sum() == 3846
    assert found.targets.sum() == 7841 + 3846
    assert [(g.name, len(g.names)) for g in found.groupings] == [
        ("education", 16),
        ("workclass", 9),
        ("native-country", 42),
    ]
    hot = [i for i, name in enumerate(found.feature_names) if name.startswith("workclass=")]
    missing = found.grouping("workclass").codes == 8
    assert missing.sum() == 2799
    np.testing.assert_array_equal(found.features[:, hot].sum(axis=1), np.where(missing, 0, 1))
    assert found.features[0, :5].tolist() == [39, 13, 2174, 0, 40]
    fed = data.partition(found, "natural:native-country")
    assert len(fed.clients) == 42
    assert set(fed.names) == {*COUNTRIES, "?"}


ADULT = "39, Private, 7, Bachelors, 13, Divorced, Sales, Wife, White, Male, 0, 0, 40, Cuba, <=50K\n"


@pytest.mark.parametrize(
    ("train", "words"),
    [
        (ADULT.replace("Sales", "Piracy"), "a value of occupation is not one of those allowed, Tech-support"),
        (ADULT.replace("<=50K", "50K"), "a value of income is not one of those"),
        (ADULT.replace("39", "?"), r"column .*: a value is not a number"),
        (ADULT.replace("Bachelors", "?"), "a value of education is not one of those"),
        (ADULT.replace(", Cuba", ""), "14 values, expected 15"),
    ],
)
def test_malformed_adult_files_are_refused(train: str, words: str, tmp_path: Path) -> None:
    put(tmp_path, "adult/adult.data", train)
    put(tmp_path, "adult/adult.test", "|a remark\n" + ADULT.replace("50K", "50K."))
    with pytest.raises(DataError, match=words):
        adult(tmp_path, verify=False)


def test_an_edition_without_a_remark_is_read_too(tmp_path: Path) -> None:
    put(tmp_path, "adult/adult.data", ADULT)
    put(tmp_path, "adult/adult.test", ADULT)
    assert adult(tmp_path, verify=False).test.tolist() == [1]


# --- parkinsons


def test_parkinsons(data_folder: Path) -> None:
    found = parkinsons(data_folder)
    assert (found.features.shape, found.task) == ((5875, 19), "regression")
    assert "motor_UPDRS" not in found.feature_names
    assert found.feature_names[:4] == ("age", "sex", "test_time", "Jitter(%)")
    assert found.targets[0] == np.float32(34.398)
    assert parkinsons(data_folder, target="motor_UPDRS").targets[0] == np.float32(28.199)
    fed = data.partition(found, "natural")
    assert fed.names[0] == "patient 1"
    assert len(fed.clients) == 42
    assert (fed.sizes >= 80).all()
    with pytest.raises(ConfigError, match="total_UPDRS, motor_UPDRS, not 'age'"):
        parkinsons(data_folder, target="age")  # type: ignore[arg-type]


def test_malformed_parkinsons_files_are_refused(tmp_path: Path, data_folder: Path) -> None:
    lines = (data_folder / "parkinsons" / "parkinsons_updrs.data").read_text().splitlines()
    for content, words in (
        ("\n".join(lines[1:3]), "the first line is not the header"),
        (lines[0], "no line follows"),
        ("\n".join([lines[0], lines[1].replace("28.199", "x")]), r"column \d+: a value is not a number"),
        ("\n".join([lines[0], lines[1] + ",1"]), "line 2: 23 values"),
    ):
        put(tmp_path, "parkinsons/parkinsons_updrs.data", content)
        with pytest.raises(DataError, match=words):
            parkinsons(tmp_path, verify=False)


# --- shakespeare


def test_shakespeare(data_folder: Path) -> None:
    found = shakespeare(data_folder)
    speakers = found.grouping()
    assert (len(speakers.names), len(found.classes)) == (99, 65)
    assert speakers.names[0] == "First Citizen"
    assert (np.bincount(speakers.codes) >= 2000 // 80 - 1).all()
    first = decode_text(found.features[0])
    assert first.startswith("Before we proceed any further, hear me speak.\nYou are all resolved")
    np.testing.assert_array_equal(found.features[0, 1:], found.targets[0, :-1])  # the next character is the target
    fed = data.partition(found, "natural")
    for client in fed.clients:  # a speaker is tested on what is said last
        assert client.train.max() < client.test.min()


def test_speeches_are_joined_by_speaker() -> None:
    play = "\nA:\nOne.\nTwo.\n\nB:\nThree.\n\n\nA:\nFour.\n"
    assert speeches(play) == {"A": "One.\nTwo.\nFour.\n", "B": "Three.\n"}


def test_characters_are_positions_in_the_alphabet() -> None:
    assert len(set(ALPHABET)) == len(ALPHABET) == 65
    assert decode_text(encode_text(ALPHABET)) == ALPHABET
    assert encode_text("").size == 0
    for odd in ("#", "\0", "é", "€", "\U0001f600"):
        with pytest.raises(DataError, match="of the text is not one of the 65"):
            encode_text(f"ab{odd}c")


@pytest.mark.parametrize(
    ("play", "words"),
    [
        ("A\nNo colon.\n", "a speech does not begin with"),
        (":\nNobody.\n", "a speech does not begin with"),
        ("", "a speech does not begin with"),
        ("A:\nShort.\n", "no speaker has 2000"),
        ("A:\n" + "x#" * 1000, "character 1 of the text is not one of"),
    ],
)
def test_malformed_plays_are_refused(play: str, words: str, tmp_path: Path) -> None:
    put(tmp_path, "shakespeare/tinyshakespeare.txt", play)
    with pytest.raises(DataError, match=words):
        shakespeare(tmp_path, verify=False)


@pytest.mark.parametrize("window", [0, 2000])
def test_a_window_that_leaves_no_row_is_refused(window: int) -> None:
    with pytest.raises(ConfigError, match=r"window must be in \[1, 2000\)"):
        shakespeare(window=window)
