"""Imports load no heavy package, take a fraction of torch's time, and need no module that only Unix has."""

import importlib.util
import json
import os
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
    alone = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # threads that wait cost time as well
    command = [sys.executable, "-c", IMPORT, module]
    run = subprocess.run(command, env=alone, capture_output=True, text=True, check=True)
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


UNIX = ["fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "posix_ipc", "syslog"]
WITHOUT = """
import contextlib, importlib, os, pkgutil, sys
with contextlib.suppress(ImportError):
    import torch  # which knows its platform, and would miss what is taken away here
for name in sys.argv[1].split():
    sys.modules[name] = None
for name in ("fork", "register_at_fork", "memfd_create"):
    if hasattr(os, name):
        delattr(os, name)
import privfl
for found in pkgutil.walk_packages(privfl.__path__, "privfl."):
    if found.name not in ("privfl.__main__", "privfl.engine.ray") and not found.name.startswith("privfl.adapters"):
        importlib.import_module(found.name)
from privfl.he import plan_ckks
from privfl.ring import Ring
print(plan_ckks(1000, 3, Ring(23)).bytes_up > 0)
"""


def test_every_module_imports_where_unix_is_absent() -> None:
    """As on Windows: without modules that only Unix has, without forks and memory files, CKKS sums can be planned."""
    run = subprocess.run([sys.executable, "-c", WITHOUT, " ".join(UNIX)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["True"]
