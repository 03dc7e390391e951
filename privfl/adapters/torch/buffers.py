"""The rule for each kind of buffer, and for tensors that a layer computes from its parameters.

- Running statistics (floating point, saved, with a name that begins with `running_`) are in the vector, and averaged
  like weights (McMahan et al. 2017 average all of a model's state).
- Masks and other constants (floating point, saved, any other name) stay at their first value. A training that changes
  one is an error, which names the buffer: nothing is averaged, or left out, without a word.
- Power-iteration vectors of `spectral_norm` (old and new) are computed again from the weights of every loaded model.
- Integers, booleans, and buffers that `state_dict` leaves out start from their first value in every round.
- A layer whose own parameters are all frozen keeps its running statistics: it computes as in evaluation mode.

`buffers="local"` puts no buffer into the vector: statistics of BatchNorm never leave a client (as in SiloBN, Andreux et
al. 2020, section 3). Choose it, or a model with GroupNorm, when the sum carries noise or the server optimizer is
adaptive: both can make a running variance negative. A tuple of names puts exactly those buffers into the vector.
"""

from __future__ import annotations

import copy
import importlib
from typing import Any, Final, Literal

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.utils import parametrizations, parametrize, prune

from privfl.errors import ConfigError

Buffers = Literal["shared", "local"] | tuple[str, ...]
"""Which buffers are in the vector: "shared" running statistics, none ("local"), or those of these names."""

_ITERATIONS: Final = 20
"""Steps of power iteration after a model was loaded."""

# torch.nn.utils hides these two modules behind its functions of the same names.
_OldSpectral: Any = importlib.import_module("torch.nn.utils.spectral_norm").SpectralNorm
_OldWeight: Any = importlib.import_module("torch.nn.utils.weight_norm").WeightNorm
_COMPUTING: Final = (_OldSpectral, _OldWeight, prune.BasePruningMethod)


def check_buffers(buffers: Buffers) -> None:
    """Raise `ConfigError` for anything but "shared", "local" or a tuple of names."""
    if buffers not in ("shared", "local") and not isinstance(buffers, tuple):
        raise ConfigError(f"buffers must be 'shared' or 'local', not {buffers!r}; or give a tuple of buffer names")


def vector_buffers(module: nn.Module, buffers: Buffers, *, keep_frozen: bool) -> list[tuple[str, torch.Tensor]]:
    """The buffers of `module` that belong to the vector.

    Args:
        module: The module.
        buffers: The rule.
        keep_frozen: Leave out the statistics of layers whose own parameters are all frozen.

    Returns:
        Names and tensors, in the order of `named_buffers`.

    Raises:
        ConfigError: A name is not one of a floating-point buffer.
    """
    check_buffers(buffers)
    if buffers == "local":
        return []
    floats = {name: tensor for name, tensor in module.named_buffers() if tensor.is_floating_point()}
    if isinstance(buffers, tuple):
        unknown = [name for name in buffers if name not in floats]
        if unknown:
            raise ConfigError(f"buffers: the module has no floating-point buffer {unknown[0]!r}")
        return [(name, tensor) for name, tensor in floats.items() if name in buffers]
    return [
        (name, tensor)
        for name, tensor in floats.items()
        if name.rpartition(".")[2].startswith("running_")
        and _is_saved(module, name)
        and not (keep_frozen and is_frozen(_owner(module, name)))
    ]


def _owner(module: nn.Module, name: str) -> nn.Module:
    """The layer that holds the tensor of that dotted name."""
    return module.get_submodule(name.rpartition(".")[0])


def _is_saved(module: nn.Module, name: str) -> bool:
    """True when `state_dict` saves this buffer."""
    return name.rpartition(".")[2] not in _owner(module, name)._non_persistent_buffers_set


def is_frozen(layer: nn.Module) -> bool:
    """True when a layer has parameters of its own and trains none of them."""
    own = list(layer.parameters(recurse=False))
    return bool(own) and not any(parameter.requires_grad for parameter in own)


