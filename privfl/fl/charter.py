"""The charter of a federation: everything that stays the same in all rounds of one run, approved at each site by hash.

A server's key holder writes a charter once. A site takes part in its rounds only after a person at the site has read it
and approved its digest. Every frame names that digest, so the holder of the server's key can spend no more than the
charter states. The terms are the plan of a round 0: a plan of the run differs from it only in what a round changes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from privfl.checks import check_count
from privfl.crypto import VerifyKey
from privfl.dp import AdaptiveClip
from privfl.dp.unit import Everyone, PoissonBySite
from privfl.errors import ConfigError, PlanRejected, PrivacyError, StateError, WireError
from privfl.files import atomic_write, canonical_json, read_json, user_path
from privfl.fl.examples import ExampleRule
from privfl.fl.plan import RoundPlan
from privfl.fl.planwire import MAX_PLAN_BYTES, PREFIX
from privfl.wire import ClientId

_PREFIX: Final = b"privfl/1 charter\n"
_LABEL: Final = b"privfl/1 charter digest"
_HEX: Final = frozenset("0123456789abcdef")
_DIGITS: Final = 64
_MAX_TEXT: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Charter:
    """The agreement of all sites of one run, for all its rounds.

    Attributes:
        name: The name of the federation, for people.
        terms: The plan of round 0: run, population, sampling, encoding, noise, sum and seed of every round. Its cohort
            and its model hash stand for none.
        rounds: The number of rounds, at least 1; a plan's round is in [1, rounds].
        members: The sites, by client identity, in increasing order.
        directory: The digest of the directory of their keys, 64 hexadecimal digits.
        server: The server's signing key, 64 hexadecimal digits.
        layout: The digest of the model's layout, 64 hexadecimal digits; empty if the run pins none.
        training: The digest of the training function, 64 hexadecimal digits; empty if each site chooses its own.
        min_interval: The least time between the first frames of two rounds, in seconds, at least 0.
        evaluation: The metrics that may be summed over the sites' test examples, without noise; by default none.

    Raises:
        ConfigError: A value is out of range.
    """

    name: str
    terms: RoundPlan
    rounds: int
    members: tuple[ClientId, ...]
    directory: str
    server: str
    layout: str = ""
    training: str = ""
    min_interval: float = 0.0
    evaluation: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.isprintable() or not 1 <= len(self.name) <= _MAX_TEXT:
            raise ConfigError(f"name must be a printable text of 1 to {_MAX_TEXT} characters")
        check_count("rounds", self.rounds)
        if self.terms.round != 0 or self.terms.attempt != 0:
            raise ConfigError("terms must be a plan of round 0 and attempt 0: use Charter.terms_of(plan)")
        if list(self.members) != sorted(set(self.members)) or len(self.members) != self.terms.population:
            raise ConfigError(
                f"members must be {self.terms.population} increasing identities, the population of the terms, "
                f"not {len(self.members)}"
            )
        for key, optional in (("directory", False), ("server", False), ("layout", True), ("training", True)):
            value = getattr(self, key)
            if not (optional and value == "") and (len(value) != _DIGITS or set(value) - _HEX):
                raise ConfigError(f"{key} must be {_DIGITS} hexadecimal digits, not {value!r}")
        if type(self.min_interval) not in (int, float) or not 0 <= self.min_interval < 1 << 32:
            raise ConfigError(f"min_interval must be a number of seconds in [0, 2^32), not {self.min_interval!r}")
        VerifyKey(bytes.fromhex(self.server))
        if self.evaluation and self.terms.mechanism.claims:
            raise ConfigError("evaluation sums metrics without noise, and the terms claim privacy: evaluate elsewhere")
        if self.terms.mechanism.correlation != "none":
            raise ConfigError(
                "noise that is correlated across rounds is paid for by the rounds after a site's own, which its ledger "
                "does not see: set privacy.correlation = 'none'"
            )

    @staticmethod
    def terms_of(plan: RoundPlan) -> RoundPlan:
        """The terms of the run that `plan`, the plan of any round, belongs to."""
        return replace(
            plan, round=0, attempt=0, model_hash="0" * _DIGITS, state_rounds=tuple(0 for _ in plan.state_rounds)
        )

    def check(self, plan: RoundPlan) -> None:
        """Raise `PlanRejected` unless `plan` is one of this charter's rounds."""
        if not 1 <= plan.round <= self.rounds:
            raise PlanRejected(f"the plan is of round {plan.round}, and the charter has rounds 1 to {self.rounds}")
        if not set(plan.cohort) <= set(self.members):
            raise PlanRejected("the plan asks a client that is not a member of the charter")
        terms = self._evaluating(plan) if plan.evaluates else self._in_round(plan)
        if bool(plan.state_rounds) != bool(terms.state_rounds):
            kept = "keeps a state" if terms.state_rounds else "keeps no state"
            raise PlanRejected(f"the plan differs from the charter in: state_rounds; the charter {kept} at each site")
        expected = replace(
            terms,
            round=plan.round,
            attempt=plan.attempt,
            model_hash=plan.model_hash,
            cohort=plan.cohort,
            state_rounds=plan.state_rounds,
        )
        if plan.to_bytes() != expected.to_bytes():
            names = ("run", "population", "sampling", "survivor_rule", "encoding", "mechanism", "scheme", "parameters")
            other = [name for name in (*names, "seed") if getattr(plan, name) != getattr(expected, name)]
            raise PlanRejected(f"the plan differs from the charter in: {', '.join(other)}")

    def _in_round(self, plan: RoundPlan) -> RoundPlan:
        """The terms with what a round may change of the encoding: an adaptive clip norm, or without noise the range."""
        own, theirs = self.terms.encoding, plan.encoding
        if self.terms.mechanism.claims:
            if isinstance(own.clip, AdaptiveClip) and isinstance(theirs.clip, AdaptiveClip):
                return replace(self.terms, encoding=own.in_round(theirs.clip.clip_norm))
            return self.terms
        kept = ("length", "weighting", "metrics", "rounding", "rotation", "examples")
        if all(getattr(own, name) == getattr(theirs, name) for name in kept):
            return replace(self.terms, encoding=theirs)
        return self.terms

    def _evaluating(self, plan: RoundPlan) -> RoundPlan:
        """The terms with the encoding of a plan that evaluates; raises `PlanRejected` if it sums anything else."""
        encoding = plan.encoding
        names = {metric.name for metric in encoding.metrics}
        if not names or not names <= set(self.evaluation):
            allowed = ", ".join(self.evaluation) or "none"
            raise PlanRejected(f"the plan evaluates {', '.join(sorted(names)) or 'nothing'}, and the charter {allowed}")
        if encoding.length != 1 or encoding.weighting != "examples" or encoding.rotation is not None:
            raise PlanRejected("a plan that evaluates sums metrics by examples, and an update of one entry")
        return replace(self.terms, encoding=encoding, sampling=Everyone(), state_rounds=())

    def to_bytes(self) -> bytes:
        """The canonical bytes: a label line, then canonical JSON with the terms as an object."""
        record = {name: getattr(self, name) for name in _FIELDS} | {
            "terms": read_json(self.terms.to_bytes()[len(PREFIX) :]),
            "members": list(self.members),
            "evaluation": list(self.evaluation),
            "min_interval": float(self.min_interval),
        }
        return _PREFIX + canonical_json(record)

    @classmethod
    def from_bytes(cls, data: bytes) -> Charter:
        """The charter from its canonical bytes; raises `WireError` for any others."""
        if len(data) > MAX_PLAN_BYTES or not data.startswith(_PREFIX):
            raise WireError("these bytes are not a charter of version 1")
        try:
            record: Mapping[str, Any] = read_json(data[len(_PREFIX) :])
            values = dict(record)
            values["terms"] = RoundPlan.from_bytes(PREFIX + canonical_json(values["terms"]))
            values["members"] = tuple(values["members"])
            values["evaluation"] = tuple(values["evaluation"])
            charter = cls(**values)
            written = charter.to_bytes()
        except (ConfigError, PrivacyError, StateError) as error:
            raise WireError(f"not a charter: {error}") from error
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise WireError(f"not a charter: {type(error).__name__}: {error}") from error
        if written != data:
            raise WireError("a charter in another form than the canonical one")
        return charter

    def digest(self) -> bytes:
        """32 bytes: SHA-256 of the canonical bytes under a label. Frames, receipts and approvals name it."""
        return hashlib.sha256(_LABEL + self.to_bytes()).digest()

    def write(self, path: Path | str) -> None:
        """Write the canonical bytes to a file that others may read."""
        atomic_write(user_path(path), self.to_bytes(), shared=True)

    @classmethod
    def read(cls, path: Path | str) -> Charter:
        """The charter in a file; raises `StateError` if there is none."""
        path = user_path(path)
        try:
            return cls.from_bytes(path.read_bytes())
        except OSError as error:
            raise StateError(f"{path} cannot be read: {error.strerror}") from error
        except WireError as error:
            raise StateError(f"{path}: {error}") from error

    def in_words(self) -> dict[str, str]:
        """The text that a person at a site reads before approving the digest, by heading."""
        terms, encoding = self.terms, self.terms.encoding
        noise = asdict(terms.mechanism)
        stated = f"{noise['placement']}, multiplier {noise['noise_multiplier']:g}, {noise['source']}"
        if (rule := encoding.examples) is None:
            unit = {"unit": "one client", "sampling": terms.sampling.describe()}
        else:
            unit = {
                "unit": "one example",
                "sampling": f"every site takes part, and samples its own examples: {rule.sampling.describe()}",
                **_by_site(rule),
                "denominator": f"{rule.denominator:g}, a public constant",
            }
        return {
            "federation": self.name,
            "run": terms.run.hex(),
            "members": ", ".join(map(str, self.members)),
            "rounds": str(self.rounds),
            "seconds between rounds": f"at least {self.min_interval:g}",
            "model entries": str(encoding.length),
            "sum": terms.scheme,
            "clip norm": f"{encoding.clip.clip_norm:g}{'' if rule is None else ', of each gradient'}",
            "noise": stated if terms.mechanism.claims else "none",
            "colluders tolerated": str(noise["colluders"]),
            **unit,
            "state between rounds": "kept at each site" if terms.state_rounds else "none",
            "evaluated without noise": ", ".join(self.evaluation) or "nothing",
            "training function": self.training or "each site's own",
            "layout": self.layout or "not pinned",
            "directory": self.directory,
            "server key": self.server,
        }


def _by_site(rule: ExampleRule) -> dict[str, str]:
    """The probability of each site, where sites have their own."""
    if not isinstance(rule.sampling, PoissonBySite):
        return {}
    return {"probabilities": ", ".join(f"{site}: {value:g}" for site, value in rule.sampling.probabilities)}


_FIELDS: Final = ("name", "rounds", "directory", "server", "layout", "training")
