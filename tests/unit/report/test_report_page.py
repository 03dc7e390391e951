"""The report: self-contained, complete, escaped, and without what an outsider must not see when it is public."""

import html
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from privfl.cli.app import run
from privfl.data import load, partition
from privfl.dp import Ledger
from privfl.errors import StateError
from privfl.experiment import Experiment, versions
from privfl.experiment.config import Config
from privfl.experiment.folder import Identity, RunFolder
from privfl.fl.client import ClientUpdate
from privfl.report.page import render
from privfl.report.run import read_run

VOID = {"meta", "br", "path", "use", "line", "rect"}


class Page(HTMLParser):
    """Collects text and attributes, and checks that elements nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.tags: set[str] = set()
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def finished(tmp_path: Path, name: str = "r", **overrides) -> Path:
    settings = {"data.standardize": "public", "client.steps": 5, "sum.scheme": "masked"} | overrides
    experiment = Experiment(Config(name=name, rounds=3), runs=tmp_path, overrides=settings)
    for _ in experiment.run():
        pass
    return experiment.folder


PRIVATE = {
    "privacy.placement": "central",
    "privacy.clip_norm": 1.0,
    "privacy.noise_multiplier": 2.0,
    "privacy.epsilon": 8.0,
    "cohort.sampling": "poisson",
    "cohort.probability": 0.8,
}


@pytest.fixture(scope="module")
def private(tmp_path_factory):
    return finished(tmp_path_factory.mktemp("runs"), **PRIVATE)


def test_the_page_stands_alone(private):
    page = Page(render(read_run(private)))
    assert page.open == []
    assert not page.tags & {"script", "link", "img", "iframe"}
    for tag, name, value in page.attributes:
        if name in ("src", "href", "xlink:href"):
            assert value.startswith("#"), (tag, name, value)
    assert "url(http" not in render(read_run(private))


def test_the_page_tells_everything(private):
    record = read_run(private)
    page = Page(render(record))
    for words in ("Privacy card", "Who saw what", "lineage", "Versions", "How to reproduce", "bytes up", "survivors"):
        assert words in page.text
    assert Ledger.read(private / "ledger.jsonl").head in page.text
    assert record.epsilons["outsider"].sentence in page.text
    assert "infinity" in page.text  # the server opened the sums
    assert "by none" not in page.text  # no accountant judged it
    assert 'scheme = "masked"' in page.text
    assert record.reports[-1].model[:24] in page.text


def test_a_public_page_leaves_out_what_only_insiders_may_see(private):
    page = Page(render(read_run(private), public=True))
    assert "dropped out" not in page.text
    assert "bytes up" not in page.text
    assert "infinity" not in page.text
    assert Ledger.read(private / "ledger.jsonl").head not in page.text
    assert read_run(private).epsilons["outsider"].sentence in page.text


def test_a_run_without_noise_claims_nothing(tmp_path):
    page = Page(render(read_run(finished(tmp_path)), public=True))
    assert "No noise was added" in page.text
    assert "survivors" in page.text  # nothing to protect by leaving it out
    assert "to the last bit" in page.text


def test_simulated_noise_is_never_called_epsilon(tmp_path):
    folder = finished(tmp_path, **PRIVATE, **{"privacy.noise": "simulation", "sum.scheme": "plain"})
    assert "epsilon if the noise were secure" in Page(render(read_run(folder))).text


def test_a_name_is_text(tmp_path):
    text = render(read_run(finished(tmp_path, name="<b>&x")))
    assert "<b>&x" not in text
    assert Page(text).open == []


def test_the_verb_writes_it(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    finished(tmp_path / "runs")
    assert run(["report", "r", "--json"]) == 0
    path = Path(json.loads(capsys.readouterr().out)["report"])
    assert path.read_text().startswith("<!doctype html>")
    assert run(["report", "r", "--to", "sub/x.html", "--public"]) == 2
    assert not (tmp_path / "sub").exists()  # a path that is mistyped leaves no folder behind
    (tmp_path / "sub").mkdir()
    assert run(["report", "r", "--to", "sub/x.html", "--public"]) == 0
    assert (tmp_path / "sub/x.html").is_file()
    with RunFolder(tmp_path / "runs/empty").writing(Config(), Identity("00" * 32, 10), resume=False):
        pass
    capsys.readouterr()
    assert run(["report", "empty"]) == 2
    assert "no finished round" in capsys.readouterr().err.replace("\n", " ")


def test_following_the_page_gives_the_same_model(tmp_path, monkeypatch, capsys):
    made = finished(tmp_path)
    page = render(read_run(made))
    (toml,) = re.findall(r"<pre>(.*?)</pre>", page, re.DOTALL)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    (elsewhere / "run.toml").write_text(html.unescape(toml))
    assert "type <code>privfl run run.toml</code>" in page
    assert run(["run", "run.toml"]) == 0
    capsys.readouterr()
    (again,) = (elsewhere / "runs").iterdir()
    assert read_run(again).lineage == read_run(made).lineage


def test_versions_are_those_of_the_run(tmp_path, monkeypatch):
    """Not those of the day on which the page is written; and of each part where a run went on with others."""
    made = finished(tmp_path)
    monkeypatch.setattr(versions, "versions_here", lambda: {"privfl": "9.9", "numpy": "77.1"})
    assert "77.1" not in render(read_run(made))
    config = Config(name="r", rounds=4)
    overrides = {"data.standardize": "public", "client.steps": 5, "sum.scheme": "masked"}
    assert len(list(Experiment(config, runs=tmp_path, overrides=overrides).each_round(resume=True))) == 1
    page = Page(render(read_run(made)))
    assert "from round 1" in page.text
    assert "from round 4" in page.text
    assert "77.1" in page.text
    (made / versions.VERSIONS).unlink()
    assert "not noted when this run was made" in render(read_run(made))
    (made / versions.VERSIONS).write_text('[{"from_round": 1}]')
    with pytest.raises(StateError, match="does not hold the versions"):
        read_run(made)


def test_versions_of_which_no_round_came_are_forgotten(tmp_path, monkeypatch):
    for number in ("1", "2", "3"):
        monkeypatch.setattr(versions, "versions_here", lambda number=number: {"privfl": number})
        versions.note_origin(tmp_path, 1 if number != "3" else 5)
        versions.note_origin(tmp_path, 7)  # the same versions: nothing to note
    assert versions.read_origins(tmp_path) == (
        versions.Origin(1, {"privfl": "2"}),
        versions.Origin(5, {"privfl": "3"}),
    )


def test_a_page_does_not_claim_that_settings_tell_what_a_program_gave(tmp_path):
    clients = partition(load("breast_cancer"), "iid", 3, 0)
    experiment = Experiment(
        data=clients,
        train=lambda model, client, round, rng: ClientUpdate(model + 1, 1),
        initial=np.zeros(2),
        rounds=1,
        runs=tmp_path,
    )
    list(experiment.run())
    text = Page(render(read_run(experiment.folder))).text
    assert "type privfl run run.toml" not in text
    assert "gave this run its data and train" in text
    assert "breast_cancer, federated over 3 clients" in text


def test_the_page_lists_each_caveat_once(tmp_path):
    settings = {"data.test": "local", "privacy.placement": "central", "privacy.clip_norm": 1.0}
    private = settings | {"privacy.noise_multiplier": 2.0}
    result = Experiment(rounds=2, evaluate_every=1, name="r", runs=tmp_path, overrides=private).run()
    page = render(read_run(result.folder))
    assert page.count("nothing is evaluated: the test examples belong to clients") == 1
    shown = render(read_run(result.folder), public=True)
    assert "nothing is evaluated" in shown  # an outsider reads why a figure is absent
    assert "counts as zero" in page  # and nothing of the rounds
    assert "counts as zero" not in shown


def test_the_page_follows_the_reader_s_colors_and_labels_its_figures(private):
    text = render(read_run(private))
    assert "prefers-color-scheme:dark" in text
    assert "@media print" in text
    assert text.count("<thead>") >= 2  # repeated on each printed page
    assert text.count("<figcaption>") == text.count("<svg") == 2
    words = Page(text).text
    assert words.count("wrong in at least") == sum(
        math.isfinite(r.epsilon) for r in read_run(private).epsilons.values()
    )
    assert words.count("For every observer") == 1
    assert "share" not in words
