"""docs/patients.md states what the benchmarks kept, and what the issue of accuracy demands of them."""

import importlib.util
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "patients.md").read_text()


def page():
    spec = importlib.util.spec_from_file_location("patients_page", ROOT / "benchmarks" / "fl" / "patients_page.py")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def test_the_tables_are_those_of_the_results():
    made = page()
    lines = [*made.images(made.kept("patients")), *made.tables(made.kept("patients-tables"))]
    assert len(lines) >= 5
    assert all(line in PAGE.splitlines() for line in lines)


def test_the_sum_is_close_to_a_trusted_server_and_above_independent_sites():
    runs = page().kept("patients")

    def accuracy(model, epsilon, arm):
        return 100 * np.mean(
            [r["accuracy"] for r in runs if (r["model"], r["epsilon"], r["arm"]) == (model, epsilon, arm)]
        )

    for model, gap in (("histograms", 0.25), ("network", 1.2)):
        for epsilon in sorted({run["epsilon"] for run in runs if run["model"] == model}):
            assert accuracy(model, epsilon, "sum") >= accuracy(model, epsilon, "central") - gap, (model, epsilon)
    assert accuracy("network", 3.0, "independent") <= accuracy("network", 3.0, "central") - 2
    for run in runs:
        if run["arm"] == "sum":
            assert run["epsilon_against_server"] <= run["epsilon"]
            assert run["steps"] == 600
