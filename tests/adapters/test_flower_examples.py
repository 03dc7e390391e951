"""The apps in examples/flower: the quickstart and its conversion, and real sites behind the mod."""

import difflib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

pytest.importorskip("flwr", reason="run in the environment of `make flower`, which installs flwr")

from federations import SERVER_KEY, Sites
from flower_apps import LoopGrid, Placed
from flwr.app import Context, RecordDict

ROOT = Path(__file__).parents[2]
APPS = ROOT / "examples" / "flower"
MAX_CHANGED = 10


@pytest.fixture(autouse=True)
def apps() -> Iterator[None]:
    sys.path.insert(0, str(APPS))
    yield
    sys.path.remove(str(APPS))
    for name in [name for name in sys.modules if name.split(".")[0] == "quickstart"]:
        del sys.modules[name]


def part(name: str) -> ModuleType:
    import importlib

    return importlib.import_module(f"quickstart.{name}")


def changed(name: str) -> list[str]:
    texts = [(APPS / "quickstart" / side / name).read_text().splitlines() for side in ("before", "after")]
    return [line for line in difflib.unified_diff(*texts, n=0, lineterm="") if line[0] in "+" and line[1:3] != "++"]


def test_the_quickstart_is_converted_in_ten_lines() -> None:
    lines = [line for name in ("client_app.py", "server_app.py") for line in changed(name) if line.strip("+ ")]
    assert len(lines) <= MAX_CHANGED, lines


def test_the_readme_shows_the_difference() -> None:
    readme = (APPS / "README.md").read_text()
    for name in ("client_app.py", "server_app.py"):
        for line in changed(name):
            assert line in readme


def run(app: Any, grid: LoopGrid, **config: str) -> None:
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=dict(config))
    app(grid, context)


def test_the_converted_quickstart_gives_the_same_model_with_real_sites(tmp_path: Path) -> None:
    before = part("before.client_app").app
    plain = Placed(dict.fromkeys(range(5), before), {n: {"partition-id": n} for n in range(5)})
    run(part("before.server_app").app, plain, model=str(tmp_path / "plain.npz"))

    sites = Sites.make(tmp_path, {"rounds": 3, "cohort.min_survivor_fraction": 0.5}, np.zeros(2), now=time.time())
    (tmp_path / "server.key").write_bytes(SERVER_KEY.secret)
    sites.members.write(tmp_path / "directory.json")
    with part("federation").open_server(str(tmp_path)) as server:
        charter = server.charter
    configs = {}
    for place, home in enumerate(sites.homes.values()):
        home.approve(charter)
        configs[place] = {"partition-id": place, "site": str(home.folder)}
    after = part("after.client_app").app
    secure = Placed(dict.fromkeys(range(5), after), configs)
    run(part("after.server_app").app, secure, model=str(tmp_path / "secure.npz"), home=str(tmp_path))

    with np.load(tmp_path / "plain.npz") as one, np.load(tmp_path / "secure.npz") as two:
        for name in one.files:
            np.testing.assert_allclose(one[name], two[name], atol=1e-6)
            assert np.abs(one[name]).max() > 0.5
    refused = [
        line
        for home in sites.homes.values()
        for line in (home / "log.jsonl").read_text().splitlines()
        if "refuse" in line
    ]
    assert not refused
