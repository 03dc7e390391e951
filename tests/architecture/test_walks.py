"""Pages that are walked: their blocks are run in order, in one folder, as a reader would."""

import sys
from pathlib import Path

import pytest

from privfl.cli.app import run
from tools import cli_page, first_hour, walk

ROOT = Path(__file__).parents[2]


def _walk(chosen: list[walk.Step], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PYTEST_CURRENT_TEST", "PYTEST_XDIST_WORKER"):
        monkeypatch.delenv(name, raising=False)  # a child that thinks itself a worker of this run would not measure
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for step in chosen:
        walk.take(step, folder, Path(sys.executable))


def test_the_tutorial_leads_from_a_csv_file_to_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = walk.steps(first_hour.PAGE)
    _walk([step for step in page if step.section != first_hour.TABLE], tmp_path, monkeypatch)
    assert "<h1>patients</h1>" in (tmp_path / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_tutorial_leads_to_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tenseal")
    _walk(walk.steps(first_hour.PAGE), tmp_path, monkeypatch)
    assert len((tmp_path / "sweep" / "runs.csv").read_text().splitlines()) == 46


def test_a_step_that_fails_ends_the_walk(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One\n`a.toml`\n```toml\nx = 1\n```\n## Two\n```sh\ncat a.toml\nfalse\n```\n")
    first, second = walk.steps(page)
    assert (first.section, first.file, second.section) == ("One", "a.toml", "Two")
    walk.take(first, tmp_path, Path(sys.executable))
    with pytest.raises(SystemExit, match="x = 1"):
        walk.take(second, tmp_path, Path(sys.executable))


def test_the_ways_are_as_short_as_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    page = walk.steps(first_hour.PAGE)
    report, table = (
        [s for s in page if s.section != first_hour.TABLE],
        [s for s in page if s.section == first_hour.TABLE],
    )
    first_hour._check_counts(report, table)
    with pytest.raises(SystemExit, match="too many"):
        first_hour._check_counts(report, table * 2)
    monkeypatch.setattr(first_hour, "MAX_LINES", 2)
    with pytest.raises(SystemExit, match="lines of Python"):
        first_hour._check_counts(report, table)


def test_the_reference_of_the_command_line_is_what_is_generated() -> None:
    assert cli_page.PAGE.read_text(encoding="utf-8") == cli_page.page(), "run: make cli"


@pytest.mark.parametrize("line", cli_page.examples())
def test_the_options_of_an_example_exist(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = line.partition(" >")[0].split()[1:]
    assert run([*arguments, "--help"]) == 0
    assert "Usage" in capsys.readouterr().out
