"""The evaluation of a model through a secure sum: each figure is the pooled one, at any scale of its sums."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

import numpy as np

from privfl.codec import Vector
from privfl.errors import ClientFailed, ConfigError, reason_of
from privfl.fl.limbs import Floats, Limbs
from privfl.fl.metrics import Evaluation, Measure, MetricSums, Total, checked_sums, figures_of
from privfl.ring import Ints, Ring
from privfl.sums import SecureSum, SumTask, run_sum
from privfl.wire import ClientId

EVALUATION_RING: Final = Ring(31)
"""Limbs are as wide as this ring and the number of clients allow: every sum has room for it."""


def evaluate(
    scheme: SecureSum,
    measure: Measure,
    model: Vector,
    clients: tuple[ClientId, ...],
    *,
    context: bytes,
    ring: Ring = EVALUATION_RING,
    credentials: Mapping[ClientId, Any] | None = None,
) -> Evaluation:
    """Measure a model at every client and add the sums up through a secure sum, exactly.

    Not for a run that claims differential privacy, because these sums carry no noise. The number of limbs of each sum
    is public: it reveals the magnitude of the largest client's, in powers of 2^16.

    Args:
        scheme: The sum.
        measure: The sums over a client's own test examples.
        model: Float `[d]`.
        clients: Who is measured.
        context: Binds the sum, once; at most 1 KiB.
        ring: The ring that limbs are summed in.
        credentials: One per client, for a sum that needs them.

    Returns:
        The figures, with the reason for each that is absent. A client that lacks a sum does not count in its mean; a
        sum that is not finite at any client makes its figure absent.

    Raises:
        ConfigError: A measure does not return its number of examples, or sums of other lengths than another client's.
        ClientFailed: A measure raised an error.
    """
    checked = {client: checked_sums(_measured(measure, model, client)) for client in clients}
    form = _Form.of(checked, ring.bits - 1 - len(clients).bit_length())
    vectors = {client: form.encode(*own) for client, own in checked.items()}
    task = SumTask(context, clients, len(clients), form.length, ring, form.bound)
    result = run_sum(scheme, task, vectors, credentials=credentials)
    totals, rows = form.decode(result.total)
    found = figures_of(totals, rows)
    return Evaluation(found.metrics, (*found.caveats, *result.caveats), found.confusion)


def _measured(measure: Measure, model: Vector, client: ClientId) -> MetricSums:
    try:
        return measure(model, client)
    except Exception as error:
        raise ClientFailed(client, reason_of(error)) from error


@dataclass(frozen=True, slots=True)
class _Form:
    """The form of named sums as one integer vector.

    For each name: its limbs, the examples that it covers, and whether it is not finite; and the examples.
    """

    rows: Limbs
    names: Mapping[str, tuple[int, Limbs]]

    @classmethod
    def of(cls, checked: Mapping[ClientId, tuple[Mapping[str, Floats], float]], bits: int) -> _Form:
        if bits < 1:
            raise ConfigError(f"a ring of so few bits cannot sum the metrics of {len(checked)} clients: widen it")
        lengths: dict[str, int] = {}
        for values, _ in checked.values():
            for name, value in values.items():
                if lengths.setdefault(name, len(value)) != len(value):
                    raise ConfigError(
                        f"a measure returned {name!r} with {lengths[name]} entries at one client and {len(value)} at "
                        "another: return vectors of one length"
                    )
        names = {
            name: (length, Limbs.fit((v[name] for v, _ in checked.values() if _has(v, name)), bits))
            for name, length in sorted(lengths.items())
        }
        return cls(Limbs.fit((np.array([rows]) for _, rows in checked.values()), bits), names)

    @property
    def length(self) -> int:
        extra = self.rows.count + 1
        return self.rows.count + sum(length * limbs.count + extra for length, limbs in self.names.values())

    @property
    def bound(self) -> int:
        return self.rows.bound

    def encode(self, values: Mapping[str, Floats], rows: float) -> Ints:
        own = self.rows.encode(np.array([rows]))
        parts = [own]
        for name, (length, limbs) in self.names.items():
            has = _has(values, name)
            parts += [
                limbs.encode(values[name] if has else np.zeros(length)),
                own if has else np.zeros_like(own),
                np.array([int(name in values and not has)]),
            ]
        return np.concatenate(parts)

    def decode(self, total: Ints) -> tuple[dict[str, Total], Fraction]:
        width = self.rows.count
        rows, at, totals = self.rows.decode(total[:width])[0], width, {}
        for name, (length, limbs) in self.names.items():
            stop = at + length * limbs.count
            covered = self.rows.decode(total[stop : stop + width])[0]
            totals[name] = Total(limbs.decode(total[at:stop]), covered, int(total[stop + width]))
            at = stop + width + 1
        return totals, rows


def _has(values: Mapping[str, Floats], name: str) -> bool:
    return name in values and bool(np.isfinite(values[name]).all())
