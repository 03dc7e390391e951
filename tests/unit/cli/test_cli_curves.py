"""`privfl epsilon` for papers: curves, observers, accountants, sweeps, several ledgers; `privfl ledger`."""

import csv
import json
import math

import pytest
from ledgers import CKKS, MASKED, noise_of, worst_case

from privfl.cli.app import run
from privfl.dp import Ledger, Mechanism, Plan, Poisson, PrivacyUnit, Slot

POISSON = ["--sampling", "poisson", "--population", "10000", "--cohort", "100", "--rounds", "1000", "--delta", "1e-5"]
ROW_A = ["epsilon", *POISSON, "--noise-multiplier", "1"]


def said(capsys) -> dict:
    return json.loads(capsys.readouterr().out)


def kept(path, *, sampling, noise=1.0, views=MASKED, unit=None):
    ledger = Ledger(unit or PrivacyUnit(), path)
    plan = noise_of(Mechanism("central", noise), [Slot("update", 4, 1024.0, 1.0)], cohort=3, min_survivors=1)
    ledger.draw(0, sampling, 0.0)
    ledger.reserve(worst_case(plan, round=0, sampling=sampling, views=views, cohort=(0, 1, 2)))
    return path


def rows_of(path) -> list[dict]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def ledgers(tmp_path):
    return [kept(tmp_path / f"{name}.jsonl", sampling=Poisson(0.1), noise=z) for name, z in (("a", 1.0), ("b", 2.0))]


def test_curves_in_json(capsys):
    assert run([*ROW_A, "--profile", "--tradeoff", "--prior", "0.25", "--json"]) == 0
    report = said(capsys)
    assert report["advantage"] == pytest.approx(0.1610177, rel=2e-4)
    assert report["bayes_risk"] == pytest.approx(0.24963, abs=2e-5)  # 0.25 (1 - delta(ln 3))
    low, high = report["posterior_odds"]
    assert low < 1 / 3 < high
    assert low * high == pytest.approx(1 / 9)
    assert report["profile"][0] == [0.0, report["advantage"]]
    assert report["tradeoff"][50] == [0.5, pytest.approx(0.341423, abs=3e-6)]


