"""The figures of docs/attack.md: guesses below what epsilon allows, and the ones that the attack gives."""

from pathlib import Path

import pytest

from privfl.experiment import AttackPlan, Experiment, MembershipResult, attack, load_config

ROOT = Path(__file__).parents[4]
PAGE = ROOT / "docs" / "attack.md"


def rows(name: str) -> list[list[str]]:
    text = PAGE.read_text().split(f"<!-- {name} -->\n")[1].split("<!-- end")[0]
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in text.splitlines()[2:]]


@pytest.mark.parametrize("name", ["membership-1", "membership-mean"])
def test_no_shown_figure_is_above_what_epsilon_allows(name: str) -> None:
    assert [row[0] for row in rows(name)] == ["plain update", "masked sum", "epsilon 8", "epsilon 3", "epsilon 1"]
    for row in rows(name):
        for value, limit in zip(row[1::2], row[2::2], strict=True):
            assert float(value.split()[0]) <= float(limit)


def test_the_shown_inversions_are_exact_without_protection_and_fail_under_noise() -> None:
    recovered = {row[0]: row[-1] for row in rows("inversion-1")}
    assert recovered["plain update"] == "100 of 100"
    assert {recovered[f"epsilon {epsilon}"] for epsilon in (8, 3, 1)} == {"0 of 100"}


@pytest.mark.slow
def test_the_shown_figures_are_those_of_the_attack() -> None:
    experiment = Experiment(load_config(ROOT / "examples" / "digits.toml"))
    result = attack(experiment, "membership", plan=AttackPlan(examples=1, trials=2000))
    assert isinstance(result, MembershipResult)
    for case, row in zip(result.cases, rows("membership-1"), strict=True):
        assert case.rates.auc.value == pytest.approx(float(row[1].split()[0]), abs=2e-3)
        assert case.rates.advantage.value == pytest.approx(float(row[5].split()[0]), abs=2e-2)
