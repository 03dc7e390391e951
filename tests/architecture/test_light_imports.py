"""What another stack embeds stays light: no heavy package, and a fraction of the time of `import torch`."""

import importlib.util
import json
import subprocess
import sys

import pytest

LIGHT = ["privfl", "privfl.sums", "privfl.codec", "privfl.secagg", "privfl.crypto", "privfl.dp", "privfl.fl"]
HEAVY = [
    "torch",
    "opacus",
    "tenseal",
    "scipy",
    "sklearn",
    "dp_accounting",
    "matplotlib",
    "pandas",
    "typer",
    "rich",
    "pydantic",
]
IMPORT = """
import json, sys, time
start = time.process_time()
__import__(sys.argv[1])
seconds = time.process_time() - start  # not the clock on the wall: other tests run beside this one
print(json.dumps([seconds, sorted({name.split(".")[0] for name in sys.modules})]))
"""


def fresh(module: str) -> tuple[float, set[str]]:
    run = subprocess.run([sys.executable, "-c", IMPORT, module], capture_output=True, text=True, check=True)
    seconds, loaded = json.loads(run.stdout)
    return seconds, set(loaded)


@pytest.mark.parametrize("module", LIGHT)
def test_no_heavy_package_is_loaded(module: str) -> None:
    _, loaded = fresh(module)
    assert loaded.isdisjoint(HEAVY)
    if module == "privfl":
        assert "numpy" not in loaded
    if module in ("privfl.sums", "privfl.codec", "privfl.secagg", "privfl.crypto"):
        assert "safetensors" not in loaded


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="the yardstick is not installed")
def test_a_light_import_takes_less_than_a_fifth_of_torch_s() -> None:
    torch = min(fresh("torch")[0] for _ in range(2))
    for module in ("privfl.sums", "privfl.codec", "privfl.secagg"):
        light = min(fresh(module)[0] for _ in range(3))
        assert light < torch / 5, f"{module}: {light:.2f} s, torch: {torch:.2f} s"
