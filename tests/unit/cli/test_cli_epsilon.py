"""`privfl epsilon`: figures, what is refused, and keys."""

import json

import pytest
from ledgers import MASKED, noise_of, worst_case

from privfl.cli.app import run
from privfl.dp import Ledger, Mechanism, PrivacyUnit, Slot
from privfl.dp.unit import Everyone

POISSON = ["epsilon", "--sampling", "poisson", "--population", "10000", "--cohort", "100", "--noise-multiplier", "1"]
KEYS = {"epsilon", "delta", "accountant", "unit", "adjacency", "sampling", "observer", "cross_checks"}


def said(capsys) -> dict:
    return json.loads(capsys.readouterr().out)


def test_poisson_at_one_in_a_hundred(capsys):
    assert run([*POISSON, "--rounds", "1000", "--delta", "1e-5", "--json"]) == 0
    report = said(capsys)
    assert set(report) >= KEYS
    assert 1.828 <= report["epsilon"] <= 1.830
    assert report["observer"] == "outsider"


def test_the_closed_form_of_one_release(capsys):
    assert run(["epsilon", "--noise-multiplier", "1", "--rounds", "1", "--json"]) == 0
    report = said(capsys)
    assert report["epsilon"] == pytest.approx(4.377178, abs=1e-5)
    assert report["delta"] == 1e-5


def test_replace_one_costs_more(capsys):
    assert run(["epsilon", "--noise-multiplier", "1", "--rounds", "1", "--adjacency", "replace_one", "--json"]) == 0
    assert said(capsys)["epsilon"] == pytest.approx(9.997256, abs=1e-4)


def test_a_group_of_clients(capsys, tmp_path):
    assert run([*POISSON, "--rounds", "1000", "--delta", "1e-5", "--group", "2", "--json"]) == 0
    report = said(capsys)
    assert report["epsilon"] == pytest.approx(3.97909, abs=1e-4)
    assert "group of 2 clients" in report["sentence"]
    assert report["group"] == 2
    ledger = Ledger(PrivacyUnit(), tmp_path / "ledger.jsonl")
    ledger.draw(0, Everyone(), 0.0)
    plan = noise_of(Mechanism("central", 1.0), [Slot("update", 5, 1024.0, 1.0)], cohort=3, min_survivors=3)
    ledger.reserve(worst_case(plan, round=0, sampling=Everyone(), views=MASKED, cohort=range(3)))
    asked = ["epsilon", "--ledger", str(tmp_path / "ledger.jsonl"), "--delta", "1e-5", "--group", "3", "--json"]
    assert run(asked) == 0
    assert said(capsys)["epsilon"] == pytest.approx(16.675494, abs=1e-5)
    assert run([*POISSON, "--rounds", "3", "--adjacency", "replace_one", "--group", "2"]) == 2
    assert "group" in capsys.readouterr().err


def test_rows_of_one_data_set(capsys):
    rows = ["--unit", "example", "--dataset-size", "60000", "--batch-size", "600", "--steps", "10"]
    assert run(["epsilon", *rows, "--noise-multiplier", "1", "--json"]) == 0
    report = said(capsys)
    assert report["unit"] == "example"
    assert "0.01" in report["sampling"]


