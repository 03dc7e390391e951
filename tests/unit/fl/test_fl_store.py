"""The model store: what is written is read back, and nothing else is."""

from pathlib import Path

import numpy as np
import pytest

from privfl.errors import ConfigError, StateError
from privfl.fl.state import ServerState
from privfl.fl.store import ModelStore


def fill(folder: Path) -> ModelStore:
    store = ModelStore(folder)
    first = store.save(0, ServerState(np.arange(4, dtype=np.float32)), parent="", report={})
    state = ServerState(np.ones(4, np.float32), {"m": np.full(4, 0.1)}, 0.25)
    store.save(1, state, parent=first.hash, report={"metrics": {"loss": 0.1}})
    return store


def test_a_version_comes_back_as_it_was(tmp_path: Path) -> None:
    version = fill(tmp_path).load(1)
    assert version.model.dtype == np.float32
    np.testing.assert_array_equal(version.model, np.ones(4))
    np.testing.assert_array_equal(version.state.moments["m"], np.full(4, 0.1))
    assert version.report == {"metrics": {"loss": 0.1}}
    assert (version.state.clip_norm, fill(tmp_path).load(0).state.clip_norm) == (0.25, None)
    assert [v.round for v in ModelStore(tmp_path).lineage()] == [0, 1]


def test_an_empty_store_has_no_latest(tmp_path: Path) -> None:
    assert ModelStore(tmp_path / "none").latest() is None
    with pytest.raises(ConfigError, match="no model of round 3"):
        fill(tmp_path).load(3)


def test_a_broken_lineage_is_seen(tmp_path: Path) -> None:
    store = fill(tmp_path)
    store.save(2, ServerState(np.ones(4)), parent="0" * 64, report={})
    with pytest.raises(StateError, match="does not descend"):
        list(store.lineage())


def test_any_damage_is_a_state_error(tmp_path: Path) -> None:
    store = fill(tmp_path)
    path = tmp_path / "000001.safetensors"
    whole = path.read_bytes()
    for at in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[at] ^= 0x41
        path.write_bytes(bytes(damaged))
        try:
            version = store.load(1)
        except StateError:
            continue
        # A flip that goes unnoticed has changed nothing.
        np.testing.assert_array_equal(version.model, np.ones(4))
        np.testing.assert_array_equal(version.state.moments["m"], np.full(4, 0.1))
        assert (version.report, version.state.clip_norm) == ({"metrics": {"loss": 0.1}}, 0.25)
    for cut in range(0, len(whole), 11):
        path.write_bytes(whole[:cut])
        with pytest.raises(StateError):
            store.load(1)


def test_a_file_of_another_round_is_refused(tmp_path: Path) -> None:
    store = fill(tmp_path)
    (tmp_path / "000005.safetensors").write_bytes((tmp_path / "000001.safetensors").read_bytes())
    with pytest.raises(StateError):
        store.load(5)
