"""Exact noise against numpy's floating-point noise, an Opacus step against plain Opacus, and the accountant's times."""

import time

import harness
import numpy as np
import pytest

from privfl.dp import Everyone, Plan, Poisson, PrivacyUnit, Slot, TruncatedPoisson, calibrate, what_if
from privfl.dp.accounting.compose import _gaussian
from privfl.dp.noise.discrete_gaussian import discrete_gaussian
from privfl.dp.noise.sampler import rounded_gaussian
from privfl.dp.noise.skellam import skellam

LENGTH = 1_000_000
RNG = np.random.default_rng(0)


def test_bench_noise() -> None:
    rows = [
        ("rounded Gaussian, deviation 1e3", lambda: rounded_gaussian(1e3, LENGTH)),
        ("rounded Gaussian, deviation 1e6", lambda: rounded_gaussian(1e6, LENGTH)),
        ("Skellam, deviation 50", lambda: skellam(2500.0, LENGTH)),
        ("Skellam, deviation 1e6", lambda: skellam(1e12, LENGTH)),
        ("discrete Gaussian, deviation 1e3", lambda: discrete_gaussian(1e3, LENGTH)),
    ]
    results = [
        harness.ratio(
            name, function, peer="numpy normal", against=lambda: RNG.normal(0.0, 1e3, LENGTH), limit=None, repeats=7
        )
        for name, function in rows
    ]
    harness.write("dp-noise", results, values=LENGTH)
    for row in results:
        print(f"{row.name:40} {1e9 * row.seconds / LENGTH:6.0f} ns a value {row.ratio:5.1f}x numpy")
        assert row.seconds / LENGTH <= 1e-6


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
def test_bench_opacus_step() -> None:
    torch = pytest.importorskip("torch")
    opacus = pytest.importorskip("opacus")
    from privfl.adapters.opacus import OpacusTrain

    features = RNG.normal(size=(2000, 784)).astype(np.float32)
    targets = RNG.integers(0, 10, 2000)
    steps, batch = 20, 100

    def module() -> "torch.nn.Module":
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(784, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))

    torch.set_num_threads(1)
    x, y = torch.from_numpy(features), torch.from_numpy(targets)
    peer = opacus.GradSampleModule(module())
    optimizer = opacus.optimizers.DPOptimizer(
        torch.optim.SGD(peer.parameters(), lr=0.1),
        noise_multiplier=1.0,
        max_grad_norm=1.0,
        expected_batch_size=batch,
        loss_reduction="mean",
    )

    def plain() -> None:
        for _ in range(steps):
            index = (torch.rand(2000) < batch / 2000).nonzero().flatten()
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(peer(x[index]), y[index]).backward()
            optimizer.step()

    train = OpacusTrain(
        module(), lambda client: (features, targets), clip_norm=1.0, noise_multiplier=1.0, batch_size=batch, steps=steps
    )
    start, rounds = train.initial(), iter(range(10**6))

    def ours() -> None:
        train(start, 0, next(rounds), RNG)

    row = harness.ratio("20 DP-SGD steps", ours, peer="Opacus", against=plain, limit=1.2, repeats=9)
    harness.write("dp-opacus", [row], batch=batch)
    print(f"{row.name:40} {1e3 * row.seconds / steps:6.2f} ms a step {row.ratio:5.2f}x plain Opacus")
    harness.check(row)


@pytest.mark.parametrize(
    ("name", "limit", "question"),
    [
        ("q 0.01, z 1, 1000 rounds", 2.0, lambda: _ask(Poisson(0.01), 1.0, 1000)),
        ("q 0.1, z 0.8, 100 rounds", 2.0, lambda: _ask(Poisson(0.1), 0.8, 100)),
        ("closed form", 2.0, lambda: _ask(Everyone(), 1.0, 1)),
        ("replace one", 2.0, lambda: _ask(Everyone(), 1.0, 1, PrivacyUnit("client", "replace_one"))),
        ("truncated Poisson", 5.0, lambda: _ask(TruncatedPoisson(0.1, 130, 1000), 0.8, 100)),
        ("calibrate to 1", 8.0, lambda: _calibrate(1.0)),
        ("calibrate to 8", 8.0, lambda: _calibrate(8.0)),
    ],
)
def test_bench_accountant(name: str, limit: float, question) -> None:
    question()  # the import of dp_accounting and scipy is not the accountant's time
    _gaussian.cache_clear()
    started = time.perf_counter()
    question()
    seconds = time.perf_counter() - started
    print(f"{name:40} {seconds:6.2f} s of {limit:g} s")
    assert seconds <= limit


def _ask(sampling, z, rounds, unit=PrivacyUnit()):  # noqa: B008 - frozen
    return what_if(sampling=sampling, noise_multiplier=z, rounds=rounds, delta=1e-5, unit=unit, cross_checks=False)


def _calibrate(epsilon):
    return calibrate(epsilon=epsilon, delta=1e-5, sampling=Poisson(0.1), rounds=100)


def test_bench_curves() -> None:
    """A whole profile and trade-off curve against one epsilon of dp-accounting on its finest usual grid."""
    from dp_accounting import pld

    grid = 1e-4

    def one_epsilon() -> None:
        step = pld.privacy_loss_distribution.from_gaussian_mechanism(
            1.0, sampling_prob=0.01, value_discretization_interval=grid
        )
        step.self_compose(1000).get_epsilon_for_delta(1e-5)

    def curves(**settings) -> None:
        report = Plan(sampling=Poisson(0.01), noise_multiplier=1.0, rounds=1000, **settings).report(1e-5)
        report.profile()
        report.tradeoff()

    slots = (Slot("update", 7850, 2.0**20, 1.0),)
    cases = [
        ("profile and trade-off, central noise", 10.0, {}),
        ("profile and trade-off, distributed noise", 30.0, {"placement": "distributed", "slots": slots}),
    ]
    rows = [
        harness.ratio(
            name, lambda settings=settings: curves(**settings), peer="one epsilon of dp-accounting",
            against=one_epsilon, limit=limit, repeats=5,
        )
        for name, limit, settings in cases
    ]  # fmt: skip
    harness.write("dp-curves", rows, grid=grid)
    for row in rows:
        print(f"{row.name:40} {row.seconds:6.2f} s {row.ratio:5.1f}x dp-accounting")
        harness.check(row)
        assert row.seconds <= 5
