"""Example-level privacy: DP-SGD inside a client (Abadi et al. 2016), with per-example gradients by Opacus.

The unit is one example of one client's data. The promise holds against every party that sees the client's updates but
not the batches that it sampled. It is kept in ledgers of its own, apart from any client-level one: the two are
different promises, and no number states both. Of Opacus only per-example gradients and clipping are used: batches are
sampled here, always by Poisson sampling, and accounting is privfl's. Its noise is floating-point noise, so the figure
is "epsilon if the noise were secure". Needs the extra `opacus`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import numpy as np

from privfl.errors import ConfigError, MissingExtra, UnsupportedRelease

try:
    import torch
    from torch import nn
    from torch.nn.modules.batchnorm import _BatchNorm
except ModuleNotFoundError as _error:
    raise MissingExtra("torch", "opacus") from _error

from privfl.adapters.ledgers import ClientLedgers
from privfl.adapters.torch.buffers import copied
from privfl.adapters.torch.examples import TensorRows, check_rows, examples_of, outputs_of, to_tensor, widened
from privfl.adapters.torch.labels import Labels
from privfl.adapters.torch.layout import Layout
from privfl.adapters.torch.losses import BatchMean, cross_entropy
from privfl.adapters.torch.separate import SeparateLoss
from privfl.adapters.torch.state import Turn, borrowed, prepare_process, seeded
from privfl.adapters.torch.train import trained_module
from privfl.checks import check_count, check_positive
from privfl.codec import Vector
from privfl.dp import EpsilonReport, Everyone, Ledger, Poisson, PrivacyUnit, Release, Sampling, epsilon
from privfl.fl.client import ClientUpdate
from privfl.observers import Views
from privfl.wire import ClientId

UNIT: Final = PrivacyUnit("example", "add_remove")
_VIEWS: Final[Views] = {"outsider": "release", "participant": "release", "server": "vectors"}
_PRV_ERROR: Final = 0.01
_DROPOUT: Final = 1
"""The last word of the key of a module's own randomness: the noise comes from another stream of the same seed."""

_COMPARED: Final = 8
"""The examples of which each is computed alone, too, to find modules that mix them."""

OptimizerFactory = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


