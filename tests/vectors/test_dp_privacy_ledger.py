"""privfl's ledger against protocols/privacy-ledger, whose reference shares no code with it."""

import importlib.util
import json
from pathlib import Path

import pytest

from privfl.dp import Ledger, PrivacyUnit
from privfl.errors import StateError

FOLDER = Path(__file__).parents[2] / "protocols" / "privacy-ledger"


def cases(name):
    loaded = json.loads((FOLDER / "vectors" / f"{name}.json").read_text())
    return [pytest.param(case, id=case["name"]) for case in loaded["cases"]]


@pytest.mark.parametrize("case", cases("valid"))
def test_valid_ledgers_are_read_and_published(case, tmp_path):
    path = tmp_path / "ledger"
    path.write_text(case["file"])
    ledger = Ledger.read(path)
    assert ledger.unit == PrivacyUnit(*case["unit"])
    assert [release.record() for release in ledger.releases] == case["charged"]
    assert [token.digest for token in ledger.unsettled] == case["waiting"]
    ledger.publish(tmp_path / "published")
    assert (tmp_path / "published").read_text() == case["published"]
    assert len(Ledger.read(tmp_path / "published").releases) == len(ledger.releases)


@pytest.mark.parametrize("case", cases("invalid"))
def test_invalid_ledgers_are_refused(case, tmp_path):
    path = tmp_path / "ledger"
    path.write_text(case["file"])
    with pytest.raises(StateError):
        Ledger.read(path)


def test_the_vectors_are_those_of_the_reference(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("ledger_reference", FOLDER / "reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "vectors").mkdir()
    monkeypatch.setattr(module, "__file__", str(tmp_path / "reference.py"))
    module.main()
    for name in ("valid.json", "invalid.json"):
        assert (tmp_path / "vectors" / name).read_bytes() == (FOLDER / "vectors" / name).read_bytes()
