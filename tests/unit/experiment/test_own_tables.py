"""Tables of one's own in experiments: the same federation from TOML, Python and frames, and what claims demand."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from privfl.cli.app import run
from privfl.data import load_schema, propose, read_table
from privfl.errors import ConfigError, DataError
from privfl.experiment import Client, Data, Experiment, Privacy
from privfl.experiment.config import load_config

CLIENT = Client(steps=10, learning_rate=0.5)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rng = np.random.default_rng(3)
    rows = 300
    frame = pd.DataFrame(
        {
            "hospital": rng.choice(["east", "north", "south"], rows),
            "age": rng.normal(60, 10, rows).round(),
            "sex": rng.choice(["f", "m"], rows),
        }
    )
    frame["died"] = np.where(frame.age + 8 * (frame.sex == "m") > 64, "yes", "no")
    frame.to_csv(tmp_path / "patients.csv", index=False)
    return tmp_path / "patients.csv"


def test_toml_python_and_a_frame_give_one_federation(table: Path) -> None:
    toml = table.with_suffix(".toml")
    toml.write_text(f'[data]\npath = "{table}"\ntarget = "died"\nclient = "hospital"\nstandardize = "exact"\n')
    one = Experiment(load_config(toml))
    other = Experiment(data=Data(str(table), target="died", client="hospital", standardize="exact"))
    frame = pd.read_csv(table)
    third = Experiment(
        data=read_table(frame, propose(frame, "died", "hospital").schema),
        overrides={"data.partition": "natural", "data.standardize": "exact"},
    )
    prints = {experiment.federation.fingerprint() for experiment in (one, other, third)}
    assert len(prints) == 1
    assert one.federation.names == ("east", "north", "south")
    assert one.federation.dataset.feature_names == ("age", "sex=m")


def test_a_table_trains_and_resumes(table: Path, tmp_path: Path) -> None:
    data = Data(str(table), target="died", client="hospital", standardize="exact")
    result = Experiment(data=data, rounds=8, client=CLIENT, runs=tmp_path / "runs").run()
    assert result.accuracy is not None
    assert result.accuracy > 0.8
    Experiment(data=data, rounds=8, client=CLIENT, runs=tmp_path / "runs").run(resume=True)


def test_a_claim_needs_a_declared_schema_and_says_how(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    privacy = Privacy("central", clip_norm=1.0, noise_multiplier=2.0, adjacency="zero_out")
    data = {"target": "died", "client": "hospital"}
    with pytest.raises(ConfigError, match=r"needs a declared schema.*privfl data inspect"):
        Experiment(data=Data(str(table), **data), privacy=privacy)
    schema = table.with_name("schema.toml")
    arguments = ["data", "inspect", str(table), "--target", "died", "--client", "hospital", "--output", str(schema)]
    assert run(arguments) == 0
    assert "Schema written" in capsys.readouterr().out
    text = schema.read_text()
    declared = Data(str(table), schema=str(schema), standardize="public")
    with pytest.raises(ConfigError, match=r"\[columns.age\] low = 0, high = 120"):
        Experiment(data=declared, privacy=privacy)
    schema.write_text(
        text.replace('[columns.age]\nkind = "number"', '[columns.age]\nkind = "number"\nlow = 0\nhigh = 120')
    )
    experiment = Experiment(data=declared, privacy=privacy, rounds=2, client=CLIENT)
    result = experiment.run()
    assert result.epsilon is not None
    assert experiment.federation.dataset.ranges == ((0, 120), (0.0, 1.0))
    assert any("taken from" in caveat for caveat in result.reports[-1].caveats)  # no test table: examples were taken


def test_a_public_test_table_is_public_without_a_caveat(table: Path) -> None:
    schema = table.with_name("schema.toml")
    assert run(["data", "inspect", str(table), "--target", "died", "--client", "hospital", "-o", str(schema)]) == 0
    test = table.with_name("test.csv")
    test.write_text("age,sex,died\n50,f,no\n80,m,yes\n70,f,yes\n40,m,no\n")
    data = Data(str(table), schema=str(schema), test_path=str(test), standardize="local")
    with pytest.raises(ConfigError, match="belong to no client"):
        Experiment(data=data)
    data = Data(str(table), schema=str(schema), test_path=str(test))
    privacy = Privacy("central", clip_norm=1.0, noise_multiplier=2.0, adjacency="zero_out")
    experiment = Experiment(data=data, privacy=privacy, rounds=1, client=CLIENT)
    assert len(experiment.federation.public_test()[0]) == 4
    assert experiment.federation.sizes.sum() == 300
    assert not any("taken from" in caveat for caveat in experiment.run().reports[-1].caveats)


def test_settings_that_do_not_belong_together_are_refused(table: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.target belongs to a table: set data\.path"):
        Experiment(data=Data("digits", target="died"))
    with pytest.raises(ConfigError, match=r"data\.target must name a column of patients\.csv"):
        Experiment(data=Data(str(table)))
    with pytest.raises(DataError, match="is not there"):
        Experiment(data=Data(path=str(table) + ".csv", target="died"))
    schema = table.with_name("schema.toml")
    assert run(["data", "inspect", str(table), "--target", "died", "-o", str(schema)]) == 0
    with pytest.raises(ConfigError, match=r"data\.target = 'age', and the schema .* says 'died': remove one"):
        Experiment(data=Data(str(table), target="age", schema=str(schema)))
    with pytest.raises(ConfigError, match=r"data\.test = 'local'"):
        Experiment(data=Data(str(table), target="died", test="local", test_path=str(table)))


def test_the_command_line_inspects_and_checks(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["data", "inspect", str(table), "--target", "died", "--client", "hospital", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["examples"] == 300
    assert set(found["clients"]) == {"east", "north", "south"}
    assert found["schema"]["classes"] == ["no", "yes"]
    assert run(["data", "inspect", str(table), "--target", "died"]) == 0
    text = capsys.readouterr().out
    toml = table.with_name("proposed.toml")
    toml.write_text(text[text.index("# The schema") :])
    assert load_schema(toml).target == "died"
    assert run(["data", "check", str(table), str(toml), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["examples"] == 300
    toml.write_text(toml.read_text().replace('"m"', '"male"'))
    assert run(["data", "check", str(table), str(toml)]) == 2
    assert "complete [columns.sex] values, or set unknown = 'zeros'" in " ".join(capsys.readouterr().err.split())


def test_ranges_are_declared_on_the_command_line(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inspect = ["data", "inspect", str(table), "--target", "died", "--client", "hospital"]
    schema = tmp_path / "ranged.toml"
    assert run([*inspect, "--range", "age=0,120", "-o", str(schema)]) == 0
    (age,) = [column for column in load_schema(schema).columns if column.name == "age"]
    assert (age.low, age.high) == (0, 120)
    for wrong, words in (
        ("age=0", "--range takes COLUMN=LOW,HIGH such as age=0,120, not 'age=0'"),
        ("=0,1", "a range belongs to a column of numbers, not to ''; these are: age"),
        ("sex=0,1", "not to 'sex'"),
        ("age=5,5", "age"),
    ):
        capsys.readouterr()
        assert run([*inspect, "--range", wrong]) == 2
        assert words in " ".join(capsys.readouterr().err.split())


def test_a_schema_that_names_clients_makes_them(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    schema = table.parent / "schema.toml"
    assert run(["data", "inspect", str(table), "--target", "died", "--client", "hospital", "-o", str(schema)]) == 0
    one = Experiment(data=Data(str(table), schema=str(schema)))
    assert one.federation.names == ("east", "north", "south")
    assert one.config.data.client == "hospital"
    other = Experiment(data=Data(str(table), schema=str(schema), partition="iid", clients=4))
    assert len(other.federation.clients) == 4
    toml = table.with_suffix(".toml")
    toml.write_text(f'rounds = 1\n[data]\npath = "{table}"\nschema = "{schema}"\n')
    capsys.readouterr()
    assert run(["run", str(toml), "--runs", str(table.parent / "runs")]) == 0
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "data patients sum" in shown
    assert "clients 3" in shown
