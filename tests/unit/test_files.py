"""Atomic writes and hash chains: what a crash, a second writer or an altered byte leaves behind."""

import hashlib
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from privfl import files
from privfl.errors import ConfigError, StateError
from privfl.files import GENESIS, HashChain, atomic_write, canonical_json, chain_hash, verify_chain

RECORDS: list[dict[str, Any]] = [{"b": 1, "a": [1.5, None]}, {"text": "größe\n"}, {"n": -0.0, "big": 2**70}]


@pytest.fixture
def chain(tmp_path: Path) -> HashChain:
    chain = HashChain(tmp_path / "deep" / "log.jsonl")
    for record in RECORDS:
        chain.append(record)
    return chain


def test_an_atomic_write_replaces_the_whole_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "model.bin"
    atomic_write(path, b"long first version")
    atomic_write(path, (b"sec", memoryview(b"ond")))
    assert path.read_bytes() == b"second"
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.bin"
    atomic_write(path, b"old")

    def full(handle: int) -> None:
        raise OSError(28, "no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        atomic_write(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_its_owner_s_alone_unless_it_is_made_to_be_shared(tmp_path: Path) -> None:
    def mode(path: Path) -> int:
        return stat.S_IMODE(path.stat().st_mode)

    before = os.umask(0o027)
    try:
        atomic_write(tmp_path / "key", b"")
        atomic_write(tmp_path / "page.html", b"", shared=True)
        atomic_write(tmp_path / "was-shared", b"", shared=True)
        atomic_write(tmp_path / "was-shared", b"")
        HashChain(tmp_path / "chain").append({})
        os.umask(0o077)
        atomic_write(tmp_path / "under-a-strict-mask", b"", shared=True)
    finally:
        os.umask(before)
    assert mode(tmp_path / "key") == 0o600
    assert mode(tmp_path / "chain") == 0o600
    assert mode(tmp_path / "page.html") == 0o640
    assert mode(tmp_path / "was-shared") == 0o600
    assert mode(tmp_path / "under-a-strict-mask") == 0o600


def test_json_has_one_form() -> None:
    assert canonical_json({"b": 1, "a": [1.5, None, "ü"]}) == '{"a":[1.5,null,"ü"],"b":1}'.encode()
    assert canonical_json({"x": 0.1 + 0.2}) == b'{"x":0.30000000000000004}'


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1: 2, "a": 3}, b"bytes", {"x": {1}}, "\ud800"])
def test_json_without_a_canonical_form_is_a_config_error(value: Any) -> None:
    with pytest.raises(ConfigError, match="canonical form"):
        canonical_json(value)


def test_json_nested_without_end_is_a_config_error() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(ConfigError, match="canonical form"):
        canonical_json(loop)


def test_a_chain_comes_back_and_its_hashes_are_the_documented_ones(chain: HashChain) -> None:
    again = HashChain(chain.path)
    assert again.records == chain.records == tuple(RECORDS)
    assert again.head == chain.head
    expected = GENESIS
    for line in chain.path.read_bytes().splitlines():
        entry = json.loads(line)
        assert entry["prev"] == expected
        expected = hashlib.sha256(expected.encode() + b"\n" + canonical_json(entry["record"])).hexdigest()
        assert entry["hash"] == expected
    assert chain.head == expected


def test_a_record_reads_the_same_before_and_after_the_disk(tmp_path: Path) -> None:
    chain = HashChain(tmp_path / "log")
    chain.append({"pair": (1, 2)})
    assert chain.records == ({"pair": [1, 2]},) == HashChain(chain.path).records


def test_a_refused_record_leaves_the_chain_usable(chain: HashChain) -> None:
    with pytest.raises(ConfigError):
        chain.append({"x": float("nan")})
    chain.append({"x": 1})
    assert len(HashChain(chain.path).records) == 4


def test_every_cut_of_the_last_line_drops_that_line_and_reading_writes_nothing(chain: HashChain) -> None:
    whole = chain.path.read_bytes()
    last = whole[:-1].rfind(b"\n") + 1
    for cut in range(last, len(whole)):
        chain.path.write_bytes(whole[:cut])
        again = HashChain(chain.path)
        assert again.records == tuple(RECORDS[:2])
        assert chain.path.read_bytes() == whole[:cut]
        again.append(RECORDS[2])
        assert chain.path.read_bytes() == whole


