"""The demonstration: what it promises, on each sum, and what it draws."""

import json

import numpy as np
import pytest

from privfl.cli.app import run
from privfl.demos.hospitals import ABSENT, Demo, demo_config
from privfl.demos.regression import LineDemo
from privfl.errors import ConfigError, MissingExtra, StateError
from privfl.report.demo import plot_demo, plot_line

KEYS = {
    "accuracy", "pooled_accuracy", "local_accuracy", "epsilon", "server_epsilon", "delta", "rounds", "sum", "dropouts",
    "bytes_up", "seconds", "plot", "patient_accuracy", "patient_epsilon",
}  # fmt: skip
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def finished():
    demo = Demo("masked")
    reports = list(demo.each_round())
    return demo, reports, demo.result()


def test_the_demo_keeps_its_promise(capsys, tmp_path):
    assert run(["demo", "--json"]) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert set(result) == KEYS
    assert result["accuracy"] >= 0.90
    assert 7.9 < result["epsilon"] <= 8
    assert result["server_epsilon"] == result["epsilon"]  # the noise is inside the masked sum
    assert result["delta"] == 1e-5
    assert 1.1 < result["patient_epsilon"] < 1.4
    assert result["patient_accuracy"] >= 0.8
    assert result["sum"] == "masked-sum/1"
    assert result["dropouts"] == sum(map(len, ABSENT.values()))
    assert (tmp_path / result["plot"]).read_bytes().startswith(PNG)


@pytest.mark.parametrize("scheme", ["plain", "ckks"])
def test_the_other_sums_give_the_same_epsilon_and_dropouts(scheme, capsys, tmp_path):
    if scheme == "ckks":
        pytest.importorskip("tenseal")
    (tmp_path / "sub").mkdir()
    assert run(["demo", "--sum", scheme, "--json", "--plot", "sub/x.png"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["sum"] == f"{scheme}-sum/1"
    assert result["accuracy"] >= 0.90
    assert result["epsilon"] <= 8
    for name in ("server_epsilon", "patient_epsilon"):
        assert (result[name] == "infinity") == (scheme == "plain")
    assert result["dropouts"] == sum(map(len, ABSENT.values()))
    assert (tmp_path / "sub/x.png").read_bytes().startswith(PNG)


def test_the_table_tells_the_whole_truth(capsys):
    assert run(["demo", "--sum", "plain"]) == 0
    captured = capsys.readouterr()
    shown = " ".join(captured.out.replace("│", " ").split())
    for words in (
        "pooled model",
        "local models",
        "against the server epsilon infinity",
        "the server saw",
        "clear",
        "nothing",
    ):
        assert words in shown
    assert "privfl-demo.png" in captured.out.replace("\n", "")
    assert "of 8" in captured.err  # epsilon spent of the budget, on the progress line


def test_the_masked_demo_says_what_its_epsilon_means(capsys):
    assert run(["demo"]) == 0
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "against the server epsilon 8.0000" in shown or "against the server epsilon 7.9" in shown
    assert "is wrong in at least 20 of 100 cases; a coin is wrong in 50" in shown


def test_nobody_is_shown_an_amplified_figure(finished):
    _, reports, result = finished
    assert set(result.epsilons) == {"outsider", "participant", "server"}
    assert len({report.epsilon for report in result.epsilons.values()}) == 1
    assert [report.epsilon for report in reports] == sorted(report.epsilon for report in reports)


def test_the_absent_are_the_ones_that_were_announced(finished):
    _, reports, _ = finished
    assert {report.round: report.dropouts for report in reports if report.dropouts} == ABSENT


def test_the_masked_vector_is_spread_over_the_ring_and_the_clear_one_is_not(finished):
    demo, _, result = finished
    half = demo.experiment.encoding.codec.ring.half
    assert np.abs(result.clear).max() < half / 10  # ten of them fit
    assert np.abs(result.sighting.values).max() > half / 4  # chance of less, over 31 uniform entries: 2^-62
    assert result.sighting.scheme.title == "masked sum"
    assert len(result.sighting.values) == result.clear.shape[1]


def test_in_the_plain_sum_the_server_saw_every_vector_with_a_part_of_the_noise():
    demo = Demo("plain")
    for _ in demo.each_round():
        pass
    result = demo.result()
    received = np.stack([seen.values for seen in result.sightings])
    noise = received - result.clear
    ledger = demo.experiment.files.ledger
    assert ledger is not None
    expected = ledger.releases[0].realized_stddev / np.sqrt(len(received))
    assert 0.8 * expected < noise.std() < 1.25 * expected  # 310 entries
    np.testing.assert_allclose(result.opened, received.mean(axis=0), rtol=1e-6, atol=1e-6 * expected)


def test_a_demo_that_has_not_run_has_no_result():
    with pytest.raises(StateError, match="not run"):
        Demo("plain").result()
    with pytest.raises(StateError, match="not run"):
        LineDemo().result()


def test_an_unknown_sum_is_refused():
    with pytest.raises(ConfigError, match="magic"):
        demo_config("magic")


def test_without_matplotlib_the_demo_says_what_is_missing(monkeypatch, capsys, finished):
    def missing(*_):
        raise MissingExtra("matplotlib", "plot")

    monkeypatch.setattr("privfl.report.canvas.new_figure", missing)
    monkeypatch.setattr("privfl.report.demo.new_figure", missing)
    assert run(["demo", "linear-regression"]) == 0
    assert "privfl[plot]" in capsys.readouterr().out
    assert run(["demo", "linear-regression", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["plot"] is None
    with pytest.raises(MissingExtra):
        plot_demo(finished[2], 8.0, "x.png")


def test_the_federated_line_is_the_pooled_one(capsys, tmp_path):
    assert run(["demo", "linear-regression", "--json", "--plot", "line.png"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["slope"] == pytest.approx(result["pooled_slope"], abs=0.08)
    assert result["intercept"] == pytest.approx(result["pooled_intercept"], abs=0.08)
    assert (tmp_path / "line.png").read_bytes().startswith(PNG)


def test_the_line_s_plot_and_table(capsys, tmp_path):
    demo = LineDemo(rounds=2)
    for _ in demo.each_round():
        pass
    result = demo.result()
    assert len(result.lines) == 3
    assert result.lines[0] == (0.0, 0.0)
    assert plot_line(result, tmp_path / "a.png").read_bytes().startswith(PNG)
