"""A site's policy: what it insists on before it takes part, as a strictly checked value read from `policy.toml`."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import privfl.experiment.config as files
from privfl.crypto import VerifyKey
from privfl.dp import Accountant, Budget, PrivacyUnit
from privfl.dp.release import PLACEMENTS, Placement
from privfl.dp.unit import Adjacency, Level
from privfl.errors import ConfigError, PlanRejected
from privfl.experiment.config import Config
from privfl.experiment.config.checked import Number, descriptions, section, setting
from privfl.experiment.config.sections import Scheme
from privfl.experiment.schemes import describe
from privfl.fl.charter import Charter
from privfl.fl.policy import ClientPolicy, check_probability
from privfl.sums import SumPolicy

_KEY_BYTES: Final = 32


@section("server")
class ServerTrust:
    """The one server whose frames this site reads."""

    key: str = setting(
        default="",
        description="The server's signing key, 64 hexadecimal digits, compared with its owner by telephone. While it "
        "is empty the site refuses every frame.",
    )
    max_ahead: Number = setting(
        default=86400.0,
        gt=0,
        description="The longest time, in seconds, that a frame may be valid from now. A frame that is valid for "
        "longer comes from a server whose clock is wrong, or that stores frames, and is refused.",
    )


@section("demands")
class Demands:
    """The demands on every plan."""

    unit: Level = setting(
        default="client",
        description="What the noise of every plan hides: the whole site (client), or one example of it (example). The "
        "budget is of this unit, too. A folder keeps one unit: figures of clients and of examples are never added.",
    )
    schemes: tuple[Scheme, ...] = setting(default=("masked",), description="The sums that are accepted.")
    placements: tuple[Placement, ...] = setting(
        default=("distributed", "mesh"),
        description=f"The placements of noise that are accepted: {', '.join(PLACEMENTS)}.",
    )
    min_cohort: int = setting(default=3, ge=1, description="The fewest sites of a round.")
    min_survivors: int = setting(default=3, ge=1, description="The fewest updates in a sum that is opened.")
    min_threshold: int = setting(
        default=2, ge=1, description="The smallest share threshold, for sums with shares: how many sites open a mask."
    )
    min_noise_stddev: Number = setting(
        default=0.0, ge=0, description="The smallest declared standard deviation of the noise, in the model's unit."
    )
    min_colluders: int = setting(
        default=0, ge=0, description="The fewest colluding sites that distributed noise must tolerate."
    )
    min_spare: int = setting(
        default=0,
        ge=0,
        description="The fewest members of one coalition that mesh noise must tolerate, the observer's own included.",
    )
    max_clip_norm: Number | None = setting(
        default=None, gt=0, description="The largest clip norm; without it, any clip norm is accepted."
    )
    max_sampling_probability: Number = setting(
        default=1.0,
        gt=0,
        le=1,
        description="The largest probability with which any site may sample an example in a step; of unit example.",
    )
    max_rounds: int = setting(default=1000, ge=1, description="The most rounds that a charter may have.")
    layout: str = setting(
        default="", description="The digest of the model's layout that a charter must name; empty accepts any."
    )


@section("budget")
class SiteBudget:
    """The limit of what the server may learn about one unit of this site, over all charters together."""

    epsilon: Number = setting(
        default=1.0,
        gt=0,
        description="The most epsilon against the server. Each round is charged at its worst case, durably, before "
        "anything of it leaves. A round without noise has no epsilon, and is refused while there is a budget.",
    )
    unlimited: bool = setting(
        default=False, description="true takes part without any budget; epsilon is then not judged."
    )
    delta: Number = setting(
        default=1e-5, gt=0, lt=1, description="The probability with which the promise of epsilon may fail."
    )
    adjacency: Adjacency = setting(
        default="replace_one",
        description="What epsilon hides: that the unit takes part (add_remove), its data against any other data "
        "(replace_one), or its data against no contribution (zero_out).",
    )
    sites_per_person: int = setting(
        default=1,
        ge=1,
        description="How many sites may hold an example of one person, whom epsilon then hides; of unit example.",
    )


@section("training")
class Training:
    """The training function, which this site installs itself."""

    entry: str = setting(
        default="train.py:make",
        description="A Python file in the site's folder, a colon, and the function in it that makes the training "
        "function: make(data) returns train(model, client, round, rng) -> privfl.fl.ClientUpdate, or a "
        "privfl.fl.Stateful training, whose state stays in this folder.",
    )
    evaluate: str = setting(
        default="",
        description="A second function of that file, or empty: evaluate(data) returns evaluate(model) -> (number of "
        "test examples, metrics by name). Without it this site refuses every plan that evaluates.",
    )
    sha256: str = setting(
        default="",
        description="The SHA-256 of that file, 64 hexadecimal digits. A file with another hash is never run. Print it "
        "with `privfl site check`.",
    )
    data: str = setting(
        default="data", description="The file or folder that make(data) is given; relative to the site's folder."
    )
    answer_after: Number = setting(
        default=30.0,
        ge=0,
        le=86400,
        description="The seconds between a round's first frame and its answer. The time of an answer then reveals "
        "nothing of the training time. A training that takes longer counts as failed.",
    )


@section("agent")
class AgentLimits:
    """The agent, its socket, and its limits."""

    socket: str = setting(
        default="agent/agent.sock",
        description="The Unix socket; its folder gets mode 0750. No other user reaches the site's own folder, so a "
        "relay of another user needs a path outside of it, such as /run/privfl/north/agent.sock.",
    )
    group: str = setting(
        default="", description="The group that owns the socket and its folder, shared with the relay's user."
    )
    relay_uids: tuple[int, ...] = setting(
        default=(), description="The users (uids) whose processes may connect; the agent's own user if empty."
    )
    max_connections: int = setting(default=8, ge=2, le=256, description="The most connections at one time.")
    read_seconds: Number = setting(
        default=30.0, gt=0, le=3600, description="The longest time, in seconds, in which one request must have arrived."
    )
    max_log_mib: int = setting(
        default=16, ge=1, description="The size, in MiB, at which the log is moved to log.jsonl.1 and begun again."
    )
    min_free_mib: int = setting(
        default=64, ge=0, description="The free space, in MiB, below which no round is entered and `check` warns."
    )


SECTIONS: Final[Mapping[str, type]] = {
    "server": ServerTrust,
    "demands": Demands,
    "budget": SiteBudget,
    "training": Training,
    "agent": AgentLimits,
}


@section("")
class Policy:
    """The whole policy of a site."""

    server: ServerTrust = setting(default_factory=ServerTrust, description="The server.")
    demands: Demands = setting(default_factory=Demands, description="The demands on plans.")
    budget: SiteBudget = setting(default_factory=SiteBudget, description="The budget against the server.")
    training: Training = setting(default_factory=Training, description="The training function.")
    agent: AgentLimits = setting(default_factory=AgentLimits, description="The agent.")

    @property
    def client(self) -> ClientPolicy:
        """The demands as a round judges them."""
        asks = self.demands
        return ClientPolicy(
            SumPolicy(asks.min_cohort, asks.min_survivors, asks.min_threshold),
            placements=frozenset(asks.placements),
            min_noise_stddev=asks.min_noise_stddev,
            max_clip_norm=math.inf if asks.max_clip_norm is None else asks.max_clip_norm,
            min_colluders=asks.min_colluders,
            min_spare=asks.min_spare,
            level=asks.unit,
            max_sampling_probability=asks.max_sampling_probability,
        )

    @property
    def limit(self) -> Budget | None:
        """The budget as an accountant judges it; None without one."""
        if self.budget.unlimited:
            return None
        return Budget(self.budget.epsilon, self.budget.delta, observer="server", group=self.budget.sites_per_person)

    @property
    def accountant(self) -> Accountant:
        """The question that the budget asks, without its limit."""
        return Accountant(self.budget.delta, observer="server", group=self.budget.sites_per_person)

    @property
    def unit(self) -> PrivacyUnit:
        """The unit whose presence the budget hides: this site, or one of its examples."""
        return PrivacyUnit(self.demands.unit, self.budget.adjacency)

    @property
    def unit_in_words(self) -> str:
        """The unit of every figure of this site, for people."""
        if self.demands.unit == "client":
            return "this site as a whole"
        sites = self.budget.sites_per_person
        return "one example" if sites == 1 else f"a person with one example at each of {sites} sites"

    @property
    def server_key(self) -> VerifyKey:
        """The pinned key; raises `PlanRejected` while none is pinned."""
        if not self.server.key:
            raise PlanRejected("no server is pinned: set server.key in policy.toml")
        return VerifyKey(bytes.fromhex(self.server.key))

    def check_charter(self, charter: Charter) -> None:
        """Raise `PlanRejected` unless the policy allows a run under this charter."""
        if charter.server != self.server_key.public.hex():
            raise PlanRejected("the charter names another server than server.key in policy.toml")
        if charter.rounds > self.demands.max_rounds:
            raise PlanRejected(
                f"the charter has {charter.rounds} rounds, and demands.max_rounds is {self.demands.max_rounds}"
            )
        if charter.terms.level != self.demands.unit:
            raise PlanRejected(
                f"the charter hides one {charter.terms.level}, and demands.unit is {self.demands.unit!r}: make another "
                "site's folder for that unit, because figures of clients and of examples are never added"
            )
        if (rule := charter.terms.encoding.examples) is not None:
            check_probability(rule, self.demands.max_sampling_probability)
        if self.demands.layout not in ("", charter.layout):
            raise PlanRejected("the charter names another layout than demands.layout in policy.toml")
        if charter.training not in ("", self.training.sha256):
            raise PlanRejected("the charter names another training function than training.sha256 in policy.toml")
        scheme_name(charter.terms.scheme, self.demands.schemes)


def scheme_name(of_plan: str, allowed: tuple[str, ...]) -> str:
    """The registry's name of the sum that a plan names, such as "masked" for "masked-sum/1".

    Args:
        of_plan: The name in the plan.
        allowed: The names that the policy accepts.

    Raises:
        PlanRejected: The policy does not accept it.
    """
    for name in allowed:
        if describe(name).protocol(Config()) == of_plan:
            return name
    raise PlanRejected(f"the plan names the sum {of_plan!r}, and demands.schemes accepts: {', '.join(allowed)}")


def load_policy(path: Path | str) -> Policy:
    """The policy in a TOML file.

    Raises:
        ConfigError: The file cannot be read, or holds a key or a value that is not allowed.
    """
    policy = files.compose(Policy, SECTIONS, files.read_toml(path))
    for key, value in (
        ("server.key", policy.server.key),
        ("training.sha256", policy.training.sha256),
        ("demands.layout", policy.demands.layout),
    ):
        if value and (len(value) != 2 * _KEY_BYTES or set(value) - set("0123456789abcdef")):
            raise ConfigError(f"{path}: {key} must be 64 hexadecimal digits, or empty")
    if policy.demands.unit == "client":
        given = {
            "demands.max_sampling_probability": policy.demands.max_sampling_probability != 1,
            "budget.sites_per_person": policy.budget.sites_per_person != 1,
        }
        for key in filter(given.get, given):
            raise ConfigError(f"{path}: {key} is about examples: set demands.unit = 'example', or leave it out")
    if policy.budget.sites_per_person > 1 and policy.budget.adjacency == "replace_one":
        raise ConfigError(
            f"{path}: budget.sites_per_person is known for add_remove and zero_out only: set budget.adjacency to one "
            "of them, or leave it out"
        )
    return policy


def commented_policy() -> str:
    """The text of a new `policy.toml`: every key at its default, below its meaning."""
    lines = [
        "# The policy of this site. The agent reads it when it starts, and enters no round after an edit until it is",
        "# started again. `privfl site check` reads it any time.",
    ]
    for name, of in SECTIONS.items():
        lines += ["", f"# {(of.__doc__ or '').partition(chr(10))[0]}", f"[{name}]"]
        values = files.to_mapping(of())
        for key, text in descriptions(of).items():
            lines += [f"# {line}" for line in textwrap.wrap(text, 100)]
            lines += [_toml_line(key, values[key])] if key in values else [f"# {key} = "]
    return "\n".join(lines) + "\n"


def _toml_line(key: str, value: object) -> str:
    if isinstance(value, bool):
        return f"{key} = {str(value).lower()}"
    if isinstance(value, list):
        return f"{key} = [{', '.join(repr(item).replace(chr(39), chr(34)) for item in value)}]"
    return f'{key} = "{value}"' if isinstance(value, str) else f"{key} = {value}"
