"""`privfl plan`: the planners' figures for both sums, what is refused, and which flags each sum takes."""

import json

import numpy as np
import pytest

from privfl.cli.app import run
from privfl.crypto import MemoryDirectory, generate_identities
from privfl.errors import ConfigError
from privfl.fl.range import NARROW_BITS
from privfl.he import CkksSum, plan_ckks
from privfl.ring import Ring
from privfl.secagg import plan_sum
from privfl.secagg.noiseplan import plan_noise
from privfl.sums import SumTask, run_sum

CKKS = ["plan", "--sum", "ckks", "--clients", "100", "--length", "409600"]


def said(capsys) -> dict:
    return json.loads(capsys.readouterr().out)


def shown(capsys) -> str:
    return " ".join(capsys.readouterr().out.replace("\u2502", " ").split())


def test_the_masked_plan_is_the_planner_s(capsys):
    assert run(["plan", "--clients", "1000", "--length", "5000", "--json"]) == 0
    record, plan = said(capsys), plan_sum(1000, 5000)
    assert (record["degree"], record["share_threshold"]) == (plan.degree, plan.share_threshold)
    assert record["bytes_up"] == plan.bytes_up
    assert run(["plan", "--clients", "1000", "--length", "5000"]) == 0
    assert str(plan.share_threshold) in capsys.readouterr().out


def test_a_complete_graph_leaves_nothing_to_chance(capsys):
    arguments = ["plan", "--clients", "40", "--length", "5", "--degree", "0"]
    assert run([*arguments, "--json"]) == 0
    record = said(capsys)
    assert record["degree"] == 39
    assert record["correctness_bits"] is None
    assert run([*arguments, "--semi-honest", "--measure"]) == 0
    assert "threshold is met" in capsys.readouterr().out


def test_the_encrypted_plan_is_the_planner_s(capsys):
    assert run([*CKKS, "--json"]) == 0
    record, plan = said(capsys), plan_ckks(409_600, 100, Ring(31))
    for name in ("bits", "degree", "prime_bits", "bytes_up", "bytes_down", "bytes_per_value", "margin"):
        assert record[name] == getattr(plan, name), name
    assert not [name for name in record if name.endswith("seconds")]
    assert (record["quorum"], record["max_dropouts"]) == (51, 49)
    assert run(CKKS) == 0
    text = shown(capsys)
    assert "51 of 100 clients sign" in text
    assert "up to 49 of 100" in text
    assert "3 up, 2 down" in text
    assert "128 bits" in text


def test_without_bits_an_encrypted_sum_is_planned_as_a_run_with_noise_would_be(capsys):
    assert run([*CKKS, "--json"]) == 0
    record = said(capsys)
    assert record["bits"] == NARROW_BITS == 31
    assert record["prime_bits"] == 48
    assert record["bytes_per_value"] < 6.1
    assert run([*CKKS, "--bits", "23", "--json"]) == 0
    assert said(capsys)["bytes_per_value"] < 5.1
    assert run(["plan", "--clients", "100", "--length", "5", "--json"]) == 0
    assert said(capsys)["bits"] == 32


def test_more_dropouts_than_a_quorum_allows_are_refused(capsys):
    assert run([*CKKS, "--dropout", "0.49"]) == 0
    capsys.readouterr()
    assert run([*CKKS, "--dropout", "0.5"]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "50 of 100 clients" in error
    assert "a sum that needs 51 vectors allows 49" in error
    assert run([*CKKS, "--dropout", "1.5"]) == 2
    assert "dropout is a fraction" in capsys.readouterr().err


@pytest.mark.parametrize(("clients", "needed"), [(3, 3), (4, 3), (5, 3), (6, 4), (100, 51)])
def test_the_dropouts_survived_are_those_of_the_sum(clients, needed, capsys):
    """A sum opens with three vectors or more, however small its quorum is."""
    assert run(["plan", "--sum", "ckks", "--clients", str(clients), "--length", "5", "--dropout", "0", "--json"]) == 0
    record = said(capsys)
    scheme = CkksSum(MemoryDirectory({}))
    assert record["min_survivors"] == scheme.min_survivors_of(clients, 1) == needed
    assert record["max_dropouts"] == clients - needed
    assert record["quorum"] == clients // 2 + 1


@pytest.mark.parametrize("clients", [1, 2])
def test_a_cohort_that_never_opens_an_encrypted_sum_is_refused(clients, capsys):
    assert run(["plan", "--sum", "ckks", "--clients", str(clients), "--length", "5", "--dropout", "0"]) == 2
    assert "never opens" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    "flag",
    [
        ["--degree", "0"],
        ["--degree", "10"],
        ["--semi-honest"],
        ["--measure"],
        ["--corrupt", "0"],
        ["--corrupt", "0.29"],
    ],
)
def test_flags_of_a_masked_sum_are_refused_for_an_encrypted_one(flag, capsys):
    assert run([*CKKS, *flag]) == 2
    assert f"{flag[0]}" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="masked sum"):
        run([*CKKS, *flag, "--debug"])


