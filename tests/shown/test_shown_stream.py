"""The figure of correlated noise in docs/noise.md: what the benchmark found, at the noise that epsilon asks for."""

import json
import re
import runpy
from pathlib import Path

import pytest

from privfl.dp import OnePass, calibrate

ROOT = Path(__file__).parents[2]
FOUND = json.loads((ROOT / "benchmarks" / "results" / "stream-digits.json").read_text())
POINTS = {(point["epsilon"], point["correlation"]): point for point in FOUND["points"]}
EPSILONS = sorted({epsilon for epsilon, _ in POINTS})


def mean(epsilon: float, correlation: str) -> float:
    found: list[float] = POINTS[epsilon, correlation]["accuracies"]
    return sum(found) / len(found)


def test_the_table_is_what_was_found() -> None:
    page = (ROOT / "docs" / "noise.md").read_text()
    table = re.search(r"<!-- stream -->\n(.*?)\n<!-- end of stream -->", page, re.DOTALL)
    assert table is not None
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table[1].splitlines()[2:]]
    bare = f"{FOUND['no noise']:.2f}"
    assert rows == [
        *([f"{e:g}", f"{mean(e, 'none'):.2f}", f"{mean(e, 'toeplitz'):.2f}"] for e in EPSILONS),
        ["no noise", bare, bare],
    ]


def test_correlated_noise_is_better_at_every_epsilon() -> None:
    for epsilon in EPSILONS:
        assert mean(epsilon, "toeplitz") > mean(epsilon, "none")


@pytest.mark.parametrize(("epsilon", "correlation"), sorted(POINTS))
def test_both_kinds_of_noise_pay_the_same_epsilon(epsilon: float, correlation: str) -> None:
    plan = calibrate(epsilon=epsilon, delta=1e-5, sampling=OnePass(14), rounds=100, correlation=correlation)
    assert POINTS[epsilon, correlation]["noise_multiplier"] == pytest.approx(plan.noise_multiplier, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("correlation", ["none", "toeplitz"])
def test_a_point_comes_out_again(correlation: str) -> None:
    benchmark = runpy.run_path(str(ROOT / "benchmarks" / "dp" / "stream.py"))
    point = POINTS[4.0, correlation]
    settings = {"placement": "central", "correlation": correlation, "epsilon": 4.0, "noise": "simulation"}
    found, _ = benchmark["accuracy"](1, clip_norm=point["clip_norm"], **settings)
    assert found == pytest.approx(point["accuracies"][0], abs=1e-9)