def train_mode(module: nn.Module, *, keep_frozen: bool) -> None:
    """Put a module into training mode.

    Args:
        module: The module.
        keep_frozen: Leave frozen layers with running statistics in evaluation mode.
    """
    module.train()
    for layer in module.modules():
        if keep_frozen and isinstance(layer, _NormBase) and is_frozen(layer):
            layer.eval()


def constants(module: nn.Module) -> set[str]:
    """The names of the saved floating-point buffers that are no vectors of power iteration."""
    return {
        name
        for name, tensor in module.named_buffers()
        if tensor.is_floating_point() and _is_saved(module, name) and not _is_derived(module, name)
    }


def _is_derived(module: nn.Module, name: str) -> bool:
    """True when a buffer is a vector of power iteration."""
    layer, last = _owner(module, name), name.rpartition(".")[2]
    if isinstance(layer, parametrizations._SpectralNorm):
        return last in ("_u", "_v")
    hooks: list[Any] = [hook for hook in layer._forward_pre_hooks.values() if isinstance(hook, _OldSpectral)]
    return any(last in (f"{hook.name}_u", f"{hook.name}_v") for hook in hooks)


class Derived:
    """The tensors that a module computes from its parameters: power-iteration vectors, and weights made by hooks.

    Args:
        module: The module; its parts are looked up once.
    """

    def __init__(self, module: nn.Module) -> None:
        self._lists = [
            part
            for part in module.modules()
            if isinstance(part, parametrize.ParametrizationList)
            and any(isinstance(step, parametrizations._SpectralNorm) for step in part)
        ]
        self._hooks: list[tuple[nn.Module, Any]] = [
            (part, hook)
            for part in module.modules()
            for hook in part._forward_pre_hooks.values()
            if isinstance(hook, _COMPUTING)
        ]

    def compute(self) -> None:
        """Compute them from the present parameters."""
        if self._lists or self._hooks:
            self._compute()

    @torch.no_grad()
    def _compute(self) -> None:
        for part in self._lists:
            modes = [step.training for step in part]
            part.train()
            for _ in range(_ITERATIONS):
                part()
            for step, mode in zip(part, modes, strict=True):
                step.training = mode
        for layer, hook in self._hooks:
            if isinstance(hook, _OldSpectral):
                for _ in range(_ITERATIONS):
                    setattr(layer, hook.name, hook.compute_weight(layer, True))
            else:
                hook(layer, ())


def copied(module: nn.Module) -> nn.Module:
    """A deep copy of a module. It also copies weights that hooks compute, which `copy.deepcopy` alone refuses."""
    memo: dict[int, Any] = {
        id(value): value.detach().clone()
        for part in module.modules()
        for value in vars(part).values()
        if isinstance(value, torch.Tensor) and not value.is_leaf
    }
    return copy.deepcopy(module, memo)


def guard_norms(module: nn.Module) -> list[nn.Module]:
    """Let BatchNorm use its running statistics where a batch has one value for each channel.

    Such a batch has no variance, and torch raises an error for it. Everything else of the batch is trained as ever.
    Returned are the layers; `free_norm` brings one back into training mode after an error.
    """
    guarded: list[nn.Module] = []
    for part in module.modules():
        if isinstance(part, _BatchNorm) and part.track_running_stats and part.running_mean is not None:
            part.register_forward_pre_hook(_enter_norm)
            part.register_forward_hook(_leave_norm)
            guarded.append(part)
    return guarded


def free_norm(part: nn.Module) -> None:
    """Bring a guarded layer back into training mode where it left it for a batch."""
    if part.__dict__.pop("_privfl_single", False):
        part.training = True


def unguard_norms(module: nn.Module) -> None:
    """Take `guard_norms` back."""
    for part in module.modules():
        for hooks in (part._forward_pre_hooks, part._forward_hooks):
            for key in [key for key, hook in hooks.items() if hook in (_enter_norm, _leave_norm)]:
                del hooks[key]


def _enter_norm(part: nn.Module, inputs: tuple[Any, ...]) -> None:
    values = inputs[0]
    if part.training and values.dim() > 1 and values.numel() == values.shape[1]:
        part.training, part._privfl_single = False, True  # type: ignore[assignment]


def _leave_norm(part: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
    free_norm(part)
