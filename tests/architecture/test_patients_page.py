"""docs/patients.md and docs/noise.md state what the benchmarks kept and the planner plans, and what they must show."""

import importlib.util
import math
import re
from pathlib import Path

import numpy as np
import pytest

from privfl.secagg.noiseplan import plan_noise

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "patients.md").read_text()
EPSILONS = (1.0, 3.0, 8.0)


@pytest.fixture(scope="module")
def page():
    spec = importlib.util.spec_from_file_location("patients_page", ROOT / "benchmarks" / "fl" / "patients_page.py")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def test_the_tables_are_those_of_the_results(page):
    cases = page.kept("patients-tables")
    lines = [*page.images(page.kept("patients")), *page.tables(cases, "example"), *page.tables(cases, "client")]
    assert len(lines) == 6 + 4 * len(page.PANELS)
    missing = [line for line in lines if line not in PAGE.splitlines()]
    assert not missing


@pytest.mark.parametrize("epsilon", EPSILONS)
def test_the_sum_is_close_to_a_trusted_server_and_independent_sites_are_not(page, epsilon):
    runs = page.kept("patients")
    for model, gap in (("histograms", 0.25), ("network", 1.2)):
        mean = {arm: float(np.mean(values)) for arm, values in page.of_images(runs, model, epsilon).items()}
        assert mean["sum"] >= mean["central"] - gap, (model, mean)
        if model == "network":
            assert mean["independent"] <= mean["central"] - 2, mean
    for run in runs:
        if run["arm"] == "sum":
            assert run["epsilon_against_server"] <= run["epsilon"]
            assert run["steps"] == 600


def test_every_run_against_the_server_states_a_finite_epsilon_inside_the_sum_and_none_for_a_trusted_server(page):
    for name, case in page.kept("patients-tables").items():
        assert case["settings"]["seeds"] >= 3, name
        for row in case["rows"]:
            if row["arm"].startswith("central"):
                assert row["server_epsilon"] == "infinity"
            elif row["epsilon"] is not None:
                target = float(re.findall(r"[0-9.]+$", row["arm"])[0])
                assert row["server_epsilon"] <= target * 1.001, (name, row["arm"])


@pytest.mark.parametrize(
    "line",
    [line for line in (ROOT / "docs" / "noise.md").read_text().splitlines() if re.match(r"\| \d+, .*, \d", line)],
)
def test_the_prices_on_the_page_of_noise_are_the_planner_s(line):
    case, *cells = (cell.strip() for cell in line.strip("| ").split("|"))
    clients, dropout, spare = case.split(", ")
    rate = 0.0 if dropout == "none" else float(dropout.removesuffix(" %")) / 100
    plan = plan_noise(int(clients), dropout=rate, spare=int(spare))
    found = {price.way: price.mean_variance for price in plan.prices}
    for way, cell in zip(("shares", "groups", "mesh", "add-then-remove"), cells, strict=True):
        assert math.isclose(found[way], float(cell), abs_tol=0.00501), way
