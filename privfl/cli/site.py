"""`privfl site`: the folder of one party of a federation, its directory, charters, account and receipts."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.markup import escape
from rich.table import Table

from privfl.cli import site_work
from privfl.cli.once import Once
from privfl.cli.options import Json, print_json
from privfl.cli.show import facts_table, output
from privfl.crypto.members import Members, SiteCard, fingerprint
from privfl.dp import format_epsilon
from privfl.errors import ConfigError
from privfl.files import atomic_write, existing_parent, user_path
from privfl.fl.charter import Charter
from privfl.site.account import Account
from privfl.site.chain import ReceiptChain
from privfl.site.health import findings
from privfl.site.home import DAY, DIRECTORY, LEDGERS, RECEIPTS, SiteHome
from privfl.site.reconcile import read_receipts, reconcile

_COLORS: Final = {"fine": "green", "warning": "yellow", "fault": "bold red"}

app = typer.Typer(help="Keep one site of a federation.", no_args_is_help=True, rich_markup_mode="rich")

Home = Annotated[Path, typer.Argument(metavar="HOME", help="The site's folder.", parser=user_path)]
Passphrase = Annotated[
    Path | None,
    typer.Option(
        "--passphrase-file",
        metavar="FILE",
        parser=user_path,
        help="A file with the passphrase of the keys. Without it, PRIVFL_PASSPHRASE is read, or the terminal is asked.",
    ),
]

app.command("serve", cls=Once, epilog="Example: [bold]privfl site serve hospital[/]")(site_work.serve)
app.command("try", cls=Once, epilog="Example: [bold]privfl site try hospital --entries 31[/]")(site_work.try_)
app.command("mock", cls=Once, epilog="Example: [bold]privfl site mock hospital mock[/]")(site_work.mock)


@app.command("new", cls=Once, epilog="Example: [bold]privfl site new hospital --name north[/]")
def new(
    home: Home,
    name: Annotated[str, typer.Option("--name", help="The site's name, for people.")],
    days: Annotated[int, typer.Option("--days", min=1, help="The days for which the key counts.")] = 365,
    sealed: Annotated[bool, typer.Option("--sealed", help="Seal the keys under a passphrase.")] = False,
    passphrase_file: Passphrase = None,
) -> None:
    """Make a site's folder: keys, a card to pass on, and a commented policy.toml."""
    passphrase = site_work.passphrase(passphrase_file, twice=True) if sealed or passphrase_file else None
    made = SiteHome.make(home, name, now=time.time(), days=days, passphrase=passphrase)
    output().print(f"made {made.folder}")
    _print_card(made.card)
    output().print(
        f"Pass on {made.folder / (name + '.pub')}; edit policy.toml; `privfl site check` states the next steps."
    )


@app.command("show", cls=Once, epilog="Example: [bold]privfl site show hospital[/]")
def show(home: Home, as_json: Json = False) -> None:
    """Show a site's name, client id, fingerprint, expiry, and the charters that it approved."""
    found = SiteHome(home)
    charters = found.charters()
    if as_json:
        print_json(_card_facts(found.card) | {"charters": [digest.hex() for digest in charters]})
        return
    _print_card(found.card)
    for digest, charter in charters.items():
        output().print(facts_table("charter", [("digest", digest.hex()), *charter.in_words().items()]))


@app.command("directory", cls=Once, epilog="Example: [bold]privfl site directory *.pub -o directory.json[/]")
def directory(
    cards: Annotated[
        list[Path], typer.Argument(metavar="CARD.pub...", help="The cards of all sites.", parser=user_path)
    ],
    target: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE", parser=user_path, help="The directory that is written.")
    ],
    quorum: Annotated[
        int | None, typer.Option("--quorum", min=1, help="How many members sign it; more than half.")
    ] = None,
    days: Annotated[int, typer.Option("--days", min=1, help="The days for which it counts.")] = 180,
) -> None:
    """Write the directory of all sites, which its members then sign with `privfl site sign`."""
    read = [SiteCard.read(card) for card in cards]
    now = int(time.time())
    least = len(read) // 2 + 1 if quorum is None else quorum
    members = Members(read, issued=now, expires=now + days * DAY, quorum=least)
    path = existing_parent(target)
    members.write(path)
    for card in members.cards.values():
        _print_card(card)
    output().print(f"wrote {path}, digest {members.digest}: {least} of {len(read)} members sign it")


@app.command("sign", cls=Once, epilog="Example: [bold]privfl site sign hospital directory.json[/]")
def sign(
    home: Home,
    file: Annotated[Path, typer.Argument(metavar="DIRECTORY", help="The directory.", parser=user_path)],
    only_install: Annotated[bool, typer.Option("--install-only", help="Put it in place without signing.")] = False,
    passphrase_file: Passphrase = None,
) -> None:
    """Sign a directory whose fingerprints were compared, write it back, and put it in place at this site."""
    site, members = SiteHome(home), Members.read(file)
    if members.cards.get(site.card.client) != site.card:
        raise ConfigError(f"{file} does not hold the card of {site.card.name}: make the directory with it")
    if not only_install:
        key = site.credentials(site_work.passphrase_of(site, passphrase_file)).signing
        members = members.signed(key)
        members.write(file)
    members.write(site / DIRECTORY)
    count = len(members.signatures)
    output().print(f"digest {members.digest}: {count} of {members.quorum} signatures; installed at {site.folder}")


