"""The place of each tensor of a module in the one flat vector.

The rule. Parameters come first, in the order of `named_parameters`, then the buffers; tied weights have one place.
- Parameters that are trained are part of the vector. With `trainable="only"`, the default, frozen ones
  (`requires_grad` is False) are not: they are neither sent nor noised, and stay as they are at every client. With
  `trainable="all"` the vector holds frozen parameters too.
- Buffers follow the rules of `privfl.adapters.torch.buffers`, one for each kind.
A client keeps nothing from one round to the next: what is not in the vector starts from the module's own value in every
round.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from privfl.adapters.torch.buffers import Buffers, vector_buffers
from privfl.checks import check_choice
from privfl.codec import Vector
from privfl.errors import ConfigError

Trainable = Literal["only", "all"]
"""Which parameters are in the vector: those that are trained, or frozen ones too."""

DTYPES: Final[dict[torch.dtype, np.dtype[Any]]] = {
    torch.float32: np.dtype(np.float32),
    torch.float64: np.dtype(np.float64),
}
"""What a vector is made of; a module has one of these throughout."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor: the vector's entries from `start` up to `stop`, in row-major order.

    Attributes:
        name: The tensor's name in the module.
        shape: Its shape.
        start: Its first entry.
        stop: The entry after its last.
        kind: "parameter" or "buffer".
    """

    name: str
    shape: tuple[int, ...]
    start: int
    stop: int
    kind: Literal["parameter", "buffer"]


@dataclass(frozen=True, slots=True)
class Layout:
    """A map between a module's tensors and a vector `[size]` of `dtype`, exact in both directions.

    Attributes:
        entries: The tensors, in the order of the vector.
        dtype: float32 or float64.
        buffers: Which buffers are in the vector.
        trainable: Which parameters are in the vector.
    """

    entries: tuple[Entry, ...]
    dtype: np.dtype[Any]
    buffers: Buffers = "shared"
    trainable: Trainable = "only"

    @classmethod
    def of(cls, module: nn.Module, *, buffers: Buffers = "shared", trainable: Trainable = "only") -> Layout:
        """The layout of a module.

        Args:
            module: The module.
            buffers: Which buffers are in the vector.
            trainable: Which parameters are in the vector.

        Raises:
            ConfigError: The module has tensors that no flat vector can hold.
        """
        entries, at = [], 0
        found = named_tensors(module, buffers, trainable)
        for name, tensor, kind in found:
            entries.append(Entry(name, tuple(tensor.shape), at, at + tensor.numel(), kind))
            at += tensor.numel()
        dtype: np.dtype[Any] = DTYPES[found[0][1].dtype] if found else np.dtype(np.float32)
        return cls(tuple(entries), dtype, buffers, trainable)

    @property
    def size(self) -> int:
        """Entries of the vector."""
        return self.entries[-1].stop if self.entries else 0

    @property
    def parameters(self) -> int:
        """Entries that are parameters: they come first."""
        return max((entry.stop for entry in self.entries if entry.kind == "parameter"), default=0)

    def flatten(self, module: nn.Module) -> Vector:
        """A copy of the tensors of `module` as one vector `[size]`."""
        vector = np.empty(self.size, self.dtype)
        for entry, tensor in self.tensors(module):
            vector[entry.start : entry.stop] = tensor.detach().cpu().numpy().ravel()
        return vector

    def load(self, vector: Vector, module: nn.Module) -> None:
        """Copy a vector into the tensors of a module.

        Args:
            vector: The vector `[size]`; float64 is rounded where the module is float32.
            module: The module whose tensors are overwritten.
        """
        values = self.checked(vector)
        for entry, tensor in self.tensors(module):
            part = values[entry.start : entry.stop].astype(self.dtype)  # a copy: torch warns of read-only memory
            tensor.data.copy_(torch.from_numpy(part.reshape(entry.shape)))

    def split(self, vector: Vector) -> dict[str, npt.NDArray[np.floating[Any]]]:
        """The named arrays that `vector` holds, as views."""
        values = self.checked(vector)
        return {entry.name: values[entry.start : entry.stop].reshape(entry.shape) for entry in self.entries}

    def join(self, arrays: Mapping[str, npt.NDArray[np.floating[Any]]]) -> Vector:
        """The vector `[size]` of named arrays: the inverse of `split`; raises `ConfigError` unless they all fit."""
        names = {entry.name for entry in self.entries}
        if names != set(arrays):
            raise ConfigError(f"missing or unknown arrays: {sorted(names ^ set(arrays))}")
        vector = np.empty(self.size, self.dtype)
        for entry in self.entries:
            if arrays[entry.name].shape != entry.shape:
                raise ConfigError(f"{entry.name} has shape {arrays[entry.name].shape}, not {entry.shape}")
            vector[entry.start : entry.stop] = arrays[entry.name].ravel()
        return vector

    def checked(self, vector: Vector) -> Vector:
        """`vector`, if it is one of this layout."""
        if vector.shape != (self.size,) or vector.dtype.kind != "f":
            raise ConfigError(f"floats of shape ({self.size},) are expected, not {vector.dtype} of {vector.shape}")
        return vector

    def tensors(self, module: nn.Module) -> list[tuple[Entry, torch.Tensor]]:
        """Each entry with its tensor of `module`, which must have this layout."""
        found = named_tensors(module, self.buffers, self.trainable)
        theirs = [(name, tuple(tensor.shape), kind, DTYPES[tensor.dtype]) for name, tensor, kind in found]
        mine = [(entry.name, entry.shape, entry.kind, self.dtype) for entry in self.entries]
        if mine != theirs:
            odd = [f"{name} {shape}" for name, shape, *_ in (*mine, *theirs)]
            raise ConfigError(f"the module has another layout; look at {sorted({n for n in odd if odd.count(n) < 2})}")
        return [(entry, tensor) for entry, (_, tensor, _) in zip(self.entries, found, strict=True)]


Named = tuple[str, torch.Tensor, Literal["parameter", "buffer"]]


def named_tensors(module: nn.Module, buffers: Buffers, trainable: Trainable) -> list[Named]:
    """The tensors of `module` that belong to the vector, in its order.

    Args:
        module: The module.
        buffers: Which buffers are in the vector.
        trainable: "only" takes the parameters that are trained; "all" takes frozen ones too.

    Raises:
        ConfigError: `trainable` is another word, or a tensor of the module has no shape or no values yet.
    """
    check_choice("trainable", trainable, ("only", "all"))
    every: list[tuple[str, torch.Tensor]] = [*module.named_parameters(), *module.named_buffers()]
    for name, tensor in every:
        if nn.parameter.is_lazy(tensor):
            raise ConfigError(f"{name} has no shape yet: run the module once before it is trained")
        if tensor.is_meta:
            raise ConfigError(f"{name} is on the meta device and has no values: load its weights first")
    found: list[Named] = [
        (name, parameter, "parameter")
        for name, parameter in module.named_parameters()
        if trainable == "all" or parameter.requires_grad
    ]
    found += [
        (name, buffer, "buffer") for name, buffer in vector_buffers(module, buffers, keep_frozen=trainable == "only")
    ]
    _check_types(found)
    _check_memory(every, {name for name, _, _ in found})
    return found


def _check_types(tensors: list[Named]) -> None:
    for name, tensor, kind in tensors:
        if tensor.layout != torch.strided:
            raise ConfigError(f"{name} is {tensor.layout}, and a vector holds dense tensors: call to_dense() on it")
        if tensor.dtype not in DTYPES:
            remedy = "leave it out of `buffers`" if kind == "buffer" else "freeze it with requires_grad_(False)"
            raise ConfigError(
                f"{name} is {tensor.dtype}, and a module is trained in float32 or float64: convert the module with "
                f"float(), or {remedy}"
            )
        if tensor.dtype != tensors[0][1].dtype:
            raise ConfigError(
                f"{name} is {tensor.dtype} and {tensors[0][0]} is {tensors[0][1].dtype}: a module is trained in one of "
                "float32 and float64; convert it with float() or double()"
            )


def _check_memory(every: list[tuple[str, torch.Tensor]], inside: set[str]) -> None:
    """Two tensors that share memory without being one object would silently come apart in the vector."""
    dense = [(name, tensor) for name, tensor in every if tensor.layout == torch.strided and tensor.numel()]
    spans = sorted((tensor.data_ptr(), tensor.data_ptr() + _extent(tensor), name) for name, tensor in dense)
    furthest, holder = 0, ""
    for start, stop, name in spans:
        if start < furthest and inside & {name, holder}:
            raise ConfigError(
                f"{holder} and {name} share memory; tie them by using one parameter object for both, as in "
                "`b.weight = a.weight`"
            )
        if stop > furthest:
            furthest, holder = stop, name


def _extent(tensor: torch.Tensor) -> int:
    """Bytes from a tensor's first element to the end of its last."""
    steps = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return (steps + 1) * tensor.element_size()
