"""Mesh noise in plans: its numbers for every cohort, the constant of sampled cohorts, and what is refused."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from builders import a_plan, an_encoding

from privfl.dp import Everyone, FixedSize, Mechanism, Poisson
from privfl.errors import ConfigError, PrivacyError, TooFewSurvivors
from privfl.fl.plan import RoundPlan
from privfl.fl.survivors import SurvivorRule, mesh_is_certain
from privfl.secagg import MaskedSum
from privfl.sums.base import identity

MASKED = MaskedSum(mode="semi-honest")  # of k clients it opens max(k // 2 + 1, 3)


def plan_of(size: int = 5, *, rule: SurvivorRule = SurvivorRule(0.5, 1), **changes: Any) -> RoundPlan:
    settings = {"population": size, "sampling": Everyone()} | {
        key: changes.pop(key) for key in ("population", "sampling", "attempt") if key in changes
    }
    mechanism = Mechanism("mesh", 4.0, **({"spare": 1} | changes))
    return a_plan(MASKED, cohort=tuple(range(size)), survivor_rule=rule, mechanism=mechanism, **settings)


@pytest.mark.parametrize(
    ("size", "rule", "changes", "numbers"),
    [
        (5, SurvivorRule(0.5, 1), {}, (5, 3)),
        (5, SurvivorRule(0.8, 1), {}, (5, 4)),
        (5, SurvivorRule(0.5, 4), {"min_members_to_open": 4}, (5, 4)),
        (10, SurvivorRule(0.5, 1), {"members": 6, "min_members_to_open": 4}, (6, 4)),
        (10, SurvivorRule(0.9, 1), {"members": 6}, (6, 5)),
        (10, SurvivorRule(0.5, 1), {"members": 20}, (10, 6)),
    ],
)
def test_the_numbers_follow_from_what_the_sum_opens(
    size: int, rule: SurvivorRule, changes: dict[str, int], numbers: tuple[int, int]
) -> None:
    plan = plan_of(size, rule=rule, **changes)
    noise = plan.noise(MASKED)
    mesh = noise.mesh
    assert mesh is not None
    assert (mesh.members, mesh.min_members_to_open, mesh.spare, mesh.constant) == (*numbers, 1, 0.0)
    assert noise.noise_stddev**2 < mesh.variance < noise.noise_stddev**2 * (1 + 1e-9)
    task = plan.task(MASKED)
    assert task.noise == mesh
    assert task.bound == plan.encoding.entry_bound + mesh.reach
    assert task.vector_bound == plan.encoding.entry_bound
    assert noise.total_stddev == mesh.max_variance(size) ** 0.5
    assert noise.law == "skellam"
    assert plan.opening(MASKED) is identity
    vector = np.arange(4)
    assert plan.add_noise(MASKED, 0, vector) is vector


@pytest.mark.parametrize("sampling", [Poisson(0.5), FixedSize(5, 12)], ids=["Poisson", "fixed size"])
def test_sampled_cohorts_are_filled_up_to_one_variance(sampling: Any) -> None:
    found = set()
    for size in (5,) if isinstance(sampling, FixedSize) else (3, 5, 8, 12):
        mesh = plan_of(size, sampling=sampling, population=12).noise(MASKED).mesh
        assert mesh is not None
        for members in range(mesh.min_members_to_open, size + 1):
            for present in range(mesh.min_members_to_open, members + 1):
                assert mesh.total_variance(members, present) < mesh.constant
        found.add(mesh.constant / mesh.variance)
    assert len(found) == 1


def test_a_cohort_that_cannot_open_is_never_summed() -> None:
    plan = plan_of(4, members=6, min_members_to_open=5, sampling=Poisson(0.5), population=12)
    assert plan.noise(MASKED).mesh is None
    with pytest.raises(TooFewSurvivors):
        plan.check_openable(MASKED)
    with pytest.raises(ConfigError, match="too few members"):
        plan.task(MASKED)
    release = plan.worst_case(MASKED)
    assert (release.placement, release.spare) == ("mesh", 1)
    assert plan_of(1, sampling=Poisson(0.5), population=12).worst_case(MASKED).declared_stddev > 0


@pytest.mark.parametrize(
    ("size", "changes", "reason"),
    [
        (5, {"spare": 3}, "opens at least 4"),
        (5, {"min_members_to_open": 2}, "is below the 3 members"),
        (10, {"members": 4}, "opens at least 2 of 2 or more members"),
        (10, {"members": 6, "min_members_to_open": 2, "spare": 1}, None),
    ],
)
def test_noise_that_would_not_count_is_refused(size: int, changes: dict[str, int], reason: str | None) -> None:
    plan = plan_of(size, **changes)
    if reason is None:
        assert plan.noise(MASKED).mesh is not None
        return
    with pytest.raises(ConfigError, match=reason):
        plan.noise(MASKED)


def test_no_size_that_opens_has_no_constant() -> None:
    with pytest.raises(ConfigError, match="no cohort"):
        plan_of(3, rule=SurvivorRule(0.5, 9), sampling=Poisson(0.5), population=5).noise(MASKED)


def test_realized_noise_is_counted_without_the_spare_members() -> None:
    plan = plan_of(5)
    mesh = plan.noise(MASKED).mesh
    assert mesh is not None
    known = plan.release(MASKED, range(4), worst_case=False, members=(5, 4))
    assert known.realized_stddev == mesh.counted_variance(5, 4) ** 0.5 > known.declared_stddev
    assert plan.release(MASKED, range(4), worst_case=False).realized_stddev == known.declared_stddev
    assert plan.worst_case(MASKED).covers(known)
    with pytest.raises(PrivacyError, match="surviving noise"):
        plan.release(MASKED, range(2), worst_case=False, members=(5, 2))


def test_members_that_no_list_guarantees_leave_the_chance_of_a_skipped_round_unknown() -> None:
    rule = SurvivorRule(0.5, 1)
    certain, asked = Mechanism("mesh", 1.0, spare=1), Mechanism("mesh", 1.0, spare=1, members=6, min_members_to_open=4)
    assert mesh_is_certain(certain, rule, MASKED, 10)
    assert not mesh_is_certain(asked, rule, MASKED, 10)
    assert rule.shortfall(MASKED, 10, 0.1, certain) == rule.shortfall(MASKED, 10, 0.1)
    assert rule.shortfall(MASKED, 10, 0.1, asked) is None


def test_simulation_noise_is_keyed_by_the_plan() -> None:
    plan = plan_of(5, source="simulation")
    mesh = plan.noise(MASKED).mesh
    assert mesh is not None
    assert mesh.key == (plan.seed, plan.round)
    assert plan_of(5).noise(MASKED).mesh.key is None  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("placement", "changes", "reason"),
    [
        ("distributed", {"spare": 1}, "placement 'mesh'"),
        ("central", {"members": 3}, "placement 'mesh'"),
        ("mesh", {"colluders": 1}, "colluders belong"),
        ("mesh", {"members": 1}, "at least 2"),
        ("mesh", {"spare": 2, "members": 2}, "at least 3"),
        ("mesh", {"spare": 2, "min_members_to_open": 2}, r"0 or in \[3, the cohort\]"),
        ("mesh", {"members": 3, "min_members_to_open": 4}, r"0 or in \[1, 3\]"),
        ("mesh", {"spare": -1}, "spare must be an integer"),
        ("mesh", {"discrete": True}, "discrete"),
    ],
)
def test_mechanisms_that_contradict_themselves(placement: Any, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        Mechanism(placement, 1.0, **changes)


def test_a_vector_is_checked_before_and_after_its_noise() -> None:
    plan = plan_of(5)
    task = plan.task(MASKED)
    with pytest.raises(ConfigError, match=f"bound of {task.vector_bound}"):
        MASKED.client(task, 0, np.full(4, task.vector_bound + 1))
    with pytest.raises(ConfigError, match="one client alone"):
        replace(task, bound=3)


def test_noise_beyond_its_bound_is_never_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    task = plan_of(3).task(MASKED)
    assert task.noise is not None
    clients = {c: MASKED.client(task, c, np.zeros(4, np.int64)) for c in range(3)}
    server = MASKED.server(task)
    assert server.members is None
    for c, session in clients.items():
        server.receive(c, session.start())
    mail = server.advance()
    monkeypatch.setattr(type(task.noise), "sample", lambda *given, **streams: np.full(4, task.noise.reach + 1))
    with pytest.raises(ConfigError, match="beyond its bound"):
        clients[0].receive(mail[0])
    assert clients[0].state == "aborted"
    assert an_encoding().slots
