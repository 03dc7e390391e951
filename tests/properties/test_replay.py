"""Gray-box replay: 1000 random neighbors without an undeclared difference, and planted faults that one pair finds."""

from collections import Counter
from dataclasses import replace

import audits
import numpy as np
import pytest
import replay
from replay import DIRECTORY, MASKED, divergences, play, presence_divergences
from replay_cases import random_case

from privfl.dp import AdaptiveClip, Poisson, PrivacyUnit
from privfl.dp.mechanism import RoundNoise, _OpenerNoise
from privfl.errors import LocalProtocolError
from privfl.fl import client_round
from privfl.fl.client import ClientUpdate, client_rng
from privfl.fl.client_round import ClientRound
from privfl.fl.encoding import UpdateEncoding
from privfl.fl.payment import Payment
from privfl.fl.plan import RoundPlan
from privfl.fl.server_round import ServerRound
from privfl.sums import PlainSum
from privfl.sums.plain import PlainClient

PAIRS = 1000
CHUNK = 125


@pytest.mark.parametrize("start", range(0, PAIRS, CHUNK))
def test_no_undeclared_difference(start):
    found = {seed: wrong for seed in range(start, start + CHUNK) if (wrong := divergences(random_case(seed)))}
    assert found == {}


def test_the_pairs_reach_what_they_are_meant_for():
    seen: Counter[str] = Counter()
    for seed in range(150):
        case = random_case(seed)
        one, two = play(case, other=False), play(case, other=True)
        seen[one.error or "opened"] += 1
        if one.error:
            continue
        seen.update([case.scheme.name, case.plan.mechanism.placement, case.plan.mechanism.source, case.unit.adjacency])
        seen[type(case.plan.encoding.clip).__name__] += 1
        seen["dropouts"] += len(one.survivors) < len(case.plan.cohort)
        seen["released otherwise"] += not np.array_equal(one.released, two.released)
        seen["metrics"] += bool(case.plan.encoding.metrics)
        seen["toeplitz"] += case.plan.mechanism.correlation == "toeplitz"
        seen["fewer members"] += 0 < case.plan.mechanism.members < len(case.plan.cohort)
        seen["rotation"] += case.plan.encoding.rotation is not None
    reached = {
        "opened", "TooFewSurvivors", "plain-sum/1", "masked-sum/1", "central", "distributed", "local", "simulation",
        "secure", "zero_out", "replace_one", "FlatClip", "LayerClip", "ElementClip", "AdaptiveClip", "dropouts",
        "metrics", "rotation", "mesh", "toeplitz",
    }  # fmt: skip
    assert all(seen[name] >= 5 for name in reached), seen
    assert seen["fewer members"] >= 2
    assert seen["released otherwise"] > 0.7 * seen["opened"]


@pytest.mark.parametrize("scheme", [PlainSum(), MASKED], ids=["plain", "masked"])
def test_presence_changes_the_release_by_one_contribution(scheme):
    compared = 0
    for seed in range(40):
        case = random_case(seed, placement="central", scheme=scheme)
        case = replace(
            case,
            plan=replace(case.plan, sampling=Poisson(0.5)),
            dropouts={},
            unit=PrivacyUnit("client", "add_remove"),
        )
        assert presence_divergences(case) == []
        compared += len(case.plan.cohort) >= 5
    assert compared >= 10


def test_encrypted_sums():
    pytest.importorskip("tenseal")
    from privfl.he import CkksSum

    scheme = CkksSum(DIRECTORY)
    play(random_case(0, scheme=scheme, bits=32), other=False)  # what is made once in a process asks for randomness
    assert {
        seed: wrong for seed in range(12) if (wrong := divergences(random_case(seed, scheme=scheme, bits=32)))
    } == {}


def directed(placement="central", clip="flat", metrics=1):
    """A client far above the clip in one world, absent in the other."""
    asked = {"placement": placement, "clip": clip, "metrics": metrics, "scheme": PlainSum()}
    case = next(case for seed in range(99) if (case := random_case(seed, **asked)).plan.encoding.length > 5)
    length, names = case.plan.encoding.length, [metric.name for metric in case.plan.encoding.metrics]
    updates = {me: ClientUpdate(np.full(length, 100.0), 10, dict.fromkeys(names, 1.0)) for me in case.plan.cohort}
    encoding = replace(case.plan.encoding, rounding="stochastic")
    absent = ClientUpdate(np.full(length, np.nan), 10, dict.fromkeys(names, 1.0))
    return replace(
        case,
        plan=replace(case.plan, encoding=encoding),
        updates=updates,
        other=absent,
        dropouts={},
        unit=PrivacyUnit("client", "zero_out"),
    )


def test_the_directed_pairs_are_sound_without_a_fault():
    for placement in ("central", "distributed", "local"):
        for clip in ("flat", "element", "adaptive"):
            case = directed(placement, clip)
            assert divergences(case) == []
            assert play(case, other=False).error == play(case, other=True).error == ""


def clip_by_entry_charged_by_norm(patch):
    encode = UpdateEncoding.encode

    def fault(self, update, rng):
        vector = encode(self, update, rng)
        vector[: self.width] = np.sign(vector[: self.width]) * self.entry_bound
        return vector

    patch.setattr(UpdateEncoding, "encode", fault)
    return directed()


def metric_beyond_its_bound(patch):
    encode = UpdateEncoding.encode

    def fault(self, update, rng):
        vector = encode(self, update, rng)
        place = self.places[self.metrics[0].name]
        vector[place] = np.sign(vector[place]) * self.entry_bound
        return vector

    patch.setattr(UpdateEncoding, "encode", fault)
    return directed()


