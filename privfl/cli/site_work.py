"""The verbs of `privfl site` that work with data: serve, try and mock."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import typer

from privfl.cli.show import facts_table, output
from privfl.codec import Vector
from privfl.errors import ConfigError, StateError
from privfl.files import user_path
from privfl.fl.client import ClientUpdate, client_rng
from privfl.site.agent import Agent
from privfl.site.home import SiteHome
from privfl.site.installed import installed_training
from privfl.site.mock import mock_data
from privfl.site.policy import Policy
from privfl.site.site import Site
from privfl.site.training import TRAINING_FRACTION, ChildTraining

Home = Annotated[Path, typer.Argument(metavar="HOME", help="The site's folder.", parser=user_path)]
PassphraseFile = Annotated[
    Path | None,
    typer.Option("--passphrase-file", metavar="FILE", parser=user_path, help="A file with the passphrase of the keys."),
]


def passphrase(file: Path | None, *, twice: bool = False) -> str:
    """The passphrase from a file, from PRIVFL_PASSPHRASE, or from the terminal.

    Args:
        file: The file; None reads the variable, or asks.
        twice: Ask for it again, because it is a new one.
    """
    if file is not None:
        return file.read_text(encoding="utf-8").rstrip("\n")
    given = os.environ.get("PRIVFL_PASSPHRASE")
    if given is not None:
        return given
    if not sys.stdin.isatty():
        raise ConfigError("the keys need a passphrase: give --passphrase-file, or set PRIVFL_PASSPHRASE")
    answer: str = typer.prompt("Passphrase", hide_input=True, confirmation_prompt=twice)
    return answer


def passphrase_of(site: SiteHome, file: Path | None) -> str | None:
    """The passphrase of a site's keys; None where they are under none.

    Args:
        site: The site's folder.
        file: The file that holds it; None reads the variable, or asks.
    """
    return passphrase(file) if site.sealed else None


def serve(home: Home, passphrase_file: PassphraseFile = None) -> None:
    """Serve a site on its Unix socket, until Ctrl-C or SIGTERM.

    Args:
        home: The site's folder.
        passphrase_file: A file with the passphrase of the keys.
    """
    site = SiteHome(home)
    policy = site.policy()
    after = policy.training.answer_after
    # The child is forked first: it has no key, no lock and no socket, and trains with what the policy pins by hash.
    seconds = TRAINING_FRACTION * after if after > 0 else None
    training = ChildTraining(lambda: installed_training(site.folder, policy.training), seconds=seconds)
    try:
        learner, evaluate = training.learner(), training.evaluate
        secret = passphrase_of(site, passphrase_file)
        with Site(site.folder, learner, evaluate=evaluate, mode="agent", passphrase=secret) as work:
            agent = Agent(work, site.socket(policy), policy.agent)
            output().print(f"{work.name} serves {site.socket(policy)}")
            work.log.note("serving", client=work.client)
            agent.serve(lambda: training.alive)
    finally:
        training.close()
    raise StateError("the process that trains has died: see the log of the site, and start the agent again")


def try_(
    home: Home,
    entries: Annotated[
        int | None, typer.Option("--entries", min=1, help="Train on a model of that many zeros.")
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option("--model", metavar="FILE", parser=user_path, help="A model: its entries as raw float64."),
    ] = None,
    round: Annotated[int, typer.Option("--round", min=0, help="The round that the training function is given.")] = 1,
    seed: Annotated[int, typer.Option("--seed", min=0, help="The seed of the training's randomness.")] = 0,
) -> None:
    """Train locally on a given model, without a session or a ledger; nothing leaves, and nothing is charged."""
    site = SiteHome(home)
    policy = site.policy()
    if (entries is None) == (model is None):
        raise ConfigError("give the model with --model FILE, or its length with --entries")
    data = bytes(8 * (entries or 0)) if model is None else model.read_bytes()
    if not data or len(data) % 8:
        raise ConfigError(f"a model of float64 entries has a multiple of 8 bytes, not {len(data)}")
    vector = np.frombuffer(data, "<f8")
    training = ChildTraining(lambda: installed_training(site.folder, policy.training))
    try:
        began = time.perf_counter()
        if policy.demands.unit == "example":
            facts = _of_examples(training.norms(vector, site.card.client), policy)
        else:
            rng = client_rng(seed, round, site.card.client)
            facts = _of_update(training(vector, site.card.client, round, rng), vector)
        seconds = time.perf_counter() - began
        facts["seconds"] = f"{seconds:.3f} (training.answer_after is {policy.training.answer_after:g})"
        if policy.training.evaluate:
            found = training.evaluate(vector, site.card.client, round, client_rng(seed, round, site.card.client))
            facts["test examples"] = str(found.examples)
            facts |= {f"metric test {name}": f"{value:.6g}" for name, value in found.metrics.items()}
    finally:
        training.close()
    output().print(facts_table("training", facts.items()))


def _of_update(update: ClientUpdate, model: Vector) -> dict[str, str]:
    """An update in words."""
    finite = bool(np.isfinite(update.delta).all())
    facts = {
        "entries": f"{len(update.delta)} (the model has {len(model)})",
        "l2 norm of the update": f"{float(np.linalg.norm(update.delta)):.6g}",
        "finite": "yes" if finite else "no: it would count as zeros",
        "examples": str(update.examples),
    }
    return facts | {f"metric {name}": f"{value:.6g}" for name, value in update.metrics.items()}


def _of_examples(norms: npt.NDArray[np.float64], policy: Policy) -> dict[str, str]:
    """The gradients of all people in words: the largest sample that a step can have."""
    counted = norms[np.isfinite(norms)]
    facts = {"people": str(len(norms)), "gradients that count as zeros": str(len(norms) - len(counted))}
    if len(counted):
        middle, high, top = np.quantile(counted, (0.5, 0.9, 1.0))
        facts["l2 norms of gradients"] = f"{middle:.4g} (median), {high:.4g} (nine of ten), {top:.4g} (largest)"
        if (clip := policy.demands.max_clip_norm) is not None:
            facts["longer than demands.max_clip_norm"] = f"{float(np.mean(counted > clip)):.1%}"
    return facts


def mock(
    home: Home,
    target: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder that is made.", parser=user_path)],
    examples: Annotated[int, typer.Option("--examples", min=1, help="The examples of each mock file.")] = 20,
    seed: Annotated[int, typer.Option("--seed", min=0, help="The seed of the random values.")] = 0,
) -> None:
    """Write data of the same columns and kinds as this site's CSV files, without any of their values or ranges."""
    site = SiteHome(home)
    schemas = mock_data(site / site.policy().training.data, target, examples=examples, seed=seed)
    for file, schema in schemas.items():
        output().print(f"{file}: " + ", ".join(f"{column} ({kind})" for column, kind in schema.items()))
    output().print(f"wrote {target}: read it before it is passed on; the names of columns are those of the data")
