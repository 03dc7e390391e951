"""The references of several protocols in one process: each finds the files of its own folder."""

import sys
from pathlib import Path

import pytest
from references import PROTOCOLS, load, sources


@pytest.mark.parametrize("protocol", sorted(folder.parent.name for folder in PROTOCOLS.glob("*/SPEC.md")))
def test_a_bare_name_is_that_of_the_own_folder(protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    foreign = object()
    monkeypatch.setitem(sys.modules, "reference", foreign)
    names = [name.removesuffix(".py") for name in sources(protocol)]
    assert "reference" in names
    for name in names:
        module = load(protocol, name)
        assert Path(str(module.__file__)).parent == PROTOCOLS / protocol
        assert load(protocol, name) is module
    assert sys.modules["reference"] is foreign
    assert not (set(names) - {"reference"}) & set(sys.modules)
