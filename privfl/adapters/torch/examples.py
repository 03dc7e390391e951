"""A client's examples: what a user's function may return, checked, and as tensors for a module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from privfl.adapters.torch.chain import check_axes
from privfl.adapters.torch.flat import FlatModule
from privfl.errors import ConfigError
from privfl.wire import ClientId

Array = npt.NDArray[Any] | torch.Tensor
TensorRows = Callable[[ClientId], tuple[Array, Array]]
"""Client -> its (features `[n, ...]`, targets `[n, ...]`), as numpy arrays or tensors."""


_USUAL: Final = frozenset(map(np.dtype, (np.float32, np.float64, np.int64, np.int32, np.uint8, np.bool_)))


def check_rows(rows: TensorRows) -> TensorRows:
    """`rows`, if it is a function; raises `ConfigError` for a loader, which samples batches in a way of its own."""
    if isinstance(rows, torch.utils.data.DataLoader) or not callable(rows):
        raise ConfigError(
            f"give a function from a client to its (features, targets), not a {type(rows).__name__}: batches are "
            "sampled here"
        )
    return rows


def examples_of(rows: TensorRows, client: ClientId, module: nn.Module) -> tuple[Array, Array]:
    """The features and targets of a client.

    Args:
        rows: The user's function.
        client: Whose examples.
        module: The module that takes the features.

    Returns:
        Arrays or tensors of numbers with one first dimension; lists become arrays.

    Raises:
        ConfigError: The function returned anything else, or features that the module's first layer cannot take.
    """
    features, targets = _pair(rows, client)
    if features.shape[0]:
        check_axes(module, features)
    return features, targets


def _pair(rows: TensorRows, client: ClientId) -> tuple[Array, Array]:
    pair = rows(client)
    if type(pair) is tuple and len(pair) == 2:  # the usual case needs no look at what else it may be
        features, targets = pair
        plain = type(features) is np.ndarray and type(targets) is np.ndarray
        usual = plain and {features.dtype, targets.dtype} <= _USUAL and features.ndim and targets.ndim
        if usual and len(features) == len(targets):
            return features, targets
    if isinstance(pair, torch.utils.data.DataLoader) or not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise ConfigError(
            f"a client's examples are a pair (features, targets) of arrays or tensors; client {client} has a "
            f"{type(pair).__name__}. Batches are sampled here, so give no loader"
        )
    features, targets = (_numbers(part, what, client) for part, what in zip(pair, ("features", "targets"), strict=True))
    if features.shape[0] != targets.shape[0]:
        raise ConfigError(
            f"client {client} has {features.shape[0]} rows of features and {targets.shape[0]} targets: give one target "
            "for each example"
        )
    return features, targets


def _numbers(part: Any, what: str, client: ClientId) -> Array:
    if isinstance(part, torch.Tensor):
        array: Array = part.detach()
    else:
        try:
            array = np.asarray(part)
        except (TypeError, ValueError):  # lists of different lengths
            array = np.array(None)
        if array.dtype.kind not in "biufc":
            raise ConfigError(
                f"the {what} of client {client} are no numbers (dtype {array.dtype}): give arrays or tensors of numbers"
            )
        if not array.dtype.isnative:
            array = array.astype(array.dtype.newbyteorder("="))
        if array.dtype.kind in "fc" and array.dtype.itemsize > (8 if array.dtype.kind == "f" else 16):
            array = array.astype(np.float64 if array.dtype.kind == "f" else np.complex128)
    if not array.ndim:
        raise ConfigError(f"the {what} of client {client} are a single number: give one for each example")
    return array


def select(
    features: torch.Tensor, targets: torch.Tensor, batch: npt.NDArray[np.intp]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The examples of one minibatch; all of them need no copy, in any order.

    Args:
        features: `[n, ...]`.
        targets: `[n, ...]`.
        batch: The numbers of the examples.

    Returns:
        Features and targets of the batch, integers as int64.
    """
    if len(batch) < targets.shape[0]:
        index = torch.from_numpy(batch).to(features.device)
        features, targets = features.index_select(0, index), targets.index_select(0, index)
    return widened(features), widened(targets)


def widened(values: torch.Tensor) -> torch.Tensor:
    """Integers as int64, which embeddings and class numbers have to be; others as they are."""
    return values if values.is_floating_point() or values.is_complex() else values.long()


def outputs_of(module: nn.Module, features: torch.Tensor) -> torch.Tensor:
    """The outputs of a module for a batch of features `[n, ...]`.

    Args:
        module: The module.
        features: Floats in the module's precision, or int64.

    Raises:
        ConfigError: The module cannot take numbers of this type, and takes the other one.
    """
    try:
        outputs: torch.Tensor = module(features)
    except RuntimeError as error:
        if remedy := _remedy(module, features[:2]):
            raise ConfigError(f"the module cannot compute with features of {features.dtype}: {remedy}") from error
        raise
    return outputs


def _remedy(module: nn.Module, features: torch.Tensor) -> str:
    """The fix: features of another type of number. Empty where the module cannot take that type either."""
    whole = not (features.is_floating_point() or features.is_complex())
    floats = next((tensor.dtype for tensor in module.parameters() if tensor.is_floating_point()), torch.float32)
    try:
        with torch.no_grad():
            module(features.to(floats if whole else torch.int64))
    except Exception:  # noqa: BLE001 - the module's own code, which may raise anything
        return ""
    if whole:
        return "return features.astype(np.float32) from the client's rows, or call x.float() in forward()"
    return "return features.astype(np.int64) from the client's rows, or call x.long() in forward()"


def to_tensor(values: Array, flat: FlatModule) -> torch.Tensor:
    """An array as a tensor on the module's device; floats in the vector's precision.

    Tensors in half precision stay so where the module has parameters of that type, as a frozen base may have.

    Args:
        values: `[n, ...]`.
        flat: The module.
    """
    if isinstance(values, np.ndarray):
        writable = values if values.flags.writeable and values.flags.c_contiguous else values.copy()
        values = torch.from_numpy(writable)
    if values.is_floating_point() and values.dtype not in flat.half_types:
        return values.to(flat.device, flat.values.dtype)
    return values.to(flat.device)
