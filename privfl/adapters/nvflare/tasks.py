"""The task of controller and executor, its entries, and functions that a job names by strings."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Final

from privfl.errors import ConfigError

TASK: Final = "privfl"
"""The one task: its data are a frame, and next to the frame of step 0 the model."""

EVALUATES: Final = "evaluates"


def named_function(name: str, argument: str) -> Callable[..., Any]:
    """Return the function that a job names.

    Args:
        name: "module:function". The module is installed where the job runs, or is a file of the job.
        argument: The argument of the component that holds the name; the error shows it.

    Raises:
        ConfigError: There is no such function.
    """
    module, colon, attribute = name.partition(":") if isinstance(name, str) else ("", "", "")
    if not colon or not module or not attribute:
        raise ConfigError(f"{argument} = {name!r} names no function: write 'module:function'")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"{argument} = {name!r} was not found: install its module here, or add its file to the job"
        ) from error
    if not callable(found):
        raise ConfigError(f"{argument} = {name!r} is no function")
    return found  # type: ignore[no-any-return]
