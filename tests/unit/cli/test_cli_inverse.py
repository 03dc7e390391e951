"""The inverse questions, integer noise before a run, ledgers as pictures, and what a run may publish."""

import json
from pathlib import Path

import pytest

from privfl.cli.app import run
from privfl.data import Dataset
from privfl.dp import Ledger, Plan, Poisson
from privfl.experiment import Experiment
from privfl.fl.report import COHORT_DEPENDENT

FEW = ["--cohort", "100", "--noise-multiplier", "1", "--rounds", "50", "--delta", "1e-5"]


def said(capsys) -> dict:
    return json.loads(capsys.readouterr().out)


def test_the_least_population(capsys):
    assert run(["calibrate", "--find", "population", "--epsilon", "2", *FEW, "--json"]) == 0
    found = said(capsys)
    assert (found["found"], found["delta"]) == ("population", 1e-5)
    assert found["epsilon"] <= 2
    one_less = Plan(sampling=Poisson(100 / (found["population"] - 1)), noise_multiplier=1.0, rounds=50)
    assert one_less.epsilon(1e-5) > 2


def test_the_default_delta_follows_the_population_that_was_found(capsys):
    arguments = ["--cohort", "40000", "--noise-multiplier", "4", "--rounds", "1", "--json"]
    assert run(["calibrate", "--find", "population", "--epsilon", "0.5", *arguments]) == 0
    found = said(capsys)
    assert found["population"] > 40_000
    assert found["population"] ** -1.1 * 0.9 < found["delta"] <= found["population"] ** -1.1


def test_the_most_rounds(capsys):
    poisson = ["--cohort", "100", "--population", "1000", "--delta", "1e-5"]
    for extra in ([], ["--find", "rounds"]):
        assert run(["calibrate", "--epsilon", "2", "--noise-multiplier", "2", *poisson, *extra, "--json"]) == 0
        assert said(capsys)["rounds"] == 73
    rows = ["--unit", "example", "--dataset-size", "1000", "--batch-size", "100", "--delta", "1e-5"]
    assert run(["calibrate", "--epsilon", "2", "--find", "rounds", "--noise-multiplier", "2", *rows, "--json"]) == 0
    assert said(capsys)["rounds"] == 73


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--find", "noise", "--noise-multiplier", "1", "--rounds", "3"], "finds --noise-multiplier"),
        (["--find", "rounds"], "needs --noise-multiplier"),
        (["--find", "population", "--noise-multiplier", "1", "--rounds", "3"], "give --cohort"),
        (["--find", "population", *FEW, "--population", "1000"], "no --population"),
        (["--placement", "distributed", "--rounds", "3"], "needs --length"),
        (["--placement", "mesh", "--rounds", "3"], "needs --length"),
        (["--spare", "2", "--rounds", "3"], "does not take --spare"),
        (["--length", "3", "--rounds", "3"], "does not take --length"),
    ],
)
def test_what_does_not_go_together_is_refused(arguments, words, capsys):
    assert run(["calibrate", "--epsilon", "2", *arguments]) == 2
    assert words in capsys.readouterr().err.replace("\n", " ")


def test_integer_noise_before_a_run(capsys):
    poisson = ["--cohort", "100", "--population", "1000", "--rounds", "100", "--delta", "1e-5"]
    shares = ["--placement", "distributed", "--length", "7850"]
    assert run(["epsilon", *poisson, *shares, "--noise-multiplier", "0.936", "--json"]) == 0
    report = said(capsys)
    assert 7.99877 < report["epsilon"] < 7.9990  # 7.99877 is the figure of central noise
    assert report["adjacency"] == "add_remove"
    assert report["accountant"] == "comparison with Gaussian noise"
    assert report["cross_checks"]["RDP of the integer mechanism (Agarwal et al. 2021)"] > 8.98
    mesh = ["--placement", "mesh", "--length", "7850", "--sum", "masked", "--noise-multiplier", "9", "--json"]
    server = ["--observer", "server"]
    assert run(["epsilon", *poisson, *mesh, *server, "--spare", "0"]) == 0
    alone = said(capsys)["epsilon"]
    assert run(["epsilon", *poisson, *mesh, "--observer", "participant"]) == 0
    assert said(capsys)["epsilon"] == alone
    assert run(["epsilon", *poisson, *mesh, "--observer", "participant", "--spare", "0"]) == 0
    assert said(capsys)["epsilon"] in (None, "infinity")
    assert run(["epsilon", *poisson, *shares, "--units", "4", "--noise-multiplier", "0.936", "--json"]) == 0
    assert said(capsys)["epsilon"] > report["epsilon"]  # coarse integers cost
    local = ["epsilon", *poisson, "--placement", "local", "--noise-multiplier", "20", "--json"]
    assert run(local) == 0
    assert "everyone" in said(capsys)["sampling"]
    assert run(["calibrate", "--epsilon", "8", *poisson, *shares, "--json"]) == 0
    assert said(capsys)["noise_multiplier"] >= 0.9360


