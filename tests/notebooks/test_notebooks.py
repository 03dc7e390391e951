"""Every notebook runs, shows what its own code gave, and shows nothing of the machine that ran it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "notebooks"
NAMES = sorted(path.stem for path in FOLDER.glob("[0-9][0-9]_*.py"))

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("jupytext")
sys.path.insert(0, str(ROOT))
from notebooks import build  # noqa: E402  (a folder beside the package, not on the path)


def stored(name: str) -> Any:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


LONG = "02"  # half a minute of training


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith(LONG)])
def test_what_it_shows_is_what_the_package_gives(name: str, request: pytest.FixtureRequest) -> None:
    """Outputs that are older than the package are found by running all of it again."""
    variables = {}
    if name.startswith("06"):  # its outputs are of the real data; skips without it
        variables["PRIVFL_DATA"] = str(request.getfixturevalue("data_folder"))
    assert _built("--check", name, **variables).endswith("as it is kept")


@pytest.mark.slow
def test_what_the_long_one_shows_is_what_the_package_gives() -> None:
    assert _built("--check", LONG).endswith("as it is kept")


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith((LONG, "06"))])
def test_it_runs_with_small_settings(name: str) -> None:
    assert _built("--quick", name).endswith("ran")


def _built(how: str, name: str, **variables: str) -> str:
    """In a process of its own: a kernel, a temporary folder, and no warning anywhere."""
    pytest.importorskip("nbclient")
    run = subprocess.run(
        [sys.executable, "-m", "notebooks.build", how, "--only", name[:2]],
        cwd=ROOT,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout.rstrip()


@pytest.mark.parametrize("name", NAMES)
def test_its_outputs_are_those_of_the_code_that_it_shows(name: str) -> None:
    source, notebook = build.read_source(FOLDER / f"{name}.py"), stored(name)
    remedy = f"run `python -m notebooks.build --only {name[:2]}`"
    shown = [(cell.cell_type, cell.source) for cell in notebook.cells]
    assert shown == [(cell.cell_type, cell.source) for cell in source.cells], f"the pair differs: {remedy}"
    assert build.stored_hash(notebook) == build.code_hash(source), f"the outputs are older than the code: {remedy}"


@pytest.mark.parametrize("name", NAMES)
def test_it_shows_nothing_that_it_should_not(name: str) -> None:
    notebook = stored(name)
    assert build.problems(notebook) == []
    assert (FOLDER / f"{name}.ipynb").stat().st_size <= build.MAX_BYTES
    pictures = [o for c in notebook.cells for o in c.get("outputs", []) if "image/png" in o.get("data", {})]
    assert pictures, "a notebook without a picture"
    assert "What was shown, and what was not" in notebook.cells[-1].source


@pytest.mark.parametrize(
    ("name", "claims"),
    [
        ("01", ["agree to the last bit: True"]),
        ("02", ["plain FedAvg 0.9", "distributed  masked"]),
        ("03", ["equal to the last bit: True", "plain: every pixel recovered", "masked and CKKS: noise"]),
        ("04", ["sum exact: True", "8. plan a sum of a single client\n    PlanRejected", "in mind\n    PlanRejected"]),
        ("05", ["rounded sum exact: True", "approximate values : 100.0%", "rounded values     :   0.0%"]),
        ("06", ["as if all patients were in one place: True", "all trained: True"]),
        ("07", ["loads 0 of", "is exact: True"]),
        ("08", ["what epsilon allows: no", "plain update   recovered 6 of 6", "epsilon 8      recovered 0 of 6"]),
        ("10", ["needs a declared schema", "at delta 1e-05", "wrong in at least 20 of 100", "report.html is written"]),
    ],
)
def test_its_outputs_bear_out_what_it_says(name: str, claims: list[str]) -> None:
    (full,) = [found for found in NAMES if found.startswith(name)]
    outputs = [o for cell in stored(full).cells for o in cell.get("outputs", [])]
    text = "".join(output.get("text", "") for output in outputs)
    assert all(claim in text for claim in claims)
    assert not any(word in text for word in ("SUCCEEDED", "False", "nan", "failed"))


def test_every_notebook_is_a_pair() -> None:
    assert NAMES
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == NAMES


# --- the checks themselves can fail ------------------------------------------------------------------------------


def notebook_of(*outputs: dict[str, Any], source: str = "1 + 1", count: int | None = 1) -> Any:
    cell = nbformat.v4.new_code_cell(source, execution_count=count, outputs=[nbformat.from_dict(o) for o in outputs])
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Title"), cell])


def stream(text: str, name: str = "stdout") -> dict[str, Any]:
    return {"output_type": "stream", "name": name, "text": text}


@pytest.mark.parametrize(
    ("output", "found"),
    [
        (stream("saved to /home/someone/runs/x"), "path"),
        (stream("/var/lib/privfl-abc/run/models"), "path"),
        (stream(r"C:\Users\someone\runs"), "path"),
        (stream("x.py:3: DeprecationWarning: old"), "warning"),
        (stream("anything", "stderr"), "stderr"),
        ({"output_type": "error", "ename": "ValueError", "evalue": "no", "traceback": []}, "ValueError"),
        (
            {"output_type": "display_data", "data": {"text/html": "<a href='/root/report.html'>"}, "metadata": {}},
            "path",
        ),
    ],
)
def test_what_must_not_be_shown_is_found(output: dict[str, Any], found: str) -> None:
    assert any(found in problem for problem in build.problems(notebook_of(output)))


@pytest.mark.parametrize(
    ("kept", "fresh", "tags", "same"),
    [
        ("a sum of 12,345 bytes", "a sum of 12,345 bytes", (), True),
        ("accuracy   0.941", "accuracy  10.952", ("random",), True),
        ("range -0.08 .. 0.17", "range  0.09 .. 0.2", ("random",), True),
        ("accuracy 0.941", "accuracy 0.952", (), True),
        ("accuracy 0.941", "accuracy 0.841", (), False),
        ("1,000 bytes", "1,100 bytes", (), False),
        ("model 730f27fdf5d7c5e7", "model 0299dc691b3e3b06", (), True),
        ("sum exact: True", "sum exact: False", ("random",), False),
        ("RemoteProtocolError: no", "PlanRejected: no", (), False),
        ("one line", "one line\nand another", (), False),
    ],
)
def test_outputs_that_are_out_of_date_are_found(kept: str, fresh: str, tags: tuple[str, ...], same: bool) -> None:
    old, new = notebook_of(stream(kept)), notebook_of(stream(fresh))
    new.cells[1].metadata["tags"] = list(tags)
    assert (build.differences(old, new) == []) is same


def test_a_cell_that_never_ran_is_found() -> None:
    assert build.problems(notebook_of(count=None)) == ["cell 1 was not executed"]


def test_ordinary_outputs_are_fine() -> None:
    picture = {"output_type": "display_data", "data": {"image/png": "/var/aaaa"}, "metadata": {}}
    assert build.problems(notebook_of(stream("1/2 of the clients, 3 kB/s, and/or more: 5/7/8"), picture)) == []


def test_changed_code_has_another_hash_and_changed_prose_has_not() -> None:
    notebook = notebook_of()
    before = build.code_hash(notebook)
    notebook.cells[0].source = "# Another title"
    assert build.code_hash(notebook) == before
    notebook.cells[1].source = "1 + 2"
    assert build.code_hash(notebook) != before
    assert build.stored_hash(notebook) is None


def test_an_unknown_notebook_is_an_error_that_names_those_that_exist(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["build", "--only", "99"])
    with pytest.raises(SystemExit):
        build.main()
    assert NAMES[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("code", "said"),
    [("1 / 0", "ZeroDivisionError"), ("import warnings\nwarnings.warn('old', stacklevel=1)", "wrote to stderr")],
    ids=["an error", "a warning"],
)
def test_a_notebook_that_fails_is_not_written(tmp_path: Path, code: str, said: str) -> None:
    source = tmp_path / "99_fails.py"
    source.write_text(f"# %%\n{code}\n")
    command = "import sys; from pathlib import Path; from notebooks import build; "
    command += "print(build.build(Path(sys.argv[1]), quick=False))"
    run = subprocess.run(
        [sys.executable, "-c", command, str(source)], cwd=ROOT, capture_output=True, text=True, timeout=280, check=True
    )
    assert said in run.stdout
    assert not source.with_suffix(".ipynb").exists()


@pytest.mark.parametrize("name", NAMES)
def test_its_code_fits_a_page(name: str) -> None:
    code = [cell.source for cell in stored(name).cells if cell.cell_type == "code"]
    assert not [line for source in code for line in source.splitlines() if len(line) > build.MAX_COLUMNS]


def test_there_are_eight_or_more() -> None:
    assert len(NAMES) >= 8
