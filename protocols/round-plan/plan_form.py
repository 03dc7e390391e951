"""The bytes of a plan and its digest: sections 3 and 5.1 of SPEC.md."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from plan_fields import check
from plan_values import WireError, demand

LINE = b"privfl/1 round-plan\n"


def write(plan: dict[str, Any]) -> bytes:
    text = json.dumps(plan, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return LINE + text.encode()


def read(data: bytes) -> dict[str, Any]:
    demand(len(data) <= 1 << 24, "too long")
    demand(data.startswith(LINE), "another first line")
    try:
        plan = json.loads(data[len(LINE) :])
        check(plan)
        again = write(plan)
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
        raise WireError(str(error)) from error
    demand(again == data, "not the canonical form")
    return plan


def digest(plan: dict[str, Any]) -> str:
    return hashlib.sha256(b"privfl/1 round-plan digest" + write(plan)).hexdigest()
