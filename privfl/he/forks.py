"""What must not go on in a forked child as it was in the parent."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Forkable(Protocol):
    """What holds something that a forked child must not share with its parent."""

    def forget(self) -> None:
        """Let go of it: called in the child."""
        ...


_FORKABLE: weakref.WeakSet[Forkable] = weakref.WeakSet()


def after_fork(thing: Forkable) -> None:
    """Have `thing.forget` called in each forked child, as long as there is the thing."""
    _FORKABLE.add(thing)


def _forget() -> None:
    for thing in list(_FORKABLE):
        thing.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
