"""Example-level privacy: DP-SGD inside a client (Abadi et al. 2016), with per-sample gradients by Opacus.

The unit is one row of one client's data, and the promise holds against whoever sees the client's updates but not the
batches it drew. It is kept in a ledger of its own, apart from any client-level one: the two are different promises, and
no number says both. Of Opacus only per-sample gradients and clipping are used: batches are drawn here, always by
Poisson sampling, and accounting is privfl's. Its noise is floating-point noise, so that the figure is "epsilon if the
noise were secure". Needs the extra `opacus`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np

from privfl.errors import ConfigError, MissingExtra

try:
    import torch
    from torch import nn
except ModuleNotFoundError as _error:
    raise MissingExtra("torch", "opacus") from _error

from privfl.adapters.torch.examples import TensorRows, to_tensor
from privfl.adapters.torch.flat import FlatModule
from privfl.adapters.torch.layout import Layout
from privfl.adapters.torch.losses import BatchMean, cross_entropy
from privfl.adapters.torch.state import borrowed, prepare_process
from privfl.adapters.torch.train import open_device
from privfl.checks import check_count, check_positive
from privfl.codec import Vector
from privfl.dp import EpsilonReport, Everyone, Ledger, Plan, Poisson, PrivacyUnit, Release, epsilon
from privfl.fl.client import ClientUpdate
from privfl.observers import Views
from privfl.wire import ClientId

UNIT: Final = PrivacyUnit("example", "add_remove")
_VIEWS: Final[Views] = {"outsider": "release", "participant": "release", "server": "vectors"}

OptimizerFactory = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


class OpacusTrain:
    """A `Train` whose steps are DP-SGD: Poisson batches, per-sample clipping to `clip_norm`, Gaussian noise.

    A client with n rows draws each into a batch with probability min(1, `batch_size`/n), `steps` times a round; n is
    taken as public. A step adds noise of deviation noise_multiplier * clip_norm to the sum of the clipped gradients
    and divides by `batch_size` (by n, if that is less). `optimizer` makes the torch optimizer that takes the step, by
    default SGD at `learning_rate`. Training metrics are not reported: they carry no noise. `ledgers` is the folder of
    one ledger a client, written before its first step of a round; None keeps them in memory.

    Raises `ConfigError` for layers that mix rows (BatchNorm), and `MissingExtra` without opacus.
    """

    def __init__(
        self,
        module: nn.Module,
        rows: TensorRows,
        *,
        clip_norm: float,
        noise_multiplier: float,
        batch_size: int,
        steps: int,
        learning_rate: float = 0.1,
        optimizer: OptimizerFactory | None = None,
        loss: BatchMean = cross_entropy,
        ledgers: Path | None = None,
        device: str = "cpu",
        threads: int | None = 1,
    ) -> None:
        for name, number in (("clip_norm", clip_norm), ("noise_multiplier", noise_multiplier)):
            check_positive(name, number)
        check_positive("learning_rate", learning_rate)
        check_count("batch_size", batch_size)
        check_count("steps", steps)
        self._opacus = _load_opacus()
        self._check_layers(module)
        self._rows, self._loss, self._threads = rows, loss, threads
        self._clip_norm, self._noise_multiplier = float(clip_norm), float(noise_multiplier)
        self._batch_size, self._steps = batch_size, steps
        self._optimizer = optimizer or (lambda parameters: torch.optim.SGD(parameters, lr=learning_rate))
        prepare_process(threads)
        self._flat = FlatModule(module, buffers="local", device=open_device(device))
        self._flat.module.train()
        self._first = self._flat.layout.flatten(self._flat.module)
        self._wrapped = self._opacus.GradSampleModule(self._flat.module)
        self._folder = ledgers
        self._ledgers: dict[ClientId, Ledger] = {}

    @property
    def layout(self) -> Layout:
        """Where each tensor lies in the vector."""
        return self._flat.layout

    def initial(self) -> Vector:
        """The vector `[size]` of the module as it was handed over."""
        return self._first.copy()

    def ledger(self, client: ClientId) -> Ledger:
        """The example-level ledger of one client."""
        if client not in self._ledgers:
            path = None if self._folder is None else self._folder / f"client-{client}.jsonl"
            self._ledgers[client] = Ledger(UNIT, path)
        return self._ledgers[client]

    def report(self, client: ClientId, delta: float) -> EpsilonReport:
        """What one client's updates so far tell about one of its rows, if the noise were secure."""
        return epsilon(self.ledger(client), delta, assume_secure_noise=True)

    def __call__(self, model: Vector, client: ClientId, round: int, rng: np.random.Generator) -> ClientUpdate:
        """Train `client` from `model` (float `[size]`)."""
        flat = self._flat
        prepare_process(self._threads, flat.device)
        features, targets = (to_tensor(part, flat) for part in self._rows(client))
        count = len(targets)
        flat.load(model)
        if not count:
            return ClientUpdate(np.zeros(len(model), self.layout.dtype), 0)
        release = self._charged(client, round, count)
        token = self.ledger(client).reserve(release)
        if not targets.is_floating_point():
            targets = targets.long()
        with borrowed(self._threads):
            self._descend(features, targets, rng)
        self.ledger(client).settle(token, release)
        return ClientUpdate(flat.change(model), count)

    def _descend(self, features: torch.Tensor, targets: torch.Tensor, rng: np.random.Generator) -> None:
        count = len(targets)
        expected = min(self._batch_size, count)
        generator = torch.Generator(self._flat.device).manual_seed(int(rng.integers(1 << 63)))
        optimizer = self._opacus.DPOptimizer(
            self._optimizer(self._flat.trained),
            noise_multiplier=self._noise_multiplier,
            max_grad_norm=self._clip_norm,
            expected_batch_size=expected,
            loss_reduction="mean",
            generator=generator,
        )
        with warnings.catch_warnings():
            # torch tells of hooks on a module whose input needs no gradient, which is every first layer's case.
            warnings.filterwarnings("ignore", message="Full backward hook is firing")
            for _ in range(self._steps):
                drawn = torch.from_numpy(np.flatnonzero(rng.random(count) < expected / count))
                optimizer.zero_grad()
                if len(drawn):
                    index = drawn.to(self._flat.device)
                    output = self._wrapped(features.index_select(0, index))
                    self._loss(output, targets.index_select(0, index)).backward()  # type: ignore[no-untyped-call]
                else:
                    for parameter in self._flat.trained:  # nobody was drawn: the noise alone is released
                        sampled: Any = parameter
                        sampled.grad_sample = parameter.new_zeros((0, *parameter.shape))
                optimizer.step()

    def _charged(self, client: ClientId, round: int, count: int) -> Release:
        """What the steps of this round cost."""
        ledger = self.ledger(client)
        rate = min(1.0, self._batch_size / count)
        deviation = self._noise_multiplier * self._clip_norm
        return Release(
            round=round,
            attempt=sum(charged.round == round for charged in ledger.releases),
            placement="local",
            law="float_gaussian",
            secure=False,
            declared_stddev=deviation,
            realized_stddev=deviation,
            norm_bound=self._clip_norm,
            sampling=Poisson(rate) if rate < 1 else Everyone(),
            length=self.layout.size,
            views=_VIEWS,
            count=self._steps,
        )

    def _check_layers(self, module: nn.Module) -> None:
        found = self._opacus.ModuleValidator.validate(module, strict=False)
        if found:
            raise ConfigError(f"Opacus cannot clip this module by rows: {found[0]}")


