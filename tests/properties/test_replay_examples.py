"""Gray-box replay of steps over examples: one example moves a release within its clip, and planted faults are found."""

from collections import Counter
from unittest import mock

import numpy as np
import pytest
from replay import divergences, play
from replay_examples import example_case

from privfl.fl import examples


@pytest.mark.parametrize("start", range(0, 240, 60))
def test_one_example_moves_a_step_within_its_clip(start):
    found = {seed: wrong for seed in range(start, start + 60) if (wrong := divergences(example_case(seed)))}
    assert found == {}


def test_the_cases_reach_what_they_are_meant_for():
    seen: Counter[str] = Counter()
    for seed in range(60):
        case = example_case(seed)
        one, two = play(case, other=False), play(case, other=True)
        seen[one.error or "opened"] += 1
        if one.error:
            continue
        mechanism = case.plan.mechanism
        seen.update([case.scheme.name, mechanism.placement, mechanism.source, case.unit.adjacency])
        seen["moved"] += not np.array_equal(one.released, two.released)
        seen["clamped"] += any(np.abs(v).max() == case.plan.encoding.entry_bound for v in one.encoded.values())
    reached = ("opened", "plain-sum/1", "masked-sum/1", "central", "distributed", "mesh", "secure", "simulation")
    assert all(seen[name] >= 3 for name in (*reached, "zero_out", "replace_one", "clamped")), seen
    assert seen["moved"] > 0.2 * seen["opened"]


def test_planted_faults_are_found():
    whole = examples.clipped_sum

    def loose(gradients, codec, clip_norm, length):
        return whole(gradients, codec, 3 * clip_norm, length)

    def clipped_once(gradients, codec, clip_norm, length):
        total = sum((np.nan_to_num(part.astype(np.float64)).sum(axis=0) for part in gradients), np.zeros(length))
        return np.rint(np.clip(total, -9.0, 9.0) * codec.scale).astype(np.int64)

    for fault in (loose, clipped_once):
        with mock.patch.object(examples, "clipped_sum", fault):
            assert any(divergences(example_case(seed)) for seed in range(40)), fault
