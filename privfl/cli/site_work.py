"""The verbs of `privfl site` that work with data: serve, try and mock."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from privfl.cli.show import facts_table, output
from privfl.errors import ConfigError, StateError
from privfl.files import user_path
from privfl.fl.client import client_rng
from privfl.site.agent import Agent
from privfl.site.home import SiteHome
from privfl.site.mock import mock_data
from privfl.site.site import Site
from privfl.site.training import TRAINING_FRACTION, ChildTraining, installed_training

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
        update = training(vector, site.card.client, round, client_rng(seed, round, site.card.client))
        seconds = time.perf_counter() - began
        metrics = update.metrics
        if policy.training.evaluate:
            found = training.evaluate(vector, site.card.client, round, client_rng(seed, round, site.card.client))
            metrics = {**metrics, "test examples": found.examples, **{f"test {k}": v for k, v in found.metrics.items()}}
    finally:
        training.close()
    finite = bool(np.isfinite(update.delta).all())
    facts: dict[str, str] = {
        "entries": f"{len(update.delta)} (the model has {len(vector)})",
        "l2 norm of the update": f"{float(np.linalg.norm(update.delta)):.6g}",
        "finite": "yes" if finite else "no: it would count as zeros",
        "examples": str(update.examples),
        "seconds": f"{seconds:.3f} (training.answer_after is {policy.training.answer_after:g})",
    }
    facts |= {f"metric {name}": f"{value:.6g}" for name, value in metrics.items()}
    output().print(facts_table("training", facts.items()))


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