class OpacusTrain:
    """A `Train` whose steps are DP-SGD: Poisson batches, per-example clipping, Gaussian noise.

    A client with n examples samples each into a batch with probability min(1, `batch_size`/n), `steps` times a round; n
    is taken as public. A step adds noise of standard deviation noise_multiplier * clip_norm to the sum of the clipped
    gradients and divides by `batch_size` (by n, if that is less). An example whose gradient is not finite counts as
    zero, so no example can be seen with certainty. Training metrics are not reported: they carry no noise. Frozen
    parameters are neither sent nor noised, and no buffer is sent. All randomness follows the client's key.

    Args:
        module: The user's module, which is left alone.
        rows: Maps a client to its (features, targets).
        clip_norm: The bound of each example's gradient.
        noise_multiplier: The standard deviation of the noise, divided by `clip_norm`.
        batch_size: The expected number of examples of a batch.
        steps: The number of steps of a round.
        learning_rate: The rate of plain SGD, where no `optimizer` is given.
        optimizer: Makes the torch optimizer that takes the step.
        loss: The mean of losses of single examples. A loss whose denominator depends on other examples is refused.
        ledgers: The folder of one ledger for each client, written before its first step of a round, by every process
            that trains. None takes a temporary folder, which is removed with this object.
        device: "cpu", "cuda" or "cuda:1".
        threads: The number of torch's threads; None takes as many as torch has.

    Raises:
        ConfigError: A parameter is outside its range; the module mixes examples, as BatchNorm does; or a part of it is
            wrapped by Opacus already.
        MissingExtra: Opacus is not installed.
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
        ledgers: Path | str | None = None,
        device: str = "cpu",
        threads: int | None = 1,
    ) -> None:
        for name, number in (("clip_norm", clip_norm), ("noise_multiplier", noise_multiplier)):
            check_positive(name, number)
        check_positive("learning_rate", learning_rate)
        check_count("batch_size", batch_size)
        check_count("steps", steps)
        self._opacus = _load_opacus()
        if isinstance(rows, torch.utils.data.DataLoader):
            raise ConfigError(
                "OpacusTrain samples every batch itself by Poisson sampling, which its epsilon assumes: give a "
                "function from a client to its (features, targets), not a DataLoader with a sampler of its own"
            )
        self._rows, self._loss, self._threads = check_rows(rows), loss, threads
        self._clip_norm, self._noise_multiplier = float(clip_norm), float(noise_multiplier)
        self._batch_size, self._steps, self._learning_rate = batch_size, steps, float(learning_rate)
        self._optimizer, self._device = optimizer, device
        self._turn, self._apart = Turn(), False
        prepare_process(threads)
        if any(isinstance(part, self._opacus.AbstractGradSampleModule) for part in module.modules()):
            raise ConfigError("OpacusTrain wraps the module itself: give the plain module, before PrivacyEngine had it")
        self._module = copied(module)
        self._wrap()
        self._first = self._flat.layout.flatten(self._flat.module)
        self._ledgers = ClientLedgers(UNIT, ledgers)

    @property
    def layout(self) -> Layout:
        """The place of each tensor in the vector."""
        return self._flat.layout

    def initial(self) -> Vector:
        """The vector `[size]` of the module as it was handed over."""
        return self._first.copy()

    def module(self, model: Vector) -> nn.Module:
        """An independent module with the values of `model`, in evaluation mode: to predict with, or to save."""
        module = copied(self._module)
        self.layout.load(model, module)
        return module.eval()

    def ledger(self, client: ClientId) -> Ledger:
        """The example-level ledger of one client, for every process that has trained it."""
        return self._ledgers.read(client)

    def report(self, client: ClientId, delta: float) -> EpsilonReport:
        """The epsilon of one client's updates so far for one of its examples, if the noise were secure.

        Args:
            client: Whose updates.
            delta: The delta of the statement.
        """
        return epsilon(self.ledger(client), delta, assume_secure_noise=True)

    def __call__(self, model: Vector, client: ClientId, round: int, rng: np.random.Generator) -> ClientUpdate:
        """Train one client.

        Args:
            model: The global model, float `[size]`.
            client: Whose examples.
            round: The round, which the ledger notes.
            rng: The client's own generator for this round: the only randomness.

        Returns:
            The change of the model and the number of examples.

        Raises:
            ConfigError: The model or the client's examples do not fit the module or the loss.
            StateError: The ledger cannot be written.
        """
        with self._turn:
            flat = self._flat
            prepare_process(self._threads, flat.device)
            pair = examples_of(self._rows, client, flat.module)
            features, targets = (widened(to_tensor(part, flat)) for part in pair)
            count = len(targets)
            flat.load(model)
            if not count:
                return ClientUpdate(np.zeros(len(model), self.layout.dtype), 0)
            loss = SeparateLoss(self._loss, Labels.of(self._loss, targets, client))
            with (
                self._ledgers.charged(client, lambda ledger: self._release(ledger, round, count)),
                borrowed(self._threads, self._flat.device),
            ):
                self._descend(features, targets, loss, rng)
            return ClientUpdate(flat.change(model), count)

    def __getstate__(self) -> dict[str, Any]:
        """For a worker that is started and not forked: hooks cannot travel, so the module is wrapped again there."""
        made = ("_flat", "_wrapped", "_opacus")
        return {name: value for name, value in self.__dict__.items() if name not in made}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _opacus=_load_opacus())
        self._wrap()

    def _wrap(self) -> None:
        """Bind a copy of the module to a flat vector, and have Opacus watch it."""
        self._flat = trained_module(self._module, "local", self._device, "only")
        self._check_layers(self._flat.module)
        try:
            self._wrapped = self._opacus.GradSampleModule(self._flat.module)
        except (NotImplementedError, ValueError) as error:
            raise ConfigError(f"Opacus has no per-example gradients for this module: {error}") from error

    def _descend(
        self, features: torch.Tensor, targets: torch.Tensor, loss: SeparateLoss, rng: np.random.Generator
    ) -> None:
        count = len(targets)
        expected = min(self._batch_size, count)
        seed = int(rng.integers(1 << 63))
        generator = torch.Generator(self._flat.device).manual_seed(seed)
        optimizer = self._opacus.DPOptimizer(
            self._inner_optimizer(),
            noise_multiplier=self._noise_multiplier,
            max_grad_norm=self._clip_norm,
            expected_batch_size=expected,
            loss_reduction="mean",
            generator=generator,
        )
        own = int(np.random.SeedSequence([seed, _DROPOUT]).generate_state(1, np.uint64)[0] >> np.uint64(1))
        with warnings.catch_warnings(), seeded(own, self._flat.device):
            # torch warns of hooks on a module whose input needs no gradient, which is every first layer's case.
            warnings.filterwarnings("ignore", message="Full backward hook is firing")
            buffers = [(name, part, part.clone()) for name, part in self._flat.module.named_buffers()]
            self._check_apart(features[:_COMPARED], own)
            for _ in range(self._steps):
                sampled = torch.from_numpy(np.flatnonzero(rng.random(count) < expected / count))
                optimizer.zero_grad(set_to_none=True)
                if len(sampled):
                    before, index = self._flat.values.clone(), sampled.to(self._flat.device)
                    output = outputs_of(self._wrapped, features.index_select(0, index))
                    loss(output, targets.index_select(0, index)).backward()  # type: ignore[no-untyped-call]
                    if not torch.equal(before.nan_to_num(), self._flat.values.nan_to_num()):
                        raise ConfigError(
                            "the module changes its own parameters in forward(), which no noise covers: leave that to "
                            "the optimizer"
                        )
                self._complete(len(sampled))
                self._step(optimizer)
            for name, buffer, first in buffers:
                if not torch.equal(buffer.nan_to_num(), first.nan_to_num()):
                    raise ConfigError(
                        f"the module's buffer {name!r} changes with the examples, which no noise covers: keep no state "
                        "in forward()"
                    )

    def _step(self, optimizer: Any) -> None:
        """Add the noise, and let the user's optimizer see the noised gradients alone."""
        optimizer.pre_step()
        for holder in optimizer.params:
            holder.grad_sample = holder.summed_grad = None
        try:
            optimizer.original_optimizer.step()
        except TypeError as error:
            raise ConfigError(
                f"a {type(optimizer.original_optimizer).__name__} calls for the loss again within a step: give an "
                "optimizer that steps by one gradient, such as SGD or Adam"
            ) from error

    def _check_apart(self, features: torch.Tensor, seed: int) -> None:
        """Raise `ConfigError` where the output of one example depends on others; all else stays as it was."""
        if self._apart or len(features) < 2:
            return
        parts = [*self._flat.module.parameters(), *self._flat.module.buffers()]
        kept, outputs = [part.detach().clone() for part in parts], []
        for batch in (features, *(features[at : at + 1].expand_as(features) for at in range(len(features)))):
            with torch.no_grad(), seeded(seed, self._flat.device):
                outputs.append(outputs_of(self._flat.module, batch))
                for part, first in zip(parts, kept, strict=True):
                    part.copy_(first)
        for at, alone in enumerate(outputs[1:] if isinstance(outputs[0], torch.Tensor) else ()):
            pair = outputs[0][at].double(), alone[at].double()
            both = pair[0].isfinite() & pair[1].isfinite()
            if not torch.allclose(pair[0][both], pair[1][both], rtol=1e-4, atol=1e-5):
                raise ConfigError(
                    "the module's output for one example depends on the others of its batch, so clipping by example "
                    "would not bound what one of them changes: compute each example by itself, as GroupNorm does"
                )
        self._apart = True

    def _inner_optimizer(self) -> torch.optim.Optimizer:
        if self._optimizer is None:
            return torch.optim.SGD(self._flat.trained, lr=self._learning_rate)
        optimizer = self._optimizer(self._flat.trained)
        if isinstance(optimizer, self._opacus.DPOptimizer):
            raise ConfigError(
                "`optimizer` makes a DPOptimizer, which adds noise and keeps an account of its own: return the plain "
                "torch optimizer, because OpacusTrain adds the noise and writes the ledger"
            )
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        if held != set(map(id, self._flat.trained)):
            raise ConfigError(
                "`optimizer` makes an optimizer of other parameters than it was given: pass on all of them, and freeze "
                "what is not trained with requires_grad_(False)"
            )
        return optimizer

    def _complete(self, count: int) -> None:
        """Make the per-example gradients `[count, ...]` whole: zero for unused layers and for what is not finite."""
        names = {id(parameter): name for name, parameter in self._flat.module.named_parameters()}
        finite = torch.ones(count, dtype=torch.bool, device=self._flat.device)
        for parameter in self._flat.trained:
            holder: Any = parameter
            if getattr(holder, "grad_sample", None) is None or not count:
                if parameter.grad is not None and count:
                    raise ConfigError(
                        f"Opacus has no per-example gradient of {names[id(parameter)]}, which is used outside of its "
                        "layer: use it in the forward pass of the layer that holds it"
                    )
                holder.grad_sample = parameter.new_zeros((count, *parameter.shape))
            else:
                finite &= holder.grad_sample.reshape(count, -1).isfinite().all(1)
        if not bool(finite.all()):
            for parameter in self._flat.trained:
                holder = parameter
                holder.grad_sample[~finite] = 0.0

    def _release(self, ledger: Ledger, round: int, count: int) -> Release:
        """The release of the steps of this round."""
        rate = min(1.0, self._batch_size / count)
        stddev = self._noise_multiplier * self._clip_norm
        return Release(
            round=round,
            attempt=ledger.next_attempt(round),
            placement="local",
            law="float_gaussian",
            secure=False,
            declared_stddev=stddev,
            realized_stddev=stddev,
            norm_bound=self._clip_norm,
            sampling=Poisson(rate) if rate < 1 else Everyone(),
            length=self.layout.size,
            views=_VIEWS,
            count=self._steps,
        )

    def _check_layers(self, module: nn.Module) -> None:
        """Raise `ConfigError` for layers that mix examples, or that Opacus cannot clip."""
        for name, layer in module.named_modules():
            if isinstance(layer, _BatchNorm) and layer.training:
                raise ConfigError(
                    f"{name or 'the module'} is a {type(layer).__name__}, which mixes the examples of a batch: use "
                    "GroupNorm, or freeze the layer with requires_grad_(False)"
                )
        errors = self._opacus.ModuleValidator.validate(module, strict=False)
        if errors:
            raise ConfigError(f"Opacus cannot clip this module by examples: {errors[0]}")