def test_every_changed_byte_is_noticed_with_its_line(chain: HashChain) -> None:
    whole = chain.path.read_bytes()
    for at in range(len(whole)):
        changed = bytearray(whole)
        changed[at] ^= 1
        chain.path.write_bytes(changed)
        if at == len(whole) - 1:  # the last newline: a torn line
            assert len(HashChain(chain.path).records) == 2
            continue
        line = whole[:at].count(b"\n") + 1
        with pytest.raises(StateError, match=f"line {line}: "):
            HashChain(chain.path)


def test_reordered_repeated_missing_and_empty_lines_are_noticed(chain: HashChain) -> None:
    a, b, c = chain.path.read_bytes().splitlines(keepends=True)
    for lines, number in [((b, a, c), 1), ((a, c), 2), ((a, a, b, c), 2), ((a, b"\n", b), 2), ((b, c), 1)]:
        with pytest.raises(StateError, match=f"line {number}"):
            list(verify_chain(b"".join(lines)))
    # Whole lines lost at the end are a shorter, valid chain: that is why heads are kept elsewhere.
    assert len(list(verify_chain(a + b))) == 2


def test_a_line_says_nothing_that_its_hash_leaves_out() -> None:
    record = {"epsilon": 1}
    digest = chain_hash(GENESIS, record)
    good = {"hash": digest, "prev": GENESIS, "record": record}
    assert [r for r, _ in verify_chain(canonical_json(good) + b"\n")] == [record]
    for bad in (
        {**good, "note": "added later"},
        {**good, "record": [["epsilon", 1]]},  # the pairs of a dict, which `dict` would take for it
        {**good, "record": {"epsilon": 1.0}},
        {**good, "record": {"epsilon": True}},
        {"hash": digest, "record": record},
        {**good, "hash": digest.upper()},
        [good],
    ):
        with pytest.raises(StateError, match="line 1"):
            list(verify_chain(canonical_json(bad) + b"\n"))
    spaced = json.dumps(good, sort_keys=True).encode() + b"\n"
    with pytest.raises(StateError, match="altered"):
        list(verify_chain(spaced))


@pytest.mark.parametrize(
    "line", [b"[" * 100_000, b"\xff\xfe", b'{"record":{"a":"\\ud800"}}', b'{"a":' + b"9" * 5000 + b"}"]
)
def test_lines_that_are_no_json_are_state_errors(line: bytes) -> None:
    with pytest.raises(StateError, match="not a line of a hash chain"):
        list(verify_chain(line + b"\n"))


def test_a_second_writer_is_noticed_before_it_breaks_the_chain(chain: HashChain) -> None:
    other = HashChain(chain.path)
    chain.append({"mine": 1})
    with pytest.raises(StateError, match="another writer"):
        other.append({"theirs": 1})
    assert len(HashChain(chain.path).records) == 4


@pytest.mark.parametrize("failure", [OSError(28, "no space left"), KeyboardInterrupt()])
def test_a_failed_append_can_be_repeated(
    chain: HashChain, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    before = chain.path.read_bytes()

    def fail(handle: int) -> None:
        raise failure

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(type(failure)):
            chain.append({"lost": 1})
    assert chain.path.read_bytes() == before
    chain.append({"kept": 1})
    assert HashChain(chain.path).records[3:] == ({"kept": 1},)


def test_short_writes_are_continued(tmp_path: Path) -> None:
    class Slow:
        def __init__(self) -> None:
            self.data = b""

        def write(self, part: memoryview) -> int:
            self.data += bytes(part[:3])
            return len(part[:3])

    slow = Slow()
    files._write_all(slow, b"0123456789")  # type: ignore[arg-type]
    assert slow.data == b"0123456789"


WRITER = """
import sys
from pathlib import Path
from privfl.files import HashChain
chain = HashChain(Path(sys.argv[1]))
for n in range(10**6):
    chain.append({"n": n, "pad": "x" * 5000})
    print(n, flush=True)
"""


@pytest.mark.parametrize("acknowledged", [1, 7, 40])
def test_whatever_was_acknowledged_before_a_kill_is_kept(tmp_path: Path, acknowledged: int) -> None:
    path = tmp_path / "log"
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        for _ in range(acknowledged):
            last = int(writer.stdout.readline())
        writer.kill()
    chain = HashChain(path)
    assert [record["n"] for record in chain.records] == list(range(len(chain.records)))
    assert len(chain.records) > last
    chain.append({"after": True})
    assert HashChain(path).records[-1] == {"after": True}


@pytest.mark.parametrize("path", ["", ".", "/", "folder"])
def test_a_file_is_not_written_in_place_of_a_folder(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="is a folder: name a file"):
        atomic_write(Path(path), b"x")
    assert [found.name for found in tmp_path.rglob("*")] == ["folder"]
