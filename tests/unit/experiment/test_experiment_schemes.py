"""The registry of sums: pages agree with it, every entry works, and a fourth sum is its class and one entry."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privfl.cli.app import run as command
from privfl.errors import ConfigError, PlanRejected, StateError
from privfl.experiment import Experiment
from privfl.experiment.config import Config
from privfl.experiment.costs import CostQuestion, SumCosts
from privfl.experiment.schemes import SCHEMES, SchemeDescription, build_sum, describe
from privfl.experiment.view import Watcher
from privfl.observers import OBSERVERS
from privfl.ring import Ring
from privfl.site.policy import scheme_name
from privfl.sums import PlainSum, SumTask, run_sum

ROOT = Path(__file__).parents[3]
CONFIGS = {name: Config().with_overrides({"sum.scheme": name}) for name in SCHEMES}


def table(page: str, heading: str, *, first: str) -> list[list[str]]:
    """The cells of the table behind a heading whose first row begins with `first`."""
    lines = (ROOT / page).read_text().split(heading, 1)[1].splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {first}"))
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip().strip("|").split("|")])
    return rows


@pytest.mark.parametrize("name", SCHEMES)
def test_words_are_those_of_exactly_the_observers_that_the_sum_has(name: str) -> None:
    description = SCHEMES[name]
    scheme, credentials = build_sum(CONFIGS[name], 4)
    assert set(description.sees) == set(scheme.views)
    assert description.views(CONFIGS[name]) == scheme.views
    assert (credentials is None) == (description.credentials is None)
    task = SumTask(b"", (0, 1, 2, 3), 3, 2, Ring(23), 5)
    result = run_sum(scheme, task, dict.fromkeys(task.clients, np.array([1, -2])), credentials=credentials)
    assert result.total.tolist() == [4, -8]


def test_the_page_on_parameters_says_what_the_registry_says() -> None:
    heading, _, *rows = table("docs/parameters.md", "## Who sees what", first="|")
    assert heading[1:] == [description.title for description in SCHEMES.values()]
    cells = {row[0]: row[1:] for row in rows}
    for observer, name in (
        ("server", "the server sees"),
        ("participant", "a participant sees"),
        ("key_holder", "a key holder sees"),
    ):
        assert cells[name] == [description.sees.get(observer, "-") for description in SCHEMES.values()]
    for place, name in enumerate(SCHEMES):
        scheme = build_sum(CONFIGS[name], 3)[0]
        assert cells["who opens the sum"][place].startswith("the server" if scheme.opener == "server" else "a client")
        before = scheme.views["server"] == "release"
        expected = "before anything leaves the opener" if before else "after the server saw the sum"
        assert cells["`central` noise is added"][place] == expected


def test_the_security_page_has_the_views_of_every_sum() -> None:
    heading, _, *rows = table("SECURITY.md", "## Who sees what", first="observer")
    assert heading == ["observer", *SCHEMES]
    assert [row[0].replace(" ", "_") for row in rows] == list(OBSERVERS)
    for row in rows:
        observer: Any = row[0].replace(" ", "_")
        assert row[1:] == [build_sum(CONFIGS[name], 3)[0].views.get(observer, "-") for name in SCHEMES]


def test_a_sites_policy_knows_each_sum_by_the_protocol_that_the_sum_states(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SCHEMES:
        assert scheme_name(build_sum(CONFIGS[name], 3)[0].name, tuple(SCHEMES)) == name
        with pytest.raises(PlanRejected, match=f"demands.schemes accepts: {name}$"):
            scheme_name("toy-protocol/7", (name,))
    monkeypatch.setitem(SCHEMES, "toy", TOY)
    assert scheme_name("toy-protocol/7", ("masked", "toy")) == "toy"


def test_an_unknown_sum_is_refused_with_the_names_of_the_others() -> None:
    with pytest.raises(ConfigError, match=r"plain, masked, ckks, not 'morse'"):
        describe("morse")
    with pytest.raises(ConfigError, match=r"sum.scheme must be one of 'plain', 'masked', 'ckks', not 'morse'"):
        Config().with_overrides({"sum.scheme": "morse"})


# --- a fourth sum ----------------------------------------------------------------------------------------------------


class ToySum(PlainSum):
    """A plain sum that its server runs in a room without windows: what it states differs, what it does does not."""

    name: str = "toy-protocol/7"

    @property
    def views(self) -> Any:
        return {"outsider": "release", "participant": "release", "server": "sum"}

    def min_survivors_of(self, cohort: int, min_survivors: int) -> int:
        if cohort < 4:
            raise ConfigError(f"a toy sum of {cohort} clients never opens")
        return max(4, min_survivors)


TOY = dataclasses.replace(
    SCHEMES["plain"],
    title="toy sum",
    build=lambda config, directory: ToySum(),
    sees={"outsider": "the models", "participant": "the models", "server": "the sum through frosted glass"},
)


def test_a_fourth_sum_is_its_class_and_one_entry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from privfl.experiment.compare import run_comparison, summarize, who_sees
    from privfl.experiment.comparison import Comparison
    from privfl.report.page import render
    from privfl.report.run import read_run

    monkeypatch.setitem(SCHEMES, "toy", TOY)
    settings = {
        "sum.scheme": "toy",
        "cohort.dropout": 0.1,
        "privacy.placement": "central",
        "privacy.noise": "simulation",
        "privacy.clip_norm": 1.0,
        "privacy.noise_multiplier": 1.0,
    }
    watcher = Watcher(0, SCHEMES["toy"])
    experiment = Experiment(Config(name="toy", rounds=2), runs=tmp_path, tap=watcher, overrides=settings)
    assert [report.status for report in experiment.run()] == ["trained", "trained"]
    assert experiment.scheme.name == "toy-protocol/7"
    server, outsider = experiment.epsilon("server"), experiment.epsilon()
    assert server is not None
    assert outsider is not None
    assert server.epsilon == float("inf") > outsider.epsilon  # the toy's server sees the sum before the noise
    assert watcher.sighting(experiment.encoding).words == "the sum through frosted glass"
    page = render(read_run(tmp_path / "toy"))
    assert "the sum through frosted glass" in page
    assert "key holder" not in page
    comparison = Comparison("breast_cancer", 8, "iid", 1, (8.0,), 1, ("toy",))
    cells = list(run_comparison(comparison, tmp_path / "compare", workers=1))
    rows = summarize(comparison, cells)
    assert {row.arm for row in rows} >= {"toy sum", "FedAvg"}
    assert any("frosted glass" in what and "toy sum" in arms for arms, what in who_sees(rows))


def test_a_vector_that_never_came_or_is_of_another_run_is_an_error() -> None:
    description: SchemeDescription = SCHEMES["masked"]
    experiment = Experiment(Config(rounds=1))
    with pytest.raises(StateError, match="sent no vector"):
        Watcher(0, description).sighting(experiment.encoding)


def test_a_sum_of_ones_own_is_planned_from_its_description(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`privfl plan` knows no sum by name: a further entry of the registry is planned as it states."""

    def costs(question: CostQuestion) -> SumCosts:
        return SumCosts({"clients": question.clients, "bytes_up": 8 * question.length}, (("bytes", "eight a value"),))

    toy = dataclasses.replace(SCHEMES["plain"], costs=costs)
    monkeypatch.setitem(SCHEMES, "toy", toy)
    ask = ["plan", "--sum", "toy", "--clients", "4", "--length", "5"]
    assert command([*ask, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"clients": 4, "bytes_up": 40}
    assert command(ask) == 0
    assert "eight a value" in capsys.readouterr().out
    for name, words in (("plain", "has no parameters to plan"), ("nothing", "sum must be one of")):
        assert command(["plan", "--sum", name, "--clients", "4", "--length", "5"]) == 2
        assert words in " ".join(capsys.readouterr().err.split())