@app.command("check", cls=Once, epilog="Example: [bold]privfl site check hospital[/]")
def check(home: Home, as_json: Json = False) -> None:
    """Examine directory, clock, policy, training, space and software; exit with 1 where a fault keeps the site out."""
    found = findings(SiteHome(home), time.time())
    if as_json:
        print_json({"findings": [{"level": f.level, "about": f.about, "text": f.text, "step": f.step} for f in found]})
    else:
        for finding in found:
            step = f"\n         next: {finding.step}" if finding.step else ""
            text = escape(f"{finding.about}: {finding.text}{step}")
            output().print(f"[{_COLORS[finding.level]}]{finding.level:8}[/] {text}", soft_wrap=True, highlight=False)
    if any(finding.level == "fault" for finding in found):
        raise typer.Exit(1)


@app.command("approve", cls=Once, epilog="Example: [bold]privfl site approve hospital CHARTER[/]")
def approve(
    home: Home,
    charter: Annotated[Path, typer.Argument(metavar="CHARTER", help="The charter.", parser=user_path)],
    digest: Annotated[
        str | None,
        typer.Option(
            "--digest", help="The digest that was read, 64 hexadecimal digits; the terminal is asked without it."
        ),
    ] = None,
) -> None:
    """Show a charter in words, and approve it by its digest."""
    site, read = SiteHome(home), Charter.read(charter)
    found = read.digest().hex()
    output().print(facts_table("charter", [("digest", found), *read.in_words().items()]))
    if digest is None and not typer.confirm(f"Approve the charter {found}?"):
        raise ConfigError("the charter was not approved")
    if digest is not None and digest != found:
        raise ConfigError(f"this charter has the digest {found}, not {digest}: compare it with the server's owner")
    site.approve(read)
    output().print("approved")


@app.command("withdraw", cls=Once, epilog="Example: [bold]privfl site withdraw hospital DIGEST[/]")
def withdraw(home: Home, digest: Annotated[str, typer.Argument(help="The charter's digest.")]) -> None:
    """Take back the approval of a charter; a running agent refuses its frames from then on."""
    SiteHome(home).withdraw(digest)
    output().print("withdrawn")


@app.command("ledger", cls=Once, epilog="Example: [bold]privfl site ledger hospital --receipts receipts.jsonl[/]")
def ledger(
    home: Home,
    receipts: Annotated[
        Path | None,
        typer.Option(
            "--receipts",
            metavar="FILE",
            parser=user_path,
            help="Write this site's receipts, and the newest of every other.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what was spent against the server, by round, with the digests of plan and transcript."""
    site = SiteHome(home)
    chain, policy = ReceiptChain(site / RECEIPTS, site.card.key), site.policy()
    spent = Account(site / LEDGERS, policy).spent()
    limit = None if policy.limit is None else policy.limit.epsilon
    if receipts is not None:
        peers = [receipt for of in site.peers().values() for receipt in of.values()]
        lines = b"".join(receipt.to_bytes() + b"\n" for receipt in (*chain.receipts, *peers))
        atomic_write(existing_parent(receipts), lines, shared=True)
    if as_json:
        total = spent if spent < float("inf") else "infinity"
        records = [receipt.record() for receipt in chain.receipts]
        unit: dict[str, str | int] = {"unit": policy.demands.unit, "adjacency": policy.budget.adjacency}
        unit["sites_per_person"] = policy.budget.sites_per_person
        print_json({"spent": total, "budget": limit, "delta": policy.budget.delta, **unit, "receipts": records})
        return
    of_whom = policy.unit_in_words
    table = Table(title=f"{site.card.name}: against the server, for {of_whom}, by worst case", title_justify="left")
    for heading in ("no.", "charter", "round", "", "epsilon", "plan", "transcript"):
        table.add_column(heading)
    for r in chain.receipts:
        place = f"{r.round}.{r.attempt}" if r.attempt else str(r.round)
        epsilon = "no bound" if r.spent is None else format_epsilon(r.spent, 2)
        table.add_row(str(r.number), r.charter[:8], place, r.kind, epsilon, r.plan[:16], r.transcript[:16])
    output().print(table)
    of = "no budget" if limit is None else f"of {limit:g}"
    output().print(f"epsilon {format_epsilon(spent, 2)} {of} at delta {policy.budget.delta:g}, for {of_whom}")


@app.command("reconcile", cls=Once, epilog="Example: [bold]privfl site reconcile hospital receipts.jsonl[/]")
def reconcile_verb(
    home: Home,
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="RECEIPTS...", parser=user_path, help="Files of receipts, one canonical JSON line each."
        ),
    ] = None,
) -> None:
    """After a restored backup, take up the receipts that the server and the other sites keep, and end open rounds."""
    site = SiteHome(home)
    taken = reconcile(site, read_receipts(files or []), time.time())
    output().print(f"took up {len(taken)} receipts; rounds in progress are over")


@app.command("renew", cls=Once, epilog="Example: [bold]privfl site renew hospital --days 365[/]")
def renew(
    home: Home,
    days: Annotated[int, typer.Option("--days", min=1, help="The days for which the key counts from now.")] = 365,
    passphrase_file: Passphrase = None,
) -> None:
    """Sign a new card for the same key, with a later date; a new directory must then hold it."""
    site = SiteHome(home)
    with site.writing():
        key = site.credentials(site_work.passphrase_of(site, passphrase_file)).signing
        now = int(time.time())
        SiteCard.make(site.card.name, key, issued=now, expires=now + days * DAY).write(site / f"{site.card.name}.pub")
    _print_card(SiteHome(home).card)


def _card_facts(card: SiteCard) -> dict[str, str | int]:
    expires = datetime.fromtimestamp(card.expires, UTC).date().isoformat()
    return {"name": card.name, "client": card.client, "fingerprint": fingerprint(card.key), "expires": expires}


def _print_card(card: SiteCard) -> None:
    output().print(facts_table(card.name, [(key, str(value)) for key, value in _card_facts(card).items()]))
