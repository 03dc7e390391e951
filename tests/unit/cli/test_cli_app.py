"""The command line as a whole: versions, help, errors and exit codes."""

import json
import subprocess
import sys

import pytest
import typer

import privfl
from privfl.cli.app import app, fail, remedy_for, run
from privfl.cli.doctor import diagnose
from privfl.cli.once import Once
from privfl.cli.options import parse_overrides
from privfl.errors import ConfigError, StateError

VERBS = (
    "demo", "run", "epsilon", "audit", "attack", "calibrate", "plan", "compare", "report", "doctor", "runs",
    "runs list", "runs show", "runs export", "config", "config schema", "config reference",
    "sweep", "table", "ledger", "data", "data inspect", "data check",
    "site", "site new", "site show", "site directory", "site sign", "site check", "site approve", "site withdraw",
    "site ledger", "site reconcile", "site renew", "site serve", "site try", "site mock",
)  # fmt: skip


def test_version(capsys):
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"privfl {privfl.__version__}\n"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb, capsys):
    assert run([*verb.split(), "--help"]) == 0
    shown = capsys.readouterr().out
    assert verb in ("runs", "config", "data", "ledger", "site") or "Example" in shown
    assert f"privfl {verb}" in shown


def test_every_registered_verb_is_listed_here():
    names = {command.name for command in app.registered_commands} | {group.name for group in app.registered_groups}
    assert names <= {verb.split()[0] for verb in VERBS}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["bogus"], "bogus"),
        (["demo", "--sum", "magic"], "magic"),
        (["epsilon", "--nonsense"], "--nonsense"),
        (["run", "absent.toml"], "cannot read absent.toml"),
        (["runs", "show", "nothing"], "there is no run 'nothing'"),
        (["plan", "--clients", "3"], "--length"),
        (["plan", "--clients", "10", "--length", "5", "--bits", "3"], "3"),
    ],
)
def test_an_error_is_one_sentence_and_a_remedy_with_code_2(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(arguments) == 2
    captured = capsys.readouterr()
    assert words in captured.err.replace("\n", " ")
    assert captured.err.startswith("privfl: ")
    assert "Traceback" not in captured.err
    assert captured.err.count("`") >= 2  # the remedy names a command
    assert captured.out == ""


def test_debug_raises_wherever_it_stands(monkeypatch):
    with pytest.raises(ConfigError, match=r"absent\.toml"):
        run(["run", "absent.toml", "--debug"])
    monkeypatch.setenv("PRIVFL_DEBUG", "1")
    with pytest.raises(ConfigError, match=r"absent\.toml"):
        run(["run", "absent.toml"])


def test_an_interrupt_says_what_is_kept(monkeypatch, capsys):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("privfl.cli.run.load_config", interrupt)
    assert run(["run", "x.toml"]) == 130
    assert "`privfl run ... --resume`" in capsys.readouterr().err
    monkeypatch.setattr("privfl.cli.sweep.load_config", interrupt)
    assert run(["sweep", "x.toml", "--over", "client.epochs=1,2"]) == 130
    assert "runs that were finished are kept. The same command goes on after them" in capsys.readouterr().err
    monkeypatch.setattr("privfl.cli.doctor.diagnose", interrupt)
    assert run(["doctor"]) == 130
    assert capsys.readouterr().err == "privfl: interrupted.\n"  # a verb that keeps nothing promises nothing


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (["epsilon", "--sampling", "everyone", "--rounds", "0", "--noise-multiplier", "1"], "`privfl epsilon --help`"),
        (["runs", "show", "nothing"], "`privfl runs show --help`"),
        (["plan", "--clients", "10", "--length", "5", "--bits", "3"], "`privfl plan --help`"),
        (["run", "absent.toml"], "`privfl config reference`"),
    ],
)
def test_a_remedy_is_true_for_the_verb(arguments, remedy, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(arguments) == 2
    assert remedy in capsys.readouterr().err


@pytest.mark.parametrize(("verb", "words"), [("run", "--set name=NAME"), ("compare", "--to FOLDER"), ("epsilon", "")])
def test_an_altered_file_has_a_remedy_of_the_verb(verb, words):
    found = remedy_for(StateError("altered"), verb)
    assert words in found
    assert bool(found) == bool(words)


def test_markup_in_a_message_is_text(capsys):
    assert fail("no such key [bold]x[/]") == 2
    assert "[bold]x[/]." in capsys.readouterr().err


def test_doctor_names_the_line_that_installs_what_is_missing(monkeypatch, capsys):
    facts = diagnose()
    assert facts["packages"]["numpy"]
    monkeypatch.setattr("privfl.cli.doctor._version", lambda name: None if name in ("torch", "tenseal") else "1.0")
    assert run(["doctor", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["install"] == "pip install 'privfl[he,torch]'"
    assert facts["packages"]["torch"] is None
    assert run(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert "missing" in shown
    assert "privfl[he,torch]" in shown


def test_doctor_with_everything_installed_proposes_nothing(monkeypatch, capsys):
    monkeypatch.setattr("privfl.cli.doctor._version", lambda name: "1.0")
    assert run(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["install"] is None


@pytest.mark.parametrize(
    ("text", "value"),
    [("5", 5), ("0.5", 0.5), ("true", True), ("masked", "masked"), ('"5"', "5"), ("[1, 2]", [1, 2]), ("a=b", "a=b")],
)
def test_overrides_are_read_as_toml_and_else_as_text(text, value):
    assert parse_overrides([f"sum.scheme={text}"]) == {"sum.scheme": value}


@pytest.mark.parametrize("text", ["rounds", "=5", ""])
def test_an_override_needs_key_and_value(text):
    with pytest.raises(ConfigError, match="KEY=VALUE"):
        parse_overrides([text])


def leaves(group):
    for command in group.commands.values():
        yield from leaves(command) if hasattr(command, "commands") else [command]


def test_every_verb_takes_an_option_once():
    verbs = list(leaves(typer.main.get_command(app)))
    assert len(verbs) >= 14
    assert all(isinstance(verb, Once) for verb in verbs)


PLANNED = ["--sampling", "everyone", "--population", "9", "--noise-multiplier", "2", "--rounds", "3", "--delta", "1e-5"]


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["epsilon", *PLANNED, "--rounds", "300"], "--rounds"),
        (["epsilon", *PLANNED, "--delta=1e-9"], "--delta"),
        (["epsilon", *PLANNED, "--observer", "server", "--observer", "outsider"], "--observer"),
        (["demo", "--sum", "plain", "--sum", "masked"], "--sum"),
        (["runs", "list", "--runs", "a", "--runs", "b"], "--runs"),
        (["run", "absent.toml", "--seed", "1", "--seed", "1"], "--seed"),
    ],
)
def test_a_second_value_of_an_option_is_refused(arguments, option, capsys):
    assert run(arguments) == 2
    captured = capsys.readouterr()
    assert f"'{option}'" in captured.err
    assert "it is given 2 times; give it once" in captured.err
    assert captured.out == ""


def test_a_switch_may_stand_twice(capsys):
    assert run(["epsilon", *PLANNED, "--json", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rounds"] == 3


@pytest.mark.parametrize(
    "more",
    [["--set", "rounds=2", "--set", "rounds=3"], ["--set", "seed=2", "--seed", "3"], ["--seed=3", "--set=seed=3"]],
)
def test_a_second_override_of_a_key_is_refused(more, tmp_path, capsys):
    (tmp_path / "mine.toml").write_text("rounds = 1")
    assert run(["run", str(tmp_path / "mine.toml"), "--runs", str(tmp_path), *more]) == 2
    assert "is given twice on the command line: give it once" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.toml"]


def test_as_a_process_an_error_leaves_code_2_and_no_traceback():
    done = subprocess.run(
        [sys.executable, "-m", "privfl", "run", "absent.toml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert "absent.toml" in done.stderr


def test_as_a_process_the_version_is_printed():
    done = subprocess.run([sys.executable, "-m", "privfl", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"privfl {privfl.__version__}"


@pytest.mark.parametrize("arguments", [[], ["runs"]])
def test_without_a_command_the_help_is_all_that_is_printed(arguments, capsys):
    assert run(arguments) == 2
    captured = capsys.readouterr()
    assert " ".join(["Usage: privfl", *arguments]) in captured.out
    assert captured.err == ""
