"""The sections of a configuration: what a TOML file or a program may set, with the meaning of every setting."""

from __future__ import annotations

from typing import Annotated, Literal

import pydantic

from privfl.data.tables import is_folder, is_table
from privfl.experiment.config.checked import Number, section, setting
from privfl.experiment.schemes import SCHEMES
from privfl.fl.chunks import MAX_CHUNK
from privfl.ring import MAX_BITS, MIN_BITS


def _known_scheme(name: str) -> str:
    if name not in SCHEMES:
        raise ValueError(f"must be one of {', '.join(map(repr, SCHEMES))}")
    return name


Scheme = Annotated[
    str, pydantic.AfterValidator(_known_scheme), pydantic.WithJsonSchema({"type": "string", "enum": list(SCHEMES)})
]
"""The name of a sum in the registry (privfl/experiment/schemes.py)."""


@section("data")
class Data:
    """The data set, and how its examples are spread over clients."""

    name: str = setting(
        default="breast_cancer",
        description=(
            "The data set: digits, breast_cancer, diabetes (bundled), one that is read from `folder`, or a table as in "
            "`path`."
        ),
    )
    path: str | None = setting(
        default=None,
        description=(
            "A table of your own, in place of `name`: a CSV or Parquet file, or a folder with one file for each client."
        ),
    )
    target: str | None = setting(default=None, description="The column of the table that is predicted.")
    client: str | None = setting(
        default=None, description="The column that names the client of each example; a folder's files by default."
    )
    schema: str | None = setting(
        default=None,
        description=(
            "The TOML file that declares the table's columns, as `privfl data inspect` proposes it. By default types "
            "and categories are read from all examples, which a run with noise refuses."
        ),
    )
    test_path: str | None = setting(
        default=None, description="A second table with the same columns, whose examples are public and only tested on."
    )
    folder: str | None = setting(
        default=None,
        description="The folder of data sets that are not bundled; the environment variable PRIVFL_DATA by default.",
    )
    clients: int = setting(default=10, ge=1, description="The number of clients.")
    partition: str | None = setting(
        default=None,
        description=(
            "How examples are dealt out: iid, dirichlet:0.5, shards:2, quantity:1.5 or natural. By default natural for "
            "a table whose clients are named, else iid."
        ),
    )
    min_examples: int = setting(default=1, ge=1, description="The fewest examples that a client gets.")
    test: Literal["local", "public"] | None = setting(
        default=None,
        description=(
            "local: each client holds a fraction of its examples back and is evaluated on them; public: the test "
            "examples belong to nobody. By default the publisher's choice, else local, and public where noise is added."
        ),
    )
    test_fraction: Number = setting(default=0.2, gt=0, lt=1, description="The fraction of examples that are tested on.")
    standardize: Literal["none", "local", "exact", "public", "noisy"] = setting(
        default="none",
        description=(
            "local: by each client's own examples. exact: by means and variances that come through the secure sum, "
            "which a run with noise refuses. public: by ranges that were published with the data. noisy: by means and "
            "variances that the run asks for before its first round, under its own noise and in its own epsilon."
        ),
    )
    noise_multiplier: Number | None = setting(
        default=None,
        gt=0,
        description=(
            "The noise multiplier of standardize = noisy. By default that of the rounds divided by the fraction of the "
            "clients that a round asks, so the answers cost about as much as one round."
        ),
    )
    min_category_fraction: Number | None = setting(
        default=None,
        gt=0,
        lt=1,
        description=(
            "Drops a category (standardize = noisy) where its noisy mean fraction of a client's examples is below this."
        ),
    )

    @property
    def table(self) -> str | None:
        """The path of the table; None where a data set is named."""
        return self.path or (self.name if is_table(self.name) else None)

    @property
    def dealing(self) -> str:
        """The partition in effect."""
        if self.partition is not None:
            return self.partition
        return "natural" if self.table and (self.client or is_folder(self.table)) else "iid"


@section("model")
class Model:
    """The model. Linear models run on numpy, networks on torch."""

    kind: Literal["auto", "linear", "logistic", "softmax", "mlp", "cnn"] = setting(
        default="auto", description="The model; auto is the linear model of the task."
    )
    hidden: tuple[pydantic.PositiveInt, ...] = setting(
        default=(200, 200), description="The widths of the hidden layers of an mlp."
    )
    l2: Number = setting(default=0.0, ge=0, description="The weight of the squared norm in the loss.")
    init: Literal["zeros", "uniform"] | None = setting(
        default=None,
        description=(
            "The first model: zeros, or uniform (torch's start of a linear layer, from the seed). By default zeros "
            "for linear models and uniform for networks, which cannot learn from zeros."
        ),
    )


