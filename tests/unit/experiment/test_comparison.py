"""Comparisons over examples: the noise and the epsilon of each arm, one exact model over three sums, and refusals."""

import json
import math
from dataclasses import replace

import pytest

from privfl.cli.app import run
from privfl.dp import Poisson, PrivacyUnit, calibrate, format_epsilon, what_if
from privfl.errors import ConfigError
from privfl.experiment.arms import Arm
from privfl.experiment.compare import as_record, run_comparison, summarize
from privfl.experiment.comparison import DELTA, Comparison
from privfl.experiment.config import load_config
from privfl.experiment.presets import EXAMPLE_PRESETS

SETTINGS = """
rounds = 2
[data]
name = "breast_cancer"
clients = 4
partition = "iid"
standardize = "public"
[server]
eta = 2.0
[privacy]
unit = "example"
clip_norm = 0.7
sampling_probability = 0.2
denominator = 90.0
"""
EXAMPLE = PrivacyUnit("example")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The folder, the rows and the models of a comparison of a configuration with unit "example"."""
    folder = tmp_path_factory.mktemp("examples")
    (folder / "terms.toml").write_text(SETTINGS)
    comparison = Comparison.of(load_config(folder / "terms.toml"), epsilons=(3.0,), seeds=1)
    cells = list(run_comparison(comparison, folder / "to", workers=1))
    record = as_record(comparison, summarize(comparison, cells))
    return folder, {row["arm"]: row for row in record["rows"]}, {cell.arm: cell.model for cell in cells}


def test_each_arm_states_the_server_s_epsilon(results):
    _, rows, _ = results
    terms = {"sampling": Poisson(0.2), "rounds": 2, "delta": DELTA, "unit": EXAMPLE}
    noise = calibrate(epsilon=3.0, draw_known_to="site", **terms).noise_multiplier
    assert rows["no noise"]["server_epsilon"] is None
    assert rows["central DP 3"]["server_epsilon"] == "infinity"
    for name, of in (("central DP 3", "epsilon"), ("independent DP 3", "server_epsilon")):
        assert 2.99 < rows[name][of] <= 3.0
    for name in ("distributed DP 3", "mesh DP 3"):
        assert 2.99 < rows[name]["server_epsilon"] <= 3.01  # Skellam noise of the same multiplier
    half = what_if(noise_multiplier=noise / 2, cross_checks=False, **terms).epsilon  # four sites
    assert rows["central DP 3"]["independent_epsilon"] == pytest.approx(half)
    assert half > 6
    assert all(row["independent_epsilon"] is None for name, row in rows.items() if name != "central DP 3")


def test_the_sums_over_examples_give_one_model_to_the_last_bit(results):
    _, _, models = results
    assert len({models[name] for name in ("no noise", "plain sum", "masked sum", "ckks sum")}) == 1
    assert models["mesh DP 3"] != models["no noise"]


@pytest.mark.slow
def test_the_verb_draws_the_server_s_epsilon_and_states_that_of_equal_noise(results, capsys):
    folder, rows, _ = results
    command = ["compare", str(folder / "terms.toml"), "--epsilon", "3", "--seeds", "1", "--to", str(folder / "to")]
    assert run([*command, "--resume"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "if independent sites add up to the noise of" in shown
    assert format_epsilon(rows["central DP 3"]["independent_epsilon"], 2) in shown
    assert "of one example" in shown
    for ending in ("png", "pdf", "svg"):
        assert (folder / "to" / f"accuracy-over-epsilon.{ending}").stat().st_size > 3000
    assert json.loads((folder / "to" / "comparison.json").read_text())["settings"]["unit"] == "example"


def test_independent_sites_add_a_variance_each():
    comparison = Comparison("breast_cancer", 4, "iid", 3, (3.0,), unit="example")
    own = {arm.kind: arm for arm in comparison.arms()}
    config = comparison.independent(comparison.config(own["independent"], 0), 9)
    central = comparison.config(own["central"], 0).privacy.noise_multiplier
    assert config.privacy.noise_multiplier == pytest.approx(3 * central)
    assert config.privacy.placement == "central"
    assert comparison.independent_epsilon(own["independent"]) <= 3.0
    assert math.isclose(
        comparison.independent_epsilon(own["central"], 9),
        comparison.independent_epsilon(replace(own["central"], overrides={"privacy.noise_multiplier": central / 3})),
    )


def test_every_preset_has_steps_and_a_statement_of_its_search():
    for name in EXAMPLE_PRESETS:
        comparison = Comparison(name, unit="example")
        assert comparison.rounds == EXAMPLE_PRESETS[name]["rounds"]
        assert comparison.config(Arm("no noise", "federated"), 0).privacy.unit == "example"
        assert f"uned on {name}" in comparison.tuning
        assert "server.eta" in comparison.tuning
    assert Comparison("digits").rounds == 10


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("sampling_probability = 0.2", "sampling_probabilities = [0.1, 0.1, 0.1, 0.1]"), "one epsilon"),
        (("sampling_probability = 0.2", "sampling_probability = 0.2\nsites_per_person = 2"), "one epsilon"),
        (("denominator = 90.0", ""), "denominator"),
    ],
)
def test_configurations_without_one_epsilon_are_refused(change, words, tmp_path):
    path = tmp_path / "terms.toml"
    path.write_text(SETTINGS.replace(*change))
    with pytest.raises(ConfigError, match=words):
        Comparison.of(load_config(path))


def test_the_unit_of_a_file_is_changed_there_and_other_data_needs_one(tmp_path, capsys):
    (tmp_path / "terms.toml").write_text(SETTINGS)
    assert run(["compare", str(tmp_path / "terms.toml"), "--unit", "client"]) == 2
    assert "--unit is privacy.unit of terms.toml" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="unit 'example' knows"):
        Comparison("diabetes", unit="example")