def prv_bounds(events: Iterable[tuple[float, Sampling, int]], unit: PrivacyUnit, delta: float) -> tuple[float, float]:
    """The lower and the upper bound of epsilon by Opacus's PRV accountant (Gopi et al. 2021), at least 0.02 apart.

    Args:
        events: Noise multiplier, sampling and count of each Gaussian event.
        unit: The unit, with its adjacency.
        delta: The delta at which epsilon is computed.

    Raises:
        UnsupportedRelease: Another sampling than Poisson or everyone, or replace_one.
        MissingExtra: Opacus is not installed.
    """
    try:
        from opacus.accountants import PRVAccountant
    except ModuleNotFoundError as error:
        raise MissingExtra("opacus", "opacus") from error
    history = []
    for z, sampling, count in events:
        if not isinstance(sampling, Poisson | Everyone) or unit.adjacency == "replace_one":
            raise UnsupportedRelease(
                "the PRV accountant judges Gaussian noise with Poisson sampling under add_remove only"
            )
        history.append((z, sampling.probability if isinstance(sampling, Poisson) else 1.0, count))
    accountant = PRVAccountant()
    accountant.history = history
    error_of_delta = delta / 1000  # Opacus's own choice, as is the error of epsilon
    try:
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # at a probability of 1
            composed = accountant._get_dprv(eps_error=_PRV_ERROR, delta_error=error_of_delta)
            lower, _, upper = composed.compute_epsilon(delta, error_of_delta, _PRV_ERROR)
    except (ValueError, RuntimeError) as error:  # as it says where its transforms do not resolve a delta
        raise UnsupportedRelease(f"the PRV accountant does not resolve this: {error}") from error
    return float(lower), float(upper)


class _Opacus:
    """The names of opacus that are used."""

    def __init__(self, wrapped: Any, module: Any, optimizer: Any, validator: Any) -> None:
        self.AbstractGradSampleModule, self.GradSampleModule = wrapped, module
        self.DPOptimizer, self.ModuleValidator = optimizer, validator


def _load_opacus() -> _Opacus:
    try:
        from opacus.grad_sample import AbstractGradSampleModule, GradSampleModule
        from opacus.optimizers import DPOptimizer
        from opacus.validators import ModuleValidator
    except ModuleNotFoundError as error:
        raise MissingExtra("opacus", "opacus") from error
    return _Opacus(AbstractGradSampleModule, GradSampleModule, DPOptimizer, ModuleValidator)