def prv_epsilon(plan: Plan, delta: float) -> float:
    """A second opinion by Opacus's PRV accountant (Gopi et al. 2021): its own upper bound.

    Only for Gaussian noise with Poisson or no sampling under add_remove or zero_out against the outsider; raises
    `ConfigError` for other plans, and `MissingExtra` without opacus.
    """
    try:
        from opacus.accountants import PRVAccountant
    except ModuleNotFoundError as error:
        raise MissingExtra("opacus", "opacus") from error
    sampling = plan.known_sampling
    rates = {Poisson: getattr(sampling, "probability", 1.0), Everyone: 1.0}
    if type(sampling) not in rates or plan.unit.adjacency == "replace_one" or plan.placement == "distributed":
        raise ConfigError("the PRV accountant judges Gaussian noise with Poisson sampling under add_remove only")
    accountant = PRVAccountant()
    accountant.history = [(plan.noise_multiplier, rates[type(sampling)], plan.rounds)]
    return float(accountant.get_epsilon(delta=delta))


class _Opacus:
    """The three names of opacus that are used."""

    def __init__(self, module: Any, optimizer: Any, validator: Any) -> None:
        self.GradSampleModule, self.DPOptimizer, self.ModuleValidator = module, optimizer, validator


def _load_opacus() -> _Opacus:
    try:
        from opacus.grad_sample import GradSampleModule
        from opacus.optimizers import DPOptimizer
        from opacus.validators import ModuleValidator
    except ModuleNotFoundError as error:
        raise MissingExtra("opacus", "opacus") from error
    return _Opacus(GradSampleModule, DPOptimizer, ModuleValidator)
