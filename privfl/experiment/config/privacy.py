"""The section of clipping and noise."""

from __future__ import annotations

from typing import Literal

from privfl.dp.mechanism import NoiseSource
from privfl.dp.release import Correlation, Placement
from privfl.dp.unit import Adjacency, Level
from privfl.experiment.config.checked import Number, section, setting


@section("privacy")
class Privacy:
    """Clipping and noise."""

    placement: Literal[Placement, "private"] = setting(
        default="none",
        description=(
            "Where noise is added. central: on the opened sum. distributed: in shares by the clients. mesh: by clients "
            "that stand in for each other inside a masked sum. local: by each client. private: the least noise that "
            "protects against the server, which is mesh in a masked sum and distributed in a CKKS sum."
        ),
    )
    clip_norm: Number | None = setting(
        default=None, gt=0, description="The l2 norm that an update is clipped to; it also clips without noise."
    )
    clip: Literal["flat", "layers", "entries"] = setting(
        default="flat",
        description="How to clip to the norm: the whole update, each layer to an equal part of it, or each entry.",
    )
    clip_quantile: Number | None = setting(
        default=None,
        gt=0,
        lt=1,
        description="Lets a flat clip follow this quantile of the updates' norms (Andrew et al. 2021).",
    )
    clip_learning_rate: Number = setting(
        default=0.2, gt=0, description="The learning rate of a clip that follows a quantile."
    )
    loss_bound: Number | None = setting(
        default=None,
        gt=0,
        description=(
            "Releases the mean training loss, clamped to this bound, under the noise; without it no training metric "
            "leaves a private run."
        ),
    )
    noise_multiplier: Number | None = setting(
        default=None,
        gt=0,
        description=(
            "The noise standard deviation divided by the norm bound of a contribution; by default the least for "
            "`epsilon` over the planned rounds."
        ),
    )
    epsilon: Number | None = setting(
        default=None,
        gt=0,
        description="The budget against an outsider at `delta`; the run stops before it is exceeded.",
    )
    delta: Number | None = setting(
        default=None,
        gt=0,
        lt=1,
        description="The delta of every claim; by default the smaller of 1e-5 and 1/clients^1.1.",
    )
    allow_large_delta: bool = setting(
        default=False,
        description="Allows a delta of 1/clients or more, a promise that publishing all data of one client keeps.",
    )
    adjacency: Adjacency = setting(default="add_remove", description="What neighboring federations differ in.")
    noise: NoiseSource = setting(
        default="secure", description="secure: from the operating system's entropy; simulation: repeatable, no claim."
    )
    correlation: Correlation = setting(
        default="none",
        description=(
            "How central noise of a round depends on that of the rounds before it. toeplitz takes part of it back, so "
            "the noise of the model grows less; it needs cohort.sampling = 'one-pass'."
        ),
    )
    colluders: int = setting(
        default=0, ge=0, description="The number of clients whose noise shares distributed noise does not count on."
    )
    spare: int = setting(
        default=1,
        ge=0,
        description=(
            "The number of members of mesh noise that one coalition may hold, the observer's own place included; 0 "
            "protects against the server and outsiders only."
        ),
    )
    members: int | None = setting(
        default=None,
        ge=2,
        description=(
            "The number of clients that add mesh noise. By default all up to 32 of a fixed cohort, above that the "
            "fewest whose price is within 3 % of the best, and all of a sampled cohort."
        ),
    )
    min_members_to_open: int | None = setting(
        default=None,
        ge=1,
        description=(
            "The fewest members of mesh noise in a sum that opens. By default what follows from the sum and "
            "`cohort.min_survivor_fraction`, and where not all are members, what at most 1 % of the sums miss."
        ),
    )
    unit: Level = setting(
        default="client",
        description=(
            "The unit that noise hides. client: a client with all its examples. example: one example of one client, "
            "or all examples of one person there; every round is then one step over examples that each client samples."
        ),
    )
    sampling_probability: Number | None = setting(
        default=None,
        gt=0,
        le=1,
        description="The probability with which each client samples each of its examples in a round (unit example).",
    )
    sampling_probabilities: tuple[Number, ...] = setting(
        default=(),
        description=(
            "A probability for each client, in place of `sampling_probability`. Each client then has an epsilon of its "
            "own, and the one that is stated is the largest."
        ),
    )
    denominator: Number | None = setting(
        default=None,
        gt=0,
        description=(
            "The constant that the sum of clipped gradients is divided by, such as the expected number of examples of "
            "a round over all clients (unit example). By default that number, which publishes how many examples there "
            "are: add_remove needs a value."
        ),
    )
    person: str | None = setting(
        default=None,
        description=(
            "The column of a table that names the person of each example, or a grouping of a known data set, such as "
            "patient in parkinsons (unit example). The examples of one person at one client share one coin and one "
            "clip. By default the person that the schema names, and else each example is by itself."
        ),
    )
    sites_per_person: int = setting(
        default=1,
        ge=1,
        description="The most clients that hold examples of one person, for whom epsilon is stated (unit example).",
    )
