"""The part that executors with workers share: one round at a time, and no workers after a round that broke off."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Self

from privfl.errors import LocalProtocolError


class ExclusiveExecutor:
    """An executor whose workers serve one round at a time; a context manager that ends them."""

    def __init__(self) -> None:
        self._busy = False

    def close(self) -> None:
        """End the workers; may be called again."""
        raise NotImplementedError

    @contextlib.contextmanager
    def _one_round(self) -> Iterator[None]:
        """Hold the workers for a round. A round that fails, or whose consumer stops early, ends them."""
        if self._busy:
            raise LocalProtocolError("this executor is still running another round")
        self._busy = True
        try:
            yield
        except BaseException:
            self.close()
            raise
        finally:
            self._busy = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