def test_curves_in_text(capsys):
    assert run([*ROW_A, "--profile", "--tradeoff"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for words in ("advantage", "0.161", "Bayes risk", "posterior odds", "Privacy profile", "false negative rate"):
        assert words in shown


def test_several_configurations_in_one_plot(capsys, tmp_path):
    pdf, table = tmp_path / "curves.pdf", tmp_path / "curves.csv"
    sweep = ["--sweep", "noise_multiplier=0.8,1,2", "--sweep", "rounds=10,100"]
    arguments = ["epsilon", *POISSON, *sweep, "--profile", "--tradeoff", "--plot", str(pdf), "--csv", str(table)]
    assert run([*arguments, "--json"]) == 0
    told = said(capsys)
    assert pdf.read_bytes().startswith(b"%PDF")
    assert told["plot"] == str(pdf)
    assert len(told["rows"]) == 6
    assert len(told["points"]) == 6 * (61 + 101)
    rows = rows_of(table)
    assert len(rows) == len(told["points"])
    assert {(row["noise_multiplier"], row["rounds"]) for row in rows} == {
        (z, n) for z in ("0.8", "1.0", "2.0") for n in ("10", "100")
    }
    assert {row["curve"] for row in rows} == {"profile", "tradeoff"}


def test_a_sweep_is_a_tidy_table(capsys, tmp_path):
    table, picture = tmp_path / "sweep.csv", tmp_path / "sweep.png"
    sweep = ["--sweep", "noise_multiplier=1,2", "--sweep", "adjacency=add_remove,replace_one", "--sum", "masked"]
    assert run(["epsilon", *POISSON, *sweep, "--csv", str(table), "--plot", str(picture)]) == 0
    assert "adjacency" in capsys.readouterr().out
    assert picture.read_bytes().startswith(b"\x89PNG")
    rows = rows_of(table)
    assert len(rows) == 2 * 2 * 3  # an outsider, a participant and the server
    expected = Plan(sampling=Poisson(0.01), noise_multiplier=2.0, rounds=1000).epsilon(1e-5)
    (found,) = (
        row
        for row in rows
        if (row["noise_multiplier"], row["adjacency"], row["observer"]) == ("2.0", "add_remove", "outsider")
    )
    assert float(found["epsilon"]) == expected
    assert all(row["reason"] for row in rows)
    assert {row["epsilon"] for row in rows if row["observer"] == "server"} == {"infinity"}


def test_a_sweep_of_calibrations(capsys, tmp_path):
    table, picture = tmp_path / "sweep.csv", tmp_path / "sweep.svg"
    arguments = ["calibrate", "--epsilon", "8", "--rounds", "10", "--delta", "1e-5", "--sweep", "epsilon=1,8,1000000"]
    assert run([*arguments, "--csv", str(table), "--plot", str(picture), "--json"]) == 0
    first, second, none = said(capsys)["rows"]
    assert first["noise_multiplier"] > second["noise_multiplier"] == pytest.approx(1.8981, abs=2e-3)
    assert (first["budget"], first["epsilon"] <= 1, first["note"]) == (1.0, True, "")
    assert none["noise_multiplier"] is None
    assert "no constraint" in none["note"]
    assert [row["budget"] for row in rows_of(table)] == ["1.0", "8.0", "1000000.0"]
    assert picture.read_bytes().startswith(b"<?xml")
    rounds = ["calibrate", "--epsilon", "2", "--noise-multiplier", "2", "--cohort", "100", "--population", "1000"]
    assert run([*rounds, "--delta", "1e-5", "--sweep", "population=1000,2000"]) == 0
    assert "73" in capsys.readouterr().out
    assert run([*arguments[:3], "--rounds", "10", "--sweep", "epsilon=1e9"]) == 2
    assert "no combination" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--sweep", "noise_multiplier"], "KEY=A,B"),
        (["--sweep", "speed=1,2"], "with a key of"),
        (["--sweep", "rounds=1,2.5"], "takes values such as"),
        (["--sweep", "rounds=0"], "at least 1"),
        (["--sweep", "adjacency=all"], "add_remove,replace_one,zero_out"),
        (["--sweep", "rounds=1", "--sweep", "rounds=2"], "given twice"),
        (["--sweep", f"rounds={','.join(['1'] * 1001)}"], "1001 questions"),
        (["--sweep", "rounds=1,2", "--accountants"], "judges one run"),
        (["--sweep", "adjacency=add_remove,zero_out", "--plot", "x.png"], "sweep over numbers"),
        (["--group", "2", "--accountants"], "leave --group out"),
        (["--each"], "several --ledger"),
        (["--profile", "--prior", "1"], "prior"),
        (["--csv", "nowhere/x.csv"], "does not exist"),
    ],
)
def test_what_does_not_go_together_is_refused(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(["epsilon", "--noise-multiplier", "1", "--rounds", "3", *arguments]) == 2
    assert words in capsys.readouterr().err.replace("\n", " ")


def test_all_observers_by_default(capsys):
    assert run([*ROW_A, "--json"]) == 0
    observers = said(capsys)["observers"]
    assert [row["observer"] for row in observers] == ["outsider", "all others"]
    assert "--sum" in observers[1]["reason"]
    assert run([*ROW_A, "--sum", "ckks", "--json"]) == 0
    found = {row["observer"]: row for row in said(capsys)["observers"]}
    assert set(found) == set(CKKS)
    assert found["participant"]["epsilon"] == "infinity"
    assert found["outsider"]["epsilon"] < found["server"]["epsilon"]
    assert all(row["reason"] for row in found.values())
    assert run([*ROW_A, "--sum", "ckks", "--observer", "server", "--json"]) == 0
    assert "observers" not in said(capsys)


def test_accountants_next_to_each_other(capsys):
    pytest.importorskip("opacus")
    assert run([*ROW_A, "--accountants", "--json"]) == 0
    found = said(capsys)["accountants"]
    bounds = {(row["accountant"], row["bound"]): row["epsilon"] for row in found}
    assert bounds["PRV (Opacus)", "lower bound"] < 1.8283 < bounds["PRV (Opacus)", "upper bound"]
    assert sum(row["bound"] == "limit, no bound" for row in found) == 1
    assert all(row["seconds"] >= 0 for row in found)
    assert run([*ROW_A, "--accountants"]) == 0
    assert "no bound" in capsys.readouterr().out


def test_ledgers_together_and_each(ledgers, capsys, tmp_path):
    given = [argument for path in ledgers for argument in ("--ledger", str(path))]
    assert run(["epsilon", *given, "--delta", "1e-5", "--json"]) == 0
    together = said(capsys)
    assert together["rounds"] == 2
    assert [row["observer"] for row in together["observers"]] == ["outsider", "participant", "server"]
    assert run(["epsilon", *given, "--delta", "1e-5", "--each", "--tradeoff", "--plot", str(tmp_path / "x.pdf")]) == 0
    capsys.readouterr()
    assert run(["epsilon", *given, "--delta", "1e-5", "--each", "--json"]) == 0
    rows = [row for row in said(capsys)["rows"] if row["observer"] == "outsider"]
    assert [row["ledger"] for row in rows] == [str(path) for path in ledgers]
    assert all(row["epsilon"] < together["epsilon"] for row in rows)
    assert run(["epsilon", *given, "--accountants", "--profile", "--json"]) == 0
    assert len(said(capsys)["profile"]) == 61
    assert run(["epsilon", *given, "--sweep", "rounds=1,2"]) == 2
    other = kept(tmp_path / "c.jsonl", sampling=Poisson(0.1), unit=PrivacyUnit("client", "zero_out"))
    assert run(["epsilon", *given, "--ledger", str(other)]) == 2
    assert "do not add up" in capsys.readouterr().err
    assert run(["epsilon", "--ledger", str(other), "--ledger", str(other)]) == 2


def test_a_ledger_goes_to_dp_accounting_and_back(ledgers, capsys, tmp_path):
    path, events, again = ledgers[0], tmp_path / "events.json", tmp_path / "again.jsonl"
    assert run(["ledger", "export", str(path), "--to", str(events)]) == 0
    assert "ADD_OR_REMOVE_ONE" in capsys.readouterr().err
    assert run(["ledger", "import", str(events), str(again), "--turn", "0", "--secure", "--json"]) == 0
    assert said(capsys) == {"ledger": str(again), "releases": 1, "notes": []}
    assert run(["ledger", "export", str(again)]) == 0
    assert capsys.readouterr().out == events.read_text()
    figures = []
    for each in (path, again):
        assert run(["epsilon", "--ledger", str(each), "--delta", "1e-5", "--json"]) == 0
        figures.append(said(capsys)["epsilon"])
    assert figures[0] == figures[1]
    assert run(["ledger", "import", str(events), str(again)]) == 2  # never over another file
    assert "exists" in capsys.readouterr().err
    bare = tmp_path / "bare.jsonl"
    assert run(["ledger", "import", str(events), str(bare)]) == 0
    assert "--turn 0" in capsys.readouterr().out
    assert run(["epsilon", "--ledger", str(bare), "--delta", "1e-5", "--json"]) == 0
    assert said(capsys)["epsilon_if_the_noise_were_secure"] > figures[0]
    assert run(["ledger", "import", str(events), str(tmp_path / "x"), "--unit", "example", "--turn", "0"]) == 2
    assert run(["ledger", "export", str(tmp_path / "absent")]) == 2


CONFIG = """
rounds = {rounds}
[data]
clients = 40
[cohort]
{cohort}
[privacy]
placement = "central"
clip_norm = 1.0
noise_multiplier = 2.0
delta = 1e-6
{privacy}
"""


@pytest.fixture
def configs(tmp_path):
    texts = {
        "everyone": CONFIG.format(rounds=10, cohort="", privacy=""),
        "half": CONFIG.format(rounds=10, cohort='sampling = "poisson"\nprobability = 0.5', privacy=""),
        "stream": CONFIG.format(
            rounds=10, cohort='sampling = "one-pass"\nsize = 4', privacy='correlation = "toeplitz"'
        ),
    }
    paths = []
    for name, text in texts.items():
        paths.append(tmp_path / f"{name}.toml")
        paths[-1].write_text(text)
    return paths


def test_configurations_in_one_plot(capsys, tmp_path, configs):
    pdf, table = tmp_path / "curves.pdf", tmp_path / "curves.csv"
    given = [part for path in configs for part in ("--config", str(path))]
    asked = ["--observer", "outsider", "--profile", "--tradeoff", "--plot", str(pdf), "--csv", str(table), "--json"]
    assert run(["epsilon", *given, *asked]) == 0
    found = {row["config"]: row for row in said(capsys)["rows"]}
    assert pdf.read_bytes().startswith(b"%PDF")
    assert {row["delta"] for row in found.values()} == {1e-6}
    column = math.sqrt(sum((math.comb(2 * i, i) / 4**i) ** 2 for i in range(10)))
    for name, norm in (("everyone", 10**0.5), ("stream", column)):
        figure = Plan(sampling=Poisson(1.0), noise_multiplier=2 / norm, rounds=1).epsilon(1e-6)
        assert found[name]["epsilon"] == pytest.approx(figure, rel=1e-6)
    assert found["half"]["epsilon"] < found["everyone"]["epsilon"]
    assert {(row["config"], row["curve"]) for row in rows_of(table)} == {
        (name, curve) for name in found for curve in ("profile", "tradeoff")
    }


def test_one_configuration_gives_the_report_of_its_run(capsys, configs):
    assert run(["epsilon", "--config", str(configs[0]), "--delta", "1e-5", "--json"]) == 0
    found = said(capsys)
    assert found["epsilon"] == pytest.approx(
        Plan(sampling=Poisson(1.0), noise_multiplier=2 / 10**0.5, rounds=1).epsilon(1e-5)
    )
    assert [row["observer"] for row in found["observers"]] == ["outsider", "participant", "server"]


@pytest.mark.parametrize(
    ("extra", "why"),
    [
        (["--rounds", "5"], "a configuration states by itself what is planned"),
        (["--sweep", "rounds=1,2"], "--sweep something else"),
        (["--ledger", "x.jsonl"], "--ledger something else"),
        (["--plot", "x.png"], "give --profile, --tradeoff or both"),
    ],
)
def test_options_that_do_not_go_with_configurations(capsys, configs, extra, why):
    assert run(["epsilon", "--config", str(configs[0]), *extra]) == 2
    assert why in " ".join(capsys.readouterr().err.split())


def test_a_configuration_is_given_once_and_has_noise(capsys, tmp_path, configs):
    assert run(["epsilon", "--config", str(configs[0]), "--config", str(configs[0])]) == 2
    assert "given twice" in " ".join(capsys.readouterr().err.split())
    (tmp_path / "bare.toml").write_text("rounds = 3\n")
    assert run(["epsilon", "--config", str(tmp_path / "bare.toml")]) == 2
    assert "without noise has no epsilon" in " ".join(capsys.readouterr().err.split())


def test_one_pass_and_correlated_noise(capsys):
    one = ["epsilon", "--sampling", "one-pass", "--cohort", "10", "--rounds", "100", "--noise-multiplier", "2"]
    assert run([*one, "--delta", "1e-5", "--sweep", "correlation=none,toeplitz", "--json"]) == 0
    figures = [row["epsilon"] for row in said(capsys)["rows"]]
    expected = [Plan(sampling=Poisson(1.0), noise_multiplier=2 / c, rounds=1).epsilon(1e-5) for c in (1.0, 1.591022349)]
    assert figures == pytest.approx(expected, rel=1e-6)
    find = ["calibrate", "--epsilon", "2", "--delta", "1e-5", *one[1:7], "--correlation", "toeplitz", "--json"]
    assert run(find) == 0
    assert said(capsys)["noise_multiplier"] == pytest.approx(3.1723, abs=2e-4)
    assert run(["epsilon", "--rounds", "5", "--noise-multiplier", "1", "--correlation", "toeplitz"]) == 2
    assert "one-pass" in " ".join(capsys.readouterr().err.split())
