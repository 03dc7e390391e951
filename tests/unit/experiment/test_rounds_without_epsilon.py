"""Long runs compute epsilon after some rounds only: every figure that is shown is the ledger's."""

import json
import re
from pathlib import Path

import pytest

from privfl.cli.app import run
from privfl.dp import Ledger, epsilon
from privfl.experiment import Client, Data, Experiment, Privacy
from privfl.fl.payment import MAX_EACH, is_asked
from privfl.report.page import render
from privfl.report.run import read_run

PRIVACY = Privacy("central", clip_norm=1.0, noise_multiplier=30.0, delta=1e-5, adjacency="zero_out")
DATA = Data("breast_cancer", clients=3, standardize="public", test="public")


def test_each_round_is_asked_first_and_fewer_and_fewer_then() -> None:
    asked = [round for round in range(1, 1025) if is_asked(round)]
    assert asked[:MAX_EACH] == list(range(1, MAX_EACH + 1))
    gaps = [after - before for before, after in zip(asked[MAX_EACH - 1 :], asked[MAX_EACH:], strict=False)]
    assert gaps == sorted(gaps)
    assert set(gaps) == {2, 4, 8, 16}
    assert {128, 256, 512, 1024} <= set(asked)
    assert len(asked) == MAX_EACH + 4 * 32


@pytest.mark.slow
def test_a_figure_that_a_round_lacks_is_read_from_the_ledger(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = Experiment(
        name="long",
        data=DATA,
        privacy=PRIVACY,
        rounds=MAX_EACH + 3,
        client=Client(steps=1),
        evaluate_every=0,
        runs=tmp_path,
    )
    for report in experiment.each_round():
        if report.round == MAX_EACH + 1:
            break
    assert report.epsilon is None
    ledger = Ledger.read(experiment.files.ledger_path)
    truth = epsilon(ledger, 1e-5).epsilon
    assert run(["runs", "list", "--runs", str(tmp_path), "--json"]) == 0
    (listed,) = json.loads(capsys.readouterr().out)["runs"]
    assert listed["epsilon"] == truth > 0
    assert run(["runs", "show", "long", "--runs", str(tmp_path)]) == 0
    assert "ask privfl epsilon" in " ".join(re.sub("[│]", " ", capsys.readouterr().out).split())
    page = render(read_run(experiment.files))
    assert "Beyond round 64 it is computed after some rounds only" in page
    last = list(experiment.each_round(resume=True))[-1]
    assert last.round == MAX_EACH + 3  # an odd round, asked as the last
    assert last.epsilon == epsilon(Ledger.read(experiment.files.ledger_path), 1e-5).epsilon