def test_the_text_says_what_the_number_promises(capsys):
    assert run(["epsilon", "--noise-multiplier", "1", "--rounds", "1"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "4.377" in shown
    assert "which means" in shown
    assert "the default" in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rounds", "3"], "--noise-multiplier"),
        (["--noise-multiplier", "1"], "needs --rounds"),
        (["--noise-multiplier", "1", "--rounds", "3", "--cohort", "5"], "needs --population"),
        (["--noise-multiplier", "1", "--rounds", "3", "--cohort", "5", "--population", "4"], "more than"),
        (["--noise-multiplier", "1", "--rounds", "3", "--steps", "5"], "does not take --steps"),
        (["--noise-multiplier", "1", "--unit", "example", "--rounds", "3"], "does not take --rounds"),
        (["--noise-multiplier", "1", "--unit", "example", "--steps", "3"], "needs --dataset-size"),
        (["--noise-multiplier", "1", "--sampling", "everyone", "--rounds", "3", "--cap", "2"], "does not take --cap"),
        ([*POISSON[1:], "--rounds", "3", "--cap", "2"], "does not take --cap"),
        (["--noise-multiplier", "0", "--rounds", "3"], "noise_multiplier"),
        (["--noise-multiplier", "nan", "--rounds", "3"], "noise_multiplier"),
        (["--noise-multiplier", "1", "--rounds", "3", "--delta", "1"], "delta"),
        (["--ledger", "x.jsonl", "--rounds", "3"], "--ledger"),
        (["--ledger", "absent.jsonl"], "no ledger"),
    ],
)
def test_what_does_not_go_together_is_refused(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(["epsilon", *arguments]) == 2
    assert words in capsys.readouterr().err.replace("\n", " ")


def test_fixed_size_has_no_add_remove_guarantee(capsys):
    fixed = ["--sampling", "fixed-size", "--population", "100", "--cohort", "10", "--rounds", "2"]
    assert run(["epsilon", "--noise-multiplier", "4", *fixed]) == 2
    assert "add_remove" in capsys.readouterr().err
    assert run(["epsilon", "--noise-multiplier", "4", *fixed, "--adjacency", "replace_one", "--json"]) == 0
    assert said(capsys)["epsilon"] > 0


def test_truncated_poisson_takes_a_cap(capsys):
    options = ["--sampling", "truncated-poisson", "--population", "100", "--cohort", "10", "--rounds", "2"]
    assert run(["epsilon", "--noise-multiplier", "2", *options]) == 2
    assert "needs --cap" in capsys.readouterr().err
    assert run(["epsilon", "--noise-multiplier", "2", *options, "--cap", "20", "--json"]) == 0
    assert "at most 20" in said(capsys)["sampling"]


@pytest.fixture
def ledger(tmp_path):
    path = tmp_path / "ledger.jsonl"
    kept = Ledger(PrivacyUnit(), path)
    plan = noise_of(Mechanism("central", 1.0), [Slot("update", 4, 1024.0, 1.0)], cohort=3, min_survivors=1)
    worst = worst_case(plan, round=1, attempt=0, sampling=Everyone(), views=MASKED, cohort=(0, 1, 2))
    kept.draw(1, Everyone(), 0.0)
    kept.reserve(worst)
    return path


def test_a_ledger_is_judged_for_each_observer(ledger, capsys):
    assert run(["epsilon", "--ledger", str(ledger), "--json"]) == 0
    assert said(capsys)["epsilon"] == pytest.approx(4.377178, abs=1e-3)
    assert run(["epsilon", "--ledger", str(ledger), "--observer", "server", "--json"]) == 0
    assert said(capsys)["epsilon"] == "infinity"


def test_an_altered_ledger_is_refused(ledger, capsys):
    ledger.write_bytes(ledger.read_bytes().replace(b'"round":1', b'"round":2'))
    assert run(["epsilon", "--ledger", str(ledger)]) == 2
    assert "ledger" in capsys.readouterr().err


def test_calibrate_finds_the_least_noise(capsys, tmp_path):
    arguments = ["calibrate", "--epsilon", "8", "--rounds", "10", "--delta", "1e-5"]
    assert run([*arguments, "--json", "--plot", str(tmp_path / "x.png")]) == 0
    found = said(capsys)
    assert found["epsilon"] <= 8
    assert found["noise_multiplier"] == pytest.approx(1.8981, abs=2e-3)
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    assert (
        run(["epsilon", "--noise-multiplier", str(found["noise_multiplier"] - 0.01), "--rounds", "10", "--json"]) == 0
    )
    assert said(capsys)["epsilon"] > 8
    assert run([*arguments, "--plot", str(tmp_path / "y.png")]) == 0
    assert "least noise multiplier" in capsys.readouterr().out


def test_calibrate_finds_the_most_rounds(capsys):
    assert run(["calibrate", "--epsilon", "8", "--noise-multiplier", "1.9", "--delta", "1e-5", "--json"]) == 0
    assert said(capsys)["rounds"] == 10
    assert run(["calibrate", "--epsilon", "0.1", "--noise-multiplier", "1"]) == 0
    assert "above 0.1" in " ".join(capsys.readouterr().out.split())
    rows = ["--unit", "example", "--dataset-size", "1000", "--batch-size", "1000"]
    assert run(["calibrate", "--epsilon", "8", "--noise-multiplier", "1.9", "--delta", "1e-5", *rows, "--json"]) == 0
    assert said(capsys)["rounds"] == 10


def test_epsilon_draws(capsys, tmp_path):
    path = tmp_path / "e.png"
    assert run(["epsilon", "--noise-multiplier", "1", "--rounds", "5", "--plot", str(path), "--json"]) == 0
    assert said(capsys)["plot"] == str(path)
    assert run(["epsilon", "--noise-multiplier", "1", "--rounds", "5", "--plot", str(path)]) == 0
    assert path.read_bytes().startswith(b"\x89PNG")


PLANNED = ["--sampling", "poisson", "--population", "1000", "--cohort", "10", "--rounds", "10", "--delta", "1e-5"]


@pytest.mark.parametrize(
    ("scheme", "observer", "sees_the_sum"),
    [
        ("plain", "outsider", False),
        ("plain", "server", True),
        ("masked", "outsider", False),
        ("masked", "participant", False),
        ("masked", "server", True),
        ("ckks", "server", False),
        ("ckks", "participant", True),
        ("ckks", "key_holder", True),
    ],
)
def test_a_planned_run_promises_nothing_to_those_who_see_the_sum_before_its_noise(
    scheme, observer, sees_the_sum, capsys
):
    asked = [*PLANNED, "--sum", scheme, "--observer", observer, "--json"]
    assert run(["epsilon", *asked, "--noise-multiplier", "1"]) == 0
    assert (said(capsys)["epsilon"] == "infinity") == sees_the_sum
    assert run(["calibrate", *asked, "--epsilon", "20"]) == (2 if sees_the_sum else 0)
    captured = capsys.readouterr()
    if sees_the_sum:
        assert "no noise keeps epsilon finite" in captured.err
    else:
        assert json.loads(captured.out)["noise_multiplier"] > 0
