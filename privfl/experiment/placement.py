"""The choice that `privacy.placement = "private"` leaves to the experiment, and the members of mesh noise."""

from __future__ import annotations

from privfl.crypto import MemoryDirectory
from privfl.dp.unit import Everyone, Sampling
from privfl.errors import ConfigError
from privfl.experiment.config import Config
from privfl.experiment.schemes import describe
from privfl.secagg.noiseplan import ALL_UP_TO, plan_noise
from privfl.sums import SecureSum


def with_placement(
    config: Config, scheme: SecureSum, sampling: Sampling, clients: int, *, plans: bool = True
) -> Config:
    """The settings with the placement that was chosen, and the numbers of mesh noise that were left out.

    "private" is mesh noise where the sum's clients know the roster, and distributed noise where the server sees no
    single vectors. Above 32 clients of a fixed cohort, the noise planner chooses the members and their minimum.

    Args:
        config: The settings.
        scheme: The sum.
        sampling: How cohorts are sampled.
        clients: The number of clients.
        plans: Whether the planner fills in numbers of mesh noise; with False those left out keep their plain meaning.

    Raises:
        ConfigError: If no placement protects against the server of this sum, or the numbers of mesh noise are given for
            another placement or contradict each other.
    """
    privacy = config.privacy
    placement: str = privacy.placement
    if placement == "private":
        placement = _private(scheme)
        config = config.with_overrides({"privacy.placement": placement})
    if placement != "mesh":
        _refuse_mesh_settings(config, placement)
        return config
    members, least = privacy.members, privacy.min_members_to_open
    if members is not None and members > clients:
        raise ConfigError(f"privacy.members = {members} is above the {clients} clients: lower it, or leave it out")
    if not plans or not isinstance(sampling, Everyone) or (clients <= ALL_UP_TO and members is None):
        return config
    if members is None or (members < clients and least is None):
        plan = plan_noise(
            clients,
            dropout=config.cohort.dropout,
            spare=privacy.spare,
            members=members,
            min_members_to_open=least,
            corrupt=0,
        ).mesh
        members = plan.members
        least = plan.min_members_to_open if members < clients else least
    chosen = {"privacy.members": members, "privacy.min_members_to_open": least}
    return config.with_overrides({key: value for key, value in chosen.items() if value is not None})


def placement_of(config: Config) -> str:
    """The placement of a configuration's noise, with the one that "private" stands for in its sum."""
    if config.privacy.placement != "private":
        return config.privacy.placement
    return _private(describe(config.sum.scheme).build(config, MemoryDirectory({})))


def _private(scheme: SecureSum) -> str:
    if getattr(scheme, "roster_noise", False):
        return "mesh"
    if scheme.views["server"] == "vectors":
        raise ConfigError(
            f"privacy.placement = 'private' needs a sum whose server sees no single vectors, and that of {scheme.name} "
            "sees all: set sum.scheme = 'masked', or privacy.placement = 'local'"
        )
    return "distributed"


def _refuse_mesh_settings(config: Config, placement: str) -> None:
    for name in ("members", "min_members_to_open"):
        value = getattr(config.privacy, name)
        if value is not None:
            raise ConfigError(
                f"privacy.{name} = {value} is about mesh noise, and privacy.placement is {placement!r}: leave it out, "
                "or set privacy.placement = 'mesh'"
            )