@section("client")
class Client:
    """Local training of one client in one round."""

    learning_rate: Number = setting(default=0.1, gt=0, description="The step size of stochastic gradient descent.")
    epochs: int = setting(default=1, ge=1, description="Passes over the client's examples; not used with `steps`.")
    steps: int | None = setting(default=None, ge=1, description="The number of batches, in place of `epochs`.")
    batch_size: int | None = setting(
        default=None, ge=1, description="The number of examples of a batch; all of the client's by default."
    )
    momentum: Number = setting(default=0.0, ge=0, lt=1, description="The momentum of torch models.")
    update: Literal["delta", "gradient"] = setting(
        default="delta", description="What is sent: the change of the model, or the mean gradient at the global model."
    )
    algorithm: Literal["fedavg", "fedprox", "scaffold", "fednova", "local-layers"] = setting(
        default="fedavg",
        description=(
            "The algorithm. fedprox pulls local models towards the global one, and scaffold corrects gradients by "
            "control variates. fednova normalizes updates by their steps, and local-layers keeps `local_layers` at "
            "each client."
        ),
    )
    proximal: Number | None = setting(
        default=None, gt=0, description="The factor of the pull of fedprox (mu of its paper); 0.1 by default."
    )
    local_layers: tuple[str, ...] = setting(
        default=(),
        description=(
            "The layers that local-layers keeps at each client, by the names of their tensors. Linear models have bias "
            "and weights; networks have numbered layers such as 4."
        ),
    )
    metrics: tuple[str, ...] = setting(
        default=(),
        description=(
            "Further training metrics whose means are reported, by their names in ClientUpdate.metrics. The loss, and "
            "what a training lists as its metric_names, need no entry. A run with noise sums no such metric."
        ),
    )
    tuning: int = setting(
        default=0,
        ge=0,
        description=(
            "The number of local trainings of a copy of the model at each client before it is evaluated once more, as "
            "tuned_accuracy; 0 evaluates the model as it is."
        ),
    )
    device: str = setting(default="cpu", description="The device of torch models: cpu, cuda, cuda:1.")


@section("cohort")
class Cohort:
    """The clients of a round."""

    sampling: Literal["everyone", "one-pass", "poisson", "truncated-poisson", "fixed-size", "allocation"] = setting(
        default="everyone",
        description=(
            "How the cohort of a round is sampled. one-pass asks each client in one round, the next `size` clients in "
            "the order of their numbers."
        ),
    )
    probability: Number | None = setting(
        default=None, gt=0, le=1, description="The probability of each client under (truncated) Poisson sampling."
    )
    size: int | None = setting(
        default=None, ge=1, description="The number of clients of a round under fixed-size and one-pass."
    )
    cap: int | None = setting(default=None, ge=1, description="The largest cohort under truncated Poisson sampling.")
    selected: int | None = setting(
        default=None, ge=1, description="The rounds of a block in which a client takes part, under random allocation."
    )
    block: int | None = setting(default=None, ge=1, description="The rounds of a block under random allocation.")
    min_survivor_fraction: Number = setting(
        default=0.5, gt=0, le=1, description="The fraction of a cohort that must survive for the round to count."
    )
    too_few: Literal["skip", "retry"] = setting(
        default="skip", description="What happens to a round with too few survivors."
    )
    retries: int = setting(default=2, ge=0, description="How often a round is tried again under retry.")
    dropout: Number = setting(
        default=0.0, ge=0, lt=1, description="The simulated probability that a client drops out of a round."
    )
    training: Literal["single", "batched"] = setting(
        default="single",
        description=(
            "How a simulation trains a cohort: each client alone, or a chunk of clients at once, which is faster for "
            "small linear models and MLPs. The model depends on it by the rounding of floats."
        ),
    )
    chunk: int | None = setting(
        default=None,
        ge=1,
        le=MAX_CHUNK,
        description="The clients of a chunk: 1 by default, and 32 for training = batched.",
    )
    on_client_error: Literal["raise", "drop"] = setting(
        default="raise",
        description=(
            "What an error of a client's training does: raise ends the run, drop leaves the client out of the round."
        ),
    )