def test_the_messages_of_an_encrypted_sum_are_those_on_the_wire(capsys):
    pytest.importorskip("tenseal")
    assert run(["plan", "--sum", "ckks", "--clients", "4", "--length", "5", "--json"]) == 0
    record, seen, largest = said(capsys), {"up": [0] * 4, "down": [0] * 4}, {"up": 0, "down": 0}

    def tap(direction, client, message):
        seen[direction][client] += 1
        largest[direction] = max(largest[direction], len(message))

    credentials, directory = generate_identities(range(4))
    task = SumTask(b"messages", (0, 1, 2, 3), 1, 5, Ring(record["bits"]), 10)
    vectors = dict.fromkeys(task.clients, np.arange(5))
    run_sum(CkksSum(directory), task, vectors, credentials=credentials, tap=tap)
    # The first client deals and opens.
    assert seen["up"] == [record["messages_up"] + 2] + 3 * [record["messages_up"]]
    assert seen["down"] == [record["messages_down"] + 2] + 3 * [record["messages_down"]]
    assert largest == {"up": record["bytes_up"], "down": record["bytes_down"]}


def test_a_plan_whose_dropouts_are_too_many_is_refused(capsys):
    many = ["plan", "--clients", "50", "--length", "5", "--degree", "0", "--dropout"]
    assert run([*many, "0.6"]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "30 of 50 clients" in error
    assert "nothing would be opened" in error
    assert run([*many, "0.1"]) == 0
    assert "nothing would be opened" not in " ".join(capsys.readouterr().out.split())


def test_an_impossible_plan_says_why(capsys):
    assert run(["plan", "--clients", "1000", "--length", "5", "--corrupt", "1.5"]) == 2
    assert capsys.readouterr().err.startswith("privfl: ")
    assert run(["plan", "--sum", "ckks", "--clients", "10", "--length", "5", "--bits", "60"]) == 2
    assert "43 bits" in capsys.readouterr().err.replace("\n", " ")


def test_the_noise_plan_is_the_planner_s(capsys):
    command = ["plan", "--noise", "--clients", "5", "--dropout", "0.05", "--length", "1000"]
    assert run([*command, "--json"]) == 0
    record, plan = said(capsys), plan_noise(5, dropout=0.05, length=1000)
    assert [one["way"] for one in record["prices"]] == ["mesh", "shares", "groups", "add-then-remove"]
    assert record["prices"][0]["mean_variance"] == plan.mesh.mean_variance
    assert run([*command, "--measure", "--semi-honest"]) == 0
    assert "members = 5, min_members_to_open = 3" in shown(capsys)
    assert run([*command, "--members", "4", "--min-members", "3"]) == 0
    assert "all of these may be members" in shown(capsys)


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--noise", "--min-members", "2"], "below the minimum share threshold of 3"),
        (["--noise", "--sum", "ckks"], "masked sum"),
        (["--spare", "1"], "add --noise"),
    ],
)
def test_noise_that_cannot_be_planned_is_refused(flags, reason, capsys):
    assert run(["plan", "--clients", "5", "--length", "10", *flags]) == 2
    assert reason in " ".join(capsys.readouterr().err.split())


def test_the_noise_plan_draws_the_variance_over_the_dropout_rate(capsys, tmp_path):
    command = ["plan", "--noise", "--clients", "6", "--dropout", "0.1", "--length", "10"]
    assert run([*command, "--plot", str(tmp_path / "noise.svg"), "--json"]) == 0
    assert said(capsys)["plot"] == str(tmp_path / "noise.svg")
    assert (tmp_path / "noise.svg").read_text().count("<path") > 20
    assert run([*command, "--spare", "2", "--semi-honest", "--plot", str(tmp_path / "noise.png")]) == 0
    assert "noise.png" in capsys.readouterr().out
    assert (tmp_path / "noise.png").stat().st_size > 10_000