def block_without_a_charge(patch):
    bound = RoundNoise.norm_bound.fget

    def fault(self):
        return bound(replace(self, slots=self.slots[:1])) * 0.5

    patch.setattr(RoundNoise, "norm_bound", property(fault))
    return directed()


def indicator_as_large_as_the_clip(patch):
    patch.setattr(AdaptiveClip, "indicator", lambda self, within: (1 if within else -1) * int(0.9 * self.units))
    return directed(clip="adaptive")


def clip_after_noise(patch):
    add_noise = RoundPlan.add_noise

    def fault(self, scheme, client, vector):
        noisy = add_noise(self, scheme, client, vector)
        bound = self.noise(scheme).norm_bound
        return np.rint(noisy * min(1.0, bound / max(1.0, float(np.linalg.norm(noisy))))).astype(np.int64)

    patch.setattr(RoundPlan, "add_noise", fault)
    return directed("local")


def noise_for_those_who_contribute(patch):
    contribute = RoundNoise.contribute

    def fault(self, ints, **source):
        return contribute(self, ints, **source) if ints.any() else ints

    patch.setattr(RoundNoise, "contribute", fault)
    return directed("distributed")


def opening_noise_that_follows_the_sum(patch):
    opened = _OpenerNoise.__call__

    def fault(self, total, survivors):
        noisy = opened(self, total, survivors)
        return noisy + int(np.abs(total).sum() % 251)

    patch.setattr(_OpenerNoise, "__call__", fault)
    return directed()


def error_for_a_nan(patch):
    encode = UpdateEncoding.encode

    def fault(self, update, rng):
        if not np.isfinite(update.delta).all():
            raise ValueError("not finite")
        return encode(self, update, rng)

    patch.setattr(UpdateEncoding, "encode", fault)
    return directed()


def silence_of_those_without_data(patch):
    init, start = ClientRound.__init__, ClientRound.start

    def remember(self, plan, me, vector, **rest):
        self.empty = not vector.any()
        init(self, plan, me, vector, **rest)

    def fault(self):
        if self.empty:
            raise LocalProtocolError("nothing to send")
        return start(self)

    patch.setattr(ClientRound, "__init__", remember)
    patch.setattr(ClientRound, "start", fault)
    return directed()


def length_of_the_content(patch):
    start = PlainClient.start

    def fault(self):
        extra = b"" if self._vector.any() else b"\0"
        return start(self) + extra

    patch.setattr(PlainClient, "start", fault)
    return directed()


def coins_that_clients_share(patch):
    shared = {}

    def fault(seed, round, client):
        if client == min(shared.get("cohort", (client,))):
            shared["rng"] = client_rng(seed, round, 0)
        return shared["rng"]

    case = directed()
    shared["cohort"] = case.plan.cohort
    patch.setattr(client_round, "client_rng", fault)
    return replace(case, client=case.plan.cohort[0])


def metrics_before_the_noise(patch):
    opened, read = replay.RecordedServer._open, ServerRound._read

    def keep(self, total, survivors):
        self.bare = total.copy()
        return opened(self, total, survivors)

    def fault(self, summed):
        outcome = read(self, summed)
        return replace(outcome, metrics=self.plan.decode(self.bare, len(summed.survivors)).metrics)

    patch.setattr(replay.RecordedServer, "_open", keep)
    patch.setattr(ServerRound, "_read", fault)
    return directed()


def mean_over_those_with_data(patch):
    opened, read = replay.RecordedServer._open, ServerRound._read

    def keep(self, total, survivors):
        self.active = sum(bool(self.trace.encoded[me].any()) for me in survivors)
        return opened(self, total, survivors)

    def fault(self, summed):
        outcome = read(self, summed)
        return replace(outcome, update_norm=outcome.update_norm / self.active)

    patch.setattr(replay.RecordedServer, "_open", keep)
    patch.setattr(ServerRound, "_read", fault)
    return directed()


def ledger_of_those_with_data(patch):
    settle = Payment.settle

    def fault(self, token, plan, scheme, survivors, **members):
        encoded = replay.RecordedServer.trace.encoded
        settle(self, token, plan, scheme, [me for me in survivors if encoded[me].any()], **members)

    patch.setattr(Payment, "settle", fault)
    return directed()


FAULTS = {
    clip_by_entry_charged_by_norm: "contribution: the l2 distance",
    metric_beyond_its_bound: "contribution: the l2 distance",
    block_without_a_charge: "contribution: the l2 distance",
    indicator_as_large_as_the_clip: "contribution: the l2 distance",
    clip_after_noise: "release: the noise of client",
    noise_for_those_who_contribute: "release: the noise of client",
    opening_noise_that_follows_the_sum: "release: the noise of the opening",
    error_for_a_nan: "branch: no error against ValueError",
    silence_of_those_without_data: "message: other messages",
    length_of_the_content: "message: other messages, or messages of other lengths",
    coins_that_clients_share: "depends on another's data",
    metrics_before_the_noise: "outcome: it depends on more than the release",
    mean_over_those_with_data: "outcome: it depends on more than the release",
    ledger_of_those_with_data: "file: the ledgers differ",
}


@pytest.mark.parametrize("fault", audits.FAULTS, ids=lambda fault: fault.name)
def test_the_table_of_audited_faults_says_which_ones_replay_finds(fault):
    placement = fault.settings.get("privacy.placement", "central")
    clip = "adaptive" if "privacy.clip_quantile" in fault.settings else "flat"
    with fault.patch():
        found = divergences(directed(placement, clip, int("privacy.loss_bound" in fault.settings)))
    assert bool(found) == fault.replay, found


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_one_pair_finds_a_planted_fault(fault, monkeypatch):
    found = divergences(fault(monkeypatch))
    assert any(FAULTS[fault] in wrong for wrong in found), found
