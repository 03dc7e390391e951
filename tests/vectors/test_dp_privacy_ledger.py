"""privfl's ledger and epsilon against protocols/privacy-ledger, whose reader and verifier share no code with it."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import references
from hypothesis import given, settings
from hypothesis import strategies as st
from ledgers import CKKS, MASKED, PLAIN, noise_of, realized, worst_case

from privfl.dp import (
    Everyone,
    FixedSize,
    Ledger,
    Mechanism,
    OnePass,
    Poisson,
    PrivacyUnit,
    Slot,
    TruncatedPoisson,
    epsilon,
)
from privfl.errors import StateError, UnsupportedRelease

FOLDER = Path(__file__).parents[2] / "protocols" / "privacy-ledger"


VERIFIER, SCENARIOS, READER = (references.load("privacy-ledger", name) for name in ("reference", "scenarios", "ledger"))
Refused = READER.StateError


def cases(name):
    loaded = json.loads((FOLDER / "vectors" / f"{name}.json").read_text())
    return [pytest.param(case, id=case["name"]) for case in loaded["cases"]]


@pytest.mark.parametrize("case", cases("valid"))
def test_valid_ledgers_are_read_and_published(case, tmp_path):
    path = tmp_path / "ledger"
    path.write_text(case["file"])
    ledger = Ledger.read(path)
    assert ledger.unit == PrivacyUnit(*case["unit"])
    assert [draw.record() for draw in ledger.draws] == case["draws"]
    assert [release.record() for release in ledger.releases] == case["charged"]
    assert [token.digest for token in ledger.unsettled] == case["waiting"]
    ledger.publish(tmp_path / "published")
    assert (tmp_path / "published").read_text() == case["published"]
    assert len(Ledger.read(tmp_path / "published").releases) == len(ledger.releases)


@pytest.mark.parametrize("case", cases("invalid"))
def test_invalid_ledgers_are_refused(case, tmp_path):
    path = tmp_path / "ledger"
    path.write_text(case["file"])
    with pytest.raises(StateError):
        Ledger.read(path)


def test_the_vectors_are_those_of_the_reference(tmp_path, monkeypatch):
    (tmp_path / "vectors").mkdir()
    monkeypatch.setattr(SCENARIOS, "__file__", str(tmp_path / "scenarios.py"))
    SCENARIOS.main()
    for name in ("valid.json", "invalid.json"):
        assert (tmp_path / "vectors" / name).read_bytes() == (FOLDER / "vectors" / name).read_bytes()


def test_the_verifier_is_short():
    assert [name for name, text in references.sources("privacy-ledger").items() if len(text.splitlines()) > 300] == []


# dp-spec part 2: values that were found by closed forms and by dp-accounting on very fine grids.
@pytest.mark.parametrize(
    ("q", "z", "rounds", "delta", "truth"),
    [
        (6500 / 3e6, 7.0, 2000, 1e-10, 0.0753737),
        (0.1, 0.8, 100, 1e-15, 24.381846),
        (1.0, 10.0, 100, 1e-15, 8.16557970),
        (0.01, 1.0, 1000, 1e-15, 4.854536),
    ],
)
def test_the_verifier_is_at_most_a_thousandth_above_the_truth_and_never_below(q, z, rounds, delta, truth):
    sampled = {((("kind", "poisson"), ("probability", q)), z): rounds}
    found = VERIFIER.spectral_epsilon(VERIFIER.Counter(sampled), math.inf, delta, 1)
    assert truth * (1 - 1e-5) <= found <= truth * (1 + 5e-4)


SLOTS = (Slot("update", 30, 512.0, 1.0),)
COHORT = 6
samplings = st.one_of(
    st.just(Everyone()),
    st.just(OnePass(COHORT)),
    st.floats(0.01, 1.0).map(Poisson),
    st.integers(COHORT, 60).map(lambda n: FixedSize(COHORT, n)),
    st.tuples(st.floats(0.02, 0.9), st.integers(COHORT, 9), st.integers(10, 40)).map(lambda t: TruncatedPoisson(*t)),
)
turns = st.one_of(st.none(), st.just(0.0), st.floats(1e-9, 1e-4))
runs = st.lists(
    st.tuples(
        samplings,
        st.sampled_from(["central", "local", "distributed", "mesh", "mesh, none spare", "central, correlated"]),
        st.floats(0.5, 8.0),
        turns,
        st.integers(1, 12),
        st.sets(st.integers(0, COHORT - 1), max_size=2),
        st.booleans(),
    ),
    min_size=1,
    max_size=2,
)


def filled(path, unit, parts, views):
    """A ledger with some rounds of each part, the last of them skipped, refunded or tried twice."""
    ledger, round = Ledger(unit, path), 0
    for sampling, placement, z, turn, rounds, absent, twice in parts:
        once, place = isinstance(sampling, OnePass), placement.split(",")[0]
        correlation = "toeplitz" if once and placement.endswith("correlated") else "none"
        mechanism = Mechanism(place, z, spare=int(placement == "mesh"), correlation=correlation)
        plan = noise_of(mechanism, SLOTS, cohort=COHORT, min_survivors=4)
        for _ in range(rounds):
            ledger.draw(round, sampling, turn)
            first = 100 + COHORT * round if once else 0
            cohort = range(first, first + COHORT)
            for attempt in range(1 + twice * (round % 3 == 0)):
                settings = {"round": round, "attempt": attempt, "sampling": sampling, "views": views}
                token = ledger.reserve(worst_case(plan, **settings, cohort=cohort))
                if round % 4 == 1:
                    ledger.refund(token, "too_few_survivors")
                elif round % 4 != 3:
                    there = set(cohort) - {first + client for client in absent}
                    ledger.settle(token, realized(plan, **settings, survivors=there))
            round += 1
    ledger.draw(round, parts[-1][0], parts[-1][3], void=round % 7 == 6)
    return ledger


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    runs,
    runs,
    st.sampled_from(["add_remove", "zero_out", "replace_one"]),
    st.sampled_from([PLAIN, MASKED, CKKS]),
    st.sampled_from([1e-3, 1e-5, 1e-7]),
    st.booleans(),
)
def test_a_third_party_finds_the_same_epsilon(tmp_path_factory, first, second, adjacency, views, delta, both):  # noqa: PLR0917
    folder = tmp_path_factory.mktemp("ledgers")
    unit = PrivacyUnit("client", adjacency)
    ledgers = [filled(folder / "0", unit, first, views)]
    ledgers += [filled(folder / "1", unit, second, views)] if both else []
    read = [VERIFIER.read((folder / str(n)).read_bytes()) for n in range(len(ledgers))]
    for observer in views:
        try:
            ours = epsilon(ledgers, delta, observer=observer, cross_checks=False).epsilon
        except UnsupportedRelease:
            with pytest.raises(Refused):
                VERIFIER.epsilon(read, delta, observer)
            continue
        theirs = VERIFIER.epsilon(read, delta, observer)
        assert theirs == ours or abs(theirs - ours) <= 1e-3 * max(1.0, ours)
    for ledger, name in zip(ledgers, "ab", strict=False):
        ledger.publish(folder / name)
    published = [VERIFIER.read((folder / name).read_bytes()) for name in "ab"[: len(ledgers)]]
    try:
        assert VERIFIER.epsilon(published, delta) == VERIFIER.epsilon(read, delta)
    except Refused:
        return
    with pytest.raises(Refused, match="withheld"):
        VERIFIER.epsilon([*published, *read], delta, "participant") if published[0]["charged"] else VERIFIER.demand(
            False, "withheld"
        )


def test_the_verifier_runs_by_itself(tmp_path):
    filled(tmp_path / "a", PrivacyUnit(), [(Poisson(0.1), "central", 1.0, 0.0, 3, set(), False)], PLAIN)
    command = [sys.executable, str(FOLDER / "reference.py"), str(tmp_path / "a"), "--delta", "1e-5"]
    told = subprocess.run([*command, "--observer", "participant"], capture_output=True, text=True, check=True).stdout
    expected = epsilon(Ledger.read(tmp_path / "a"), 1e-5, observer="participant").epsilon
    assert float(told.split()[1]) == pytest.approx(expected, abs=1e-3)
