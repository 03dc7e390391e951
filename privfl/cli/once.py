"""Verbs whose options are given once: a second value is refused, and never replaces the first one silently."""

from __future__ import annotations

from collections import Counter
from typing import Any

import typer
from typer.core import TyperCommand


class Once(TyperCommand):
    """A verb that refuses an option which is given twice, unless the option takes several values."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments of the verb.

        Args:
            ctx: The context of the call.
            args: The arguments after the verb.

        Returns:
            The arguments that are left over.

        Raises:
            typer.BadParameter: If an option that takes one value is given twice.
        """
        _, _, order = self.make_parser(ctx).parse_args(args=list(args))
        for parameter, times in Counter(order).items():
            if times > 1 and not parameter.multiple and not getattr(parameter, "is_flag", False):
                raise typer.BadParameter(f"it is given {times} times; give it once", ctx=ctx, param=parameter)
        return super().parse_args(ctx, args)
