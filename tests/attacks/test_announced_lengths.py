"""A length that a stranger announces sets no memory aside before it was compared with what a message may have."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "embed_masked_sum.py"


def test_four_gigabytes_announced_to_the_embedding_example() -> None:
    asked: list[int] = []

    class Link:
        def recv(self, size: int, flags: int) -> bytes:
            asked.append(size)
            return b"\xff\xff\xff\xff" if len(asked) == 1 else b"x"

    with pytest.raises(ConnectionError, match="too much"):
        runpy.run_path(str(EXAMPLE))["receive"](Link())
    assert asked == [4]
