"""Every Python block of the README and of docs/ runs, and every link to a file leads somewhere."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from privfl.dp import Everyone, FixedSize, Poisson, PrivacyUnit, calibrate, format_epsilon, what_if
from privfl.he import plan_ckks
from privfl.ring import Ring

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
MEASURED = (ROOT / "docs" / "measured.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#:]+)\)")
WALKED = {"tutorial.md"}  # test_walks runs these in order, in one folder
BLOCKS = [
    (page, at, code)
    for page in PAGES
    if page.name not in WALKED
    for at, code in enumerate(BLOCK.findall(page.read_text()))
]


@pytest.mark.parametrize(
    ("page", "code"), [pytest.param(page, code, id=f"{page.name}-{at}") for page, at, code in BLOCKS]
)
def test_a_block_of_code_runs(page: Path, code: str, tmp_path: Path) -> None:
    warnings = "error"
    for tracker in ("tensorboard", "mlflow"):  # `make tracking` runs these
        if re.search(rf"^(?:import|from) {tracker}\b", code, re.MULTILINE):
            pytest.importorskip(tracker)
            warnings = "default"  # of packages that a tracker brings
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": warnings}
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


def _measured() -> dict[str, str]:
    """The first table of measured figures: what -> figure."""
    table = MEASURED[MEASURED.index("| what | figure | command |") :].split("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    return {what: figure for what, figure, _ in rows}


def _kept(name: str) -> Any:
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())


def _ratio(name: str, title: str) -> float:
    (found,) = [result["ratio"] for result in _kept(name)["results"] if result["name"] == title]
    return float(found)


def test_the_page_of_measurements_says_what_the_benchmarks_found() -> None:
    ckks = {(result["name"], result.get("bits")): result for result in _kept("ckks")["results"]}
    up, opening = [ckks["bytes up", bits] for bits in (23, 31)], ckks["opening", 23]["ratio_before_expansion"]
    opener = {result["clients"]: result for result in _kept("ckks")["results"] if result["name"] == "opener"}
    engine = _kept("engine-overhead")
    at_once = {task: ratio["of_medians"] for task, ratio in _kept("engine-cohorts")["before_over_now"].items()}
    bare, workers = engine["loop_over_bare"]["of_medians"], engine["loop_over_two_workers"]["of_medians"]
    figures = {
        "masked sum, client, 32 clients, 1M values": f"{1 / _ratio('secagg-flwr-32', 'client, n = 32'):.0f} times",
        "masked sum, server, the same with": f"{1 / _ratio('secagg-flwr-32', 'server, n = 32'):.0f} times",
        "one mask of 1M values alone": f"{1 / _ratio('secagg-masks-flwr', '1 mask added'):.1f} times",
        "CKKS, bytes up a value": f"{up[0]['ours']:.2f} at 23 bits and {up[1]['ours']:.2f} at 31, "
        f"against {up[0]['peer']:.1f} of",
        "CKKS, client, opener, server": f"{ckks['client', 23]['ratio']:.1f}, {opening:.1f} (before it expands seeds) "
        f"and {ckks['server', 23]['ratio']:.0f} times as fast at 23 bits",
        **{
            f"CKKS, one opener of {n} clients": f"{cost['seconds']:.1f} s, {cost['bytes_down'] / 1e6:.1f} MB down and "
            f"{cost['bytes_up'] / 1e6:.1f} MB up"
            for n, cost in opener.items()
        },
        "a round of 20 small clients": f"{_kept('engine-against-pfl')['pfl_over_privfl']['of_medians']:.1f} times",
        "20 clients of digits, 10 of the 2NN": f"{at_once['digits']:.1f} and {at_once['2nn']:.1f} times",
        "1000 clients in two actors": f"{_kept('engine-ray')['ray_over_processes']:.2f} of",
        "a small CNN against": f"{bare:.2f} of its time; two workers {workers:.1f} times",
        "encoding 1M values": f"{_ratio('codec', 'encode nearest, inside the norm bound'):.1f} times",
        "a DP-SGD step inside a client": f"{_ratio('dp-opacus', '20 DP-SGD steps'):.2f} of",
    }
    measured = _measured()
    assert len(measured) == len(figures), "a row without its source"
    for start, figure in figures.items():
        (said,) = [text for what, text in measured.items() if what.startswith(start)]
        assert said.startswith(figure), start


def test_the_page_on_parameters_says_what_an_opener_costs() -> None:
    kept = _kept("ckks")["results"]
    ten, hundred = (result for result in kept if result["name"] == "opener")
    few, many = (f"{result['bytes_down'] / 1e6:.1f} MB" for result in (ten, hundred))
    client = max(r["ours_ns_a_value"] for r in kept if r["name"] == "client") / 1000
    said = " ".join((ROOT / "docs" / "parameters.md").read_text().split())
    assert (ten["clients"], hundred["clients"]) == (10, 100)
    assert (
        f"For a million values it takes {ten['seconds']:.2f} s of one core and receives {few} with 10 clients. "
        f"With 100 clients it takes {hundred['seconds']:.1f} s and receives {many} (`benchmarks/ckks`). "
        f"Every other client spends about {client:.2f} s." in said
    )


def test_the_bytes_of_an_opener_are_the_planner_s() -> None:
    for kept in (result for result in _kept("ckks")["results"] if result["name"] == "opener"):
        plan = plan_ckks(kept["length"], kept["clients"], Ring(23))
        assert (kept["bytes_down"], kept["bytes_up"]) == (plan.bytes_down, plan.bytes_opened)


@pytest.mark.parametrize(
    ("what", "sampling", "multiplier", "rounds", "adjacency"),
    [
        ("Poisson 0.01, noise multiplier 1, 1000 rounds", Poisson(0.01), 1.0, 1000, "add_remove"),
        ("everyone, noise multiplier 1, once", Everyone(), 1.0, 1, "add_remove"),
        ("the same under replace_one", Everyone(), 1.0, 1, "replace_one"),
        (
            "100 of 1000 without replacement, noise multiplier 4, 100 rounds, replace_one",
            FixedSize(100, 1000),
            4.0,
            100,
            "replace_one",
        ),
    ],
)
def test_the_table_of_epsilons_is_what_is_computed(
    what: str, sampling: Any, multiplier: float, rounds: int, adjacency: Any
) -> None:
    (row,) = [line for line in MEASURED.splitlines() if line.startswith(f"| {what} |")]
    unit = PrivacyUnit("client", adjacency)
    report = what_if(sampling=sampling, noise_multiplier=multiplier, rounds=rounds, delta=1e-5, unit=unit)
    assert row.split("|")[2].strip() == format_epsilon(report.epsilon)


def test_what_the_readme_says_an_epsilon_is_is_what_is_computed() -> None:
    said = re.search(r"prints `(epsilon [^`]+)`", README)
    assert said is not None
    assert said[1] == str(what_if(sampling=Poisson(0.01), noise_multiplier=1.0, rounds=1000, delta=1e-5))


def test_the_questions_state_what_a_guess_may_achieve() -> None:
    said = " ".join((ROOT / "docs" / "faq.md").read_text().split())
    for target, errors in ((8.0, 20), (2.0, 40)):
        noise = calibrate(epsilon=target, delta=1e-5, sampling=Everyone(), rounds=10).noise_multiplier
        report = what_if(sampling=Everyone(), noise_multiplier=noise, rounds=10, delta=1e-5)
        assert int(100 * report.bayes_risk()) == errors
        assert f"wrong in at least {errors}" in said
        if target == 8:
            assert noise / 10 == pytest.approx(0.2, abs=0.02)  # a fifth of the clip norm, in the mean of ten clients


def test_the_readme_s_figures_are_the_measured_ones() -> None:
    said = " ".join(README.split())
    client, server = (1 / _ratio("secagg-flwr-32", f"{side}, n = 32") for side in ("client", "server"))
    assert (round(client), round(server)) == (9, 38)
    assert "a ninth of the time of SecAgg+ in Flower, and the server's part a thirty-eighth" in said
    assert 5 <= _kept("engine-against-pfl")["pfl_over_privfl"]["of_medians"] < 6
    assert "less than a fifth of the time of pfl-research" in said
    (up,) = [r for r in _kept("ckks")["results"] if (r["name"], r.get("bits")) == ("bytes up", 23)]
    assert (round(up["ours"]), round(up["peer"])) == (5, 57)
    assert "sends 5 bytes a value; vectors of TenSEAL with its usual parameters take 57" in said


def test_every_claim_of_the_readme_names_a_test_that_is_there() -> None:
    table = README[README.index("| true of this version |") :].split("\n\n")[0].splitlines()[2:]
    assert len(table) >= 9
    for line in table:
        (path,) = re.findall(r"\[test\]\(([^)]+)\)", line)
        assert "def test_" in (ROOT / path).read_text(), path
        assert len(line.split("|")[1]) <= 120, "no cell longer than a line"