def test_a_default_delta_says_so_in_json_too(capsys):
    assert run(["epsilon", "--noise-multiplier", "1", "--rounds", "1", "--json"]) == 0
    assert any("the default" in caveat for caveat in said(capsys)["caveats"])


@pytest.fixture
def folder(tmp_path) -> Path:
    import numpy as np

    rng = np.random.default_rng(2)
    features = rng.normal(size=(200, 3)).astype(np.float32)
    data = Dataset("points", "binary", features, (features[:, 0] > 0).astype(np.int64), classes=("a", "b"))
    settings = {
        "name": "points",
        "rounds": 3,
        "data.clients": 20,
        "cohort.sampling": "poisson",
        "cohort.probability": 0.5,
        "cohort.dropout": 0.1,
        "privacy.placement": "central",
        "privacy.clip_norm": 1.0,
        "privacy.noise_multiplier": 1.0,
    }
    experiment = Experiment(data=data, runs=tmp_path / "runs", overrides=settings)
    list(experiment.run())
    return experiment.folder


def test_a_ledger_is_drawn_over_its_rounds(folder, tmp_path, capsys):
    picture = tmp_path / "ledger.png"
    arguments = ["epsilon", "--ledger", str(folder / "ledger.jsonl"), "--plot", str(picture)]
    assert run([*arguments, "--json"]) == 0
    assert said(capsys)["plot"] == str(picture)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert run([*arguments, "--observer", "participant"]) == 0
    Ledger.read(folder / "ledger.jsonl")  # drawing left it as it was


def test_what_is_published_tells_nothing_of_the_cohorts(folder, tmp_path, capsys):
    public = tmp_path / "public"
    assert run(["runs", "publish", str(folder), str(public), "--json"]) == 0
    assert said(capsys) == {"folder": str(public), "models": 4, "ledger": True}
    assert sorted(path.name for path in public.iterdir()) == [
        *(f"{n:06}.safetensors" for n in range(4)),
        "ledger.jsonl",
        "metrics.jsonl",
    ]
    private = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line, kept in zip((public / "metrics.jsonl").read_text().splitlines(), private, strict=True):
        record = json.loads(line)
        assert not COHORT_DEPENDENT & set(record)
        assert record == {key: value for key, value in kept.items() if key not in COHORT_DEPENDENT}
        assert "epsilon" in record
    assert all(release.participants is None for release in Ledger.read(public / "ledger.jsonl").releases)
    for number in range(4):
        head = (public / f"{number:06}.safetensors").read_bytes()[:2000]
        assert b"cohort" not in head
        assert b"dropouts" not in head
    figures = []
    for path in (folder, public):
        assert run(["epsilon", "--ledger", str(path / "ledger.jsonl"), "--json"]) == 0
        figures.append(said(capsys)["epsilon"])
    assert figures[0] == figures[1]
    assert run(["epsilon", "--ledger", str(public / "ledger.jsonl"), "--observer", "participant"]) == 2
    assert run(["runs", "publish", str(folder), str(public)]) == 2  # never over something else


def test_nothing_is_published_over_a_lost_charge(folder, tmp_path):
    path = folder / "ledger.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:1]))
    assert run(["runs", "publish", str(folder), str(tmp_path / "public")]) == 2
    assert not (tmp_path / "public").exists()


def test_show_can_leave_the_cohort_out(folder, capsys):
    assert run(["runs", "show", str(folder), "--json"]) == 0
    assert set(said(capsys)["report"]) >= COHORT_DEPENDENT
    assert run(["runs", "show", str(folder), "--public", "--json"]) == 0
    report = said(capsys)["report"]
    assert not COHORT_DEPENDENT & set(report)
    assert report["epsilon"] > 0


def test_examples_that_their_sites_sample_through_the_sum(capsys):
    steps = ["--unit", "example", "--at-sites", "--dataset-size", "60000", "--batch-size", "1000", "--steps", "20"]
    server = ["--observer", "server", "--sum", "masked", "--delta", "1e-5", "--json"]
    noise = ["--placement", "mesh", "--length", "1000"]
    assert run(["calibrate", "--epsilon", "1", *steps, *noise, *server]) == 0
    found = said(capsys)
    assert 0.99 < found["epsilon"] <= 1
    assert found["observer"] == "server"
    told = ["--noise-multiplier", str(found["noise_multiplier"])]
    assert run(["epsilon", *steps, *noise, *told, "--group", "2", *server]) == 0
    assert said(capsys)["epsilon"] > 1.5
    known = [option for option in steps if option != "--at-sites"]
    assert run(["epsilon", *known, *noise, *told, *server]) == 0
    assert said(capsys)["epsilon"] > 20
    assert run(["epsilon", "--at-sites", "--rounds", "5", "--noise-multiplier", "1", "--delta", "1e-5"]) != 0
    assert "--unit example" in capsys.readouterr().err
