"""Every Python block of the README and of docs/ runs, and every link to a file leads somewhere."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#:]+)\)")
BLOCKS = [(page, at, code) for page in PAGES for at, code in enumerate(BLOCK.findall(page.read_text()))]


@pytest.mark.parametrize(
    ("page", "code"), [pytest.param(page, code, id=f"{page.name}-{at}") for page, at, code in BLOCKS]
)
def test_a_block_of_code_runs(page: Path, code: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    # What the page says is printed must be printed.
    for promised in re.findall(r"# (epsilon [\d.]+ at delta \S+)", code):
        assert promised in done.stdout


def test_there_are_blocks_to_run() -> None:
    assert len(BLOCKS) >= 5


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        assert (page.parent / target).exists(), target


def test_what_the_readme_says_an_epsilon_is_is_what_is_computed() -> None:
    from privfl.dp import Poisson, what_if

    said = re.search(r"prints `(epsilon [^`]+)`", (ROOT / "README.md").read_text())
    assert said is not None
    assert said[1] == str(what_if(sampling=Poisson(0.01), noise_multiplier=1.0, rounds=1000, delta=1e-5))
