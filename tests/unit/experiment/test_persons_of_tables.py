"""`privacy.person` for a column of one's own table: one coin and one clip for the examples of a person at a client."""

import json
import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from privfl.cli.app import run
from privfl.data import from_arrays, load_schema, propose, read_table
from privfl.errors import ConfigError, DataError
from privfl.experiment import Data, Experiment, Privacy
from privfl.experiment.config import load_config

TERMS = {"unit": "example", "clip_norm": 0.05, "sampling_probability": 0.5, "denominator": 60.0, "delta": 1e-4}
SCHEMA = """
target = "died"
task = "binary"
classes = ["no", "yes"]
client = "hospital"
person = "patient_id"

[columns.age]
kind = "number"
low = 0
high = 120
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rng = np.random.default_rng(3)
    person = rng.integers(100, 160, 240)
    frame = pd.DataFrame({"hospital": rng.choice(["east", "south"], 240), "patient_id": person})
    frame["patient_id"] = [f"ID-{number:07d}" for number in person]
    frame["age"] = rng.normal(60, 10, 240).round()
    frame["died"] = np.where(frame.age > 60, "yes", "no")
    frame.to_csv(tmp_path / "patients.csv", index=False)
    (tmp_path / "schema.toml").write_text(SCHEMA)
    return tmp_path / "patients.csv"


def over(table: Path, **privacy: object) -> Experiment:
    data = Data(str(table), schema=str(table.with_name("schema.toml")), standardize="public")
    return Experiment(data=data, rounds=2, privacy=Privacy(**{**TERMS, **privacy}), evaluate_every=0)  # type: ignore[arg-type]


def test_toml_python_arrays_and_a_frame_share_coins_by_person(table: Path) -> None:
    toml = table.with_suffix(".toml")
    rest = "".join(f"{key} = {json.dumps(value)}\n" for key, value in TERMS.items())
    toml.write_text(
        f'rounds = 2\nevaluate_every = 0\n[data]\npath = "{table}"\ntarget = "died"\nclient = "hospital"\n'
        f'[privacy]\nperson = "patient_id"\n{rest}'
    )
    frame = pd.read_csv(table)
    data = Data(str(table), target="died", client="hospital")
    privacy = Privacy(**TERMS, person="patient_id")  # type: ignore[arg-type]
    terms = {"rounds": 2, "evaluate_every": 0}
    natural = {"data.partition": "natural"}
    proposed = read_table(frame, propose(frame, "died", "hospital", "patient_id").schema)
    arrays = from_arrays(
        frame[["age"]].to_numpy(), frame["died"], clients=frame["hospital"], persons=frame["patient_id"]
    )
    by_name = Privacy(**TERMS, person="person")  # type: ignore[arg-type]
    found = [
        Experiment(load_config(toml)),
        Experiment(data=data, privacy=privacy, **terms),
        Experiment(data=proposed, privacy=privacy, overrides=natural, **terms),
        Experiment(data=arrays, privacy=by_name, overrides=natural, **terms),
    ]
    models = [np.array(experiment.run().model) for experiment in found]
    assert all(np.array_equal(model, models[0]) for model in models)
    owners = frame.groupby("hospital").patient_id
    for experiment in found:
        train = experiment.learner.train
        assert [train.people(client) for client in (0, 1)] == [
            owners.get_group(name).iloc[_places(experiment, client, frame)].nunique()
            for client, name in enumerate(("east", "south"))
        ]
    other = from_arrays(frame[["age"]].to_numpy(), frame["died"], clients=frame["hospital"])
    assert not np.array_equal(
        np.array(Experiment(data=other, privacy=Privacy(**TERMS), overrides=natural, **terms).run().model),  # type: ignore[arg-type]
        models[0],
    )


def _places(experiment: Experiment, client: int, frame: pd.DataFrame) -> np.ndarray:
    """The training examples of a client, as places within its hospital."""
    name = ("east", "south")[client]
    places = np.flatnonzero(frame.hospital == name)
    return np.searchsorted(places, experiment.federation.clients[client].train)


def test_one_step_clips_a_person_once(table: Path) -> None:
    experiment = over(table, sampling_probability=1.0)
    assert experiment.config.privacy.person == "patient_id"  # the schema names it
    model = np.array(experiment.learner.initial, float)
    total = np.zeros(len(model))
    codes = experiment.federation.dataset.grouping("patient_id").codes
    for client in experiment.federation.clients:
        x, y = (
            experiment.federation.dataset.features[client.train],
            experiment.federation.dataset.targets[client.train],
        )
        gradients = experiment.learner.train.model.example_gradients(model, x, y)
        for person in np.unique(codes[client.train]):
            own = gradients[codes[client.train] == person].sum(0)
            total += own * min(1, 0.05 / np.linalg.norm(own))
    run = Experiment(experiment.config.with_overrides({"rounds": 1})).run()
    np.testing.assert_allclose(run.model, model - total / 60.0, atol=1e-6)


def test_no_identifier_is_places(table: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    experiment = over(table, placement="central", noise_multiplier=2.0)
    again = Experiment(experiment.config, runs=tmp_path / "runs")
    again.run()
    assert again.epsilon().unit.level == "example"
    kept = b"".join(path.read_bytes() for path in (tmp_path / "runs").rglob("*") if path.is_file())
    assert b"patient_id" in kept  # the name of the column is a setting
    assert b"ID-00001" not in kept
    assert "ID-00001" not in caplog.text
    grouping = again.federation.dataset.grouping("patient_id")
    assert grouping.names == tuple(map(str, range(1, len(grouping.names) + 1)))


def test_another_assignment_of_persons_is_another_run(table: Path) -> None:
    before = over(table).federation.fingerprint()
    frame = pd.read_csv(table)
    frame.loc[0, "patient_id"] = "ID-9999999"
    frame.to_csv(table, index=False)
    assert over(table).federation.fingerprint() != before


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"person": "patient"}, ConfigError, r"schema.toml says 'patient_id'.* write person = \"patient\" above"),
        ({"unit": "client"}, ConfigError, "is about examples"),
    ],
)
def test_a_person_that_does_not_fit_is_refused_by_name(
    table: Path, change: dict[str, object], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        over(table, **change)


def test_columns_and_files_are_named_and_no_value_is(table: Path) -> None:
    schema = table.with_name("schema.toml")
    schema.write_text(SCHEMA.replace('person = "patient_id"\n', "") + '\n[columns.patient_id]\nkind = "ignore"\n')
    assert over(table).config.privacy.person is None
    with pytest.raises(ConfigError, match=r"names no person: write person = .* and remove \[columns.patient_id\]"):
        over(table, person="patient_id")
    schema.write_text(SCHEMA + '\n[columns.patient_id]\nkind = "ignore"\n')
    with pytest.raises(ConfigError, match="'patient_id' has two roles"):
        over(table)
    schema.write_text(SCHEMA.replace('"patient_id"', "3"))
    with pytest.raises(ConfigError, match=r"schema\.toml: person must be the name of a column"):
        over(table)
    schema.write_text(SCHEMA.replace('"patient_id"', '"patient"'))
    with pytest.raises(DataError, match=r"patients\.csv has no column 'patient'"):
        over(table)
    schema.write_text(SCHEMA)
    table.write_text(table.read_text().replace("ID-0000100", "").replace("ID-0000101", "NA"))
    with pytest.raises(
        DataError, match=r"patients\.csv: the column 'patient_id' has \d+ missing persons: name a person"
    ):
        over(table)
    with pytest.raises(ConfigError, match=r"privacy\.person must name a column of patients\.csv, not 'id'"):
        Experiment(data=Data(str(table), target="died"), privacy=Privacy(**TERMS, person="id"))  # type: ignore[arg-type]


def test_public_test_examples_have_no_person(table: Path) -> None:
    public = table.with_name("public.csv")
    public.write_text("age,died\n50,no\n80,yes\n")
    found = read_table(table, load_schema(table.with_name("schema.toml")), test=public)
    assert len(found.test) == 2
    assert found.grouping().name == "hospital"
    with pytest.raises(ConfigError, match="no natural clients"):
        read_table(pd.read_csv(table).drop(columns="hospital"), propose_without_client(table)).grouping()
    with pytest.raises(DataError, match="persons must be one for each of 2"):
        from_arrays(np.ones((2, 1)), [0, 1], persons=["a"])


def propose_without_client(table: Path):  # type: ignore[no-untyped-def]
    return propose(pd.read_csv(table).drop(columns="hospital"), "died", None, "patient_id").schema


def test_inspect_proposes_the_person_and_counts(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    schema = table.with_name("proposed.toml")
    asked = ["data", "inspect", str(table), "--target", "died", "--client", "hospital", "--person", "patient_id"]
    assert run([*asked, "-o", str(schema)]) == 0
    counts = pd.read_csv(table).patient_id.value_counts()
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert f"{len(counts)} persons by patient_id, the most of one {counts.max()}" in shown
    assert "ID-" not in shown + schema.read_text()
    read = load_schema(schema)
    assert read.person == "patient_id"
    assert [column.name for column in read.columns] == ["age"]
    assert run([*asked, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["persons"] == len(counts)