@section("buffer")
class Buffer:
    """Asynchronous rounds (FedBuff): the first `size` updates to arrive, on a virtual clock, are one round."""

    size: int | None = setting(
        default=None,
        ge=1,
        description="The arrivals that fill the buffer of a round. By default rounds are synchronous.",
    )
    concurrency: int | None = setting(
        default=None,
        ge=1,
        description=(
            "The clients that train at any time, each from the newest model at its start; `size` by default. Both "
            "together are at most the number of clients."
        ),
    )
    age_exponent: Number = setting(
        default=0.5,
        ge=0,
        description="An update that is a rounds old has the weight (1 + a)^-age_exponent; 0 weighs all alike.",
    )
    spread: Number = setting(
        default=0.3,
        ge=0,
        description=(
            "The standard deviation of the logarithm of a client's mean virtual time of training, about 1 second."
        ),
    )
    stragglers: Number = setting(
        default=0.0, ge=0, le=1, description="The fraction of clients whose times are longer by `slowdown`."
    )
    slowdown: Number = setting(default=10.0, ge=1, description="The factor of the times of stragglers.")
    availability: Number = setting(
        default=1.0, ge=0.01, le=1, description="The fraction of virtual time in which a client can be asked."
    )
    period: Number = setting(
        default=10.0,
        gt=0,
        description="The virtual seconds after which it is decided again if a client can be asked.",
    )


@section("server")
class Server:
    """The server optimizer, under the names of its paper (Reddi et al. 2021), and how updates are weighted."""

    optimizer: Literal["sgd", "fedadam", "fedyogi", "fedadagrad"] = setting(
        default="sgd", description="The optimizer; sgd with eta 1 is federated averaging."
    )
    eta: Number | None = setting(default=None, gt=0, description="The server's learning rate; the paper's by default.")
    momentum: Number = setting(default=0.0, ge=0, lt=1, description="The momentum of sgd.")
    beta_1: Number | None = setting(default=None, ge=0, lt=1, description="The decay of the first moment.")
    beta_2: Number | None = setting(default=None, ge=0, lt=1, description="The decay of the second moment.")
    tau: Number | None = setting(default=None, gt=0, description="The degree of adaptivity.")
    weighting: Literal["uniform", "examples"] | None = setting(
        default=None,
        description=(
            "How clients are weighted: by examples by default, and uniformly where noise is added, because weights "
            "would change the sensitivity."
        ),
    )
    choose: Literal["last", "best"] = setting(
        default="last",
        description="The selected model: the last one, or the one of the best evaluation by `metric`.",
    )
    average_last: int = setting(
        default=1, ge=1, description="The selected model is the mean of this one and those of the rounds before it."
    )
    patience: int | None = setting(
        default=None,
        ge=1,
        description="The run stops after so many evaluations without a better one; by default it never stops early.",
    )
    metric: str | None = setting(
        default=None,
        description=(
            "The metric of an evaluation by which `choose` and `patience` decide, such as accuracy or loss. A run with "
            "noise may decide by public test examples only, because a choice by private ones would release them."
        ),
    )
    goal: Literal["largest", "smallest"] | None = setting(
        default=None, description="The better side of a metric of your own; built-in ones need no goal."
    )


@section("sum")
class Sum:
    """The secure sum, and the ring that it counts in."""

    scheme: Scheme = setting(
        default="plain",
        description=f"The sum: {', '.join(f'{name} ({sum_.method})' for name, sum_ in SCHEMES.items())}.",
    )
    bits: int | None = setting(
        default=None,
        ge=MIN_BITS,
        le=MAX_BITS,
        description=(
            "The bits of the ring: 31 by default, and 42 for a round without noise whose mean update would otherwise "
            "lose precision. A value given here is kept."
        ),
    )
    rounding: Literal["nearest", "stochastic"] = setting(
        default="nearest", description="How the entries of an update become integers."
    )
    clip_entries: Number | None = setting(
        default=None,
        gt=0,
        description=(
            "The bound of each entry of an update where no clip norm is given. By default it starts at 8 and grows "
            "when an update does not fit. A value given here is kept, and larger entries are clipped and counted."
        ),
    )
    rotation: bool = setting(
        default=False, description="Whether updates are rotated by a seeded Hadamard transform before they are rounded."
    )
    key_sums: int = setting(
        default=1, ge=1, description="The number of CKKS sums under one session key, while all participants hold it."
    )


@section("engine")
class Engine:
    """The place where a run is computed. No result depends on it."""

    workers: int = setting(
        default=0, ge=0, description="The processes that train clients; 0 trains one after another in this process."
    )
    sum_workers: int = setting(
        default=1, ge=1, description="The threads of a masked sum of long vectors; other sums use one."
    )
