"""The health of a site: findings about its directory, clock, policy, training, space and software, each with a step."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal, TypeVar

import privfl
from privfl.crypto.members import Members
from privfl.errors import PrivflError
from privfl.files import read_json
from privfl.fl.charter import Charter
from privfl.site.account import check_units
from privfl.site.chain import ReceiptChain
from privfl.site.entry import MAX_CLOCK_STEP
from privfl.site.home import BEHIND, DAY, LEDGERS, LOG, RECEIPTS, SiteHome
from privfl.site.installed import file_hash
from privfl.site.policy import Policy

SOON_DAYS: Final = 30
"""A date that is closer than this is a warning."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Finding:
    """One fact that a site's administrator should know.

    Attributes:
        level: "fault" keeps the site out of rounds; "warning" will; "fine" is neither.
        about: What it concerns, in a word.
        text: The fact.
        step: What to do about it; empty where nothing is to be done.
    """

    level: Literal["fine", "warning", "fault"]
    about: str
    text: str
    step: str = ""


def findings(home: SiteHome, now: float) -> list[Finding]:
    """Examine a site's folder without keys, and without changing anything.

    Args:
        home: The folder.
        now: The present time, in seconds since 1970.
    """
    found: list[Finding] = [
        _expiry("key", home.card.expires, now, "make a new site, and a new directory with its card")
    ]
    policy = _tried(found, "policy", home.policy, "correct policy.toml")
    members = _tried(found, "directory", home.members, "put the signed directory in place with `privfl site sign`")
    if policy is not None:
        found += _of_policy(home, policy)
    if members is not None:
        found += _of_directory(home, members, now)
    charters = _tried(found, "charters", home.charters, "approve the charter again")
    for digest, charter in (charters or {}).items():
        found.append(_of_charter(digest.hex(), charter, policy, members))
    if not charters:
        found.append(Finding("warning", "charters", "none is approved", "run `privfl site approve` on a charter"))
    if policy is not None:
        _tried(found, "ledger", lambda: check_units(home / LEDGERS, policy), "correct policy.toml")
    found += _of_receipts(home, now)
    return found


def _of_charter(digest: str, charter: Charter, policy: Policy | None, members: Members | None) -> Finding:
    about = f"charter {digest[:16]}"
    if members is not None and charter.directory != members.digest:
        step = "approve a charter of the present directory, or put the old directory back"
        return Finding("fault", about, "it names another directory than this site holds", step)
    try:
        if policy is not None:
            policy.check_charter(charter)
    except PrivflError as error:
        return Finding("fault", about, str(error), "correct policy.toml, or withdraw the charter")
    return Finding("fine", about, f"approved: {charter.name}, {charter.rounds} rounds")


def _of_policy(home: SiteHome, policy: Policy) -> Iterator[Finding]:
    if not policy.server.key:
        yield Finding("fault", "policy", "no server is pinned", "compare its key by telephone, and set server.key")
    if policy.budget.unlimited:
        yield Finding(
            "warning", "policy", "budget.unlimited is true: no epsilon is kept", "set a budget if data need one"
        )
    if policy.training.answer_after == 0:
        text = "training.answer_after is 0: the time of an answer reveals how many examples were trained on"
        yield Finding("warning", "policy", text, "set it above the seconds that `privfl site try` prints")
    try:
        digest = file_hash(home.folder, policy.training)
    except PrivflError as error:
        yield Finding("warning", "training", str(error), "install the file, or use the site in an app of its own")
    else:
        if digest != policy.training.sha256:
            step = f'read the file, then set training.sha256 = "{digest}"'
            yield Finding("fault", "training", "the file has another hash than training.sha256", step)
        else:
            yield Finding("fine", "training", f"{policy.training.entry} has the pinned hash")
    if not (home / policy.training.data).exists():
        yield Finding("warning", "training", f"there are no data at {home / policy.training.data}", "set training.data")
    others = policy.agent.group or any(uid != os.getuid() for uid in policy.agent.relay_uids)
    if others and home.socket(policy).is_relative_to(home.folder):
        step = "set agent.socket to a path outside of the site's folder, such as /run/privfl/NAME/agent.sock"
        yield Finding("fault", "agent", "the relay's user cannot reach a socket in the site's folder", step)
    free, needed = shutil.disk_usage(home.folder).free >> 20, policy.agent.min_free_mib
    if free < needed:
        yield Finding(
            "fault", "space", f"{free} MiB are free, {needed} are needed", "free space, or lower agent.min_free_mib"
        )
    else:
        yield Finding("fine", "space", f"{free} MiB are free")


def _of_directory(home: SiteHome, members: Members, now: float) -> Iterator[Finding]:
    try:
        members.check(now)
    except PrivflError as error:
        yield Finding("fault", "directory", str(error), "have its members sign a new one")
    else:
        yield _expiry("directory", members.expires, now, "have its members sign a new one")
    for client, card in members.cards.items():
        if client != home.card.client and card.expires < now + SOON_DAYS * DAY:
            yield _expiry(f"key of {card.name}", card.expires, now, f"ask {card.name} for a new card")
    if members.cards.get(home.card.client) != home.card:
        yield Finding(
            "fault", "directory", "this site's card is not in it", "have a directory made with this site's card"
        )


def _of_receipts(home: SiteHome, now: float) -> Iterator[Finding]:
    if (home / BEHIND).exists():
        step = "run `privfl site reconcile` with the receipts that the server and the other sites keep"
        yield Finding("fault", "receipts", "this site was rolled back", step)
    try:
        newest = ReceiptChain(home / RECEIPTS, home.card.key).newest
    except PrivflError as error:
        yield Finding("fault", "receipts", str(error), "restore the folder, then run `privfl site reconcile`")
        return
    if newest is not None and newest.software != privfl.__version__:
        text = f"the last round ran under privfl {newest.software}, and this is {privfl.__version__}"
        yield Finding("warning", "software", text, "finish rounds in progress before an upgrade")
    last = _last_time(home)
    if last is not None and now < last - MAX_CLOCK_STEP:
        yield Finding("fault", "clock", "the clock lies before the last line of the log", "set the clock")
    elif now < home.card.issued:
        yield Finding("fault", "clock", "the clock lies before the day on which the key was made", "set the clock")
    else:
        yield Finding("fine", "clock", "the clock lies after the last line of the log")


def _last_time(home: SiteHome) -> float | None:
    path = home / LOG
    lines = path.read_bytes().splitlines() if path.exists() else []
    try:
        return float(read_json(lines[-1])["time"]) if lines else None
    except (ValueError, KeyError, TypeError):
        return None


def _expiry(about: str, expires: float, now: float, step: str) -> Finding:
    days = (expires - now) / DAY
    if days <= 0:
        return Finding("fault", about, f"expired {-days:.0f} days ago", step)
    if days < SOON_DAYS:
        return Finding("warning", about, f"expires in {days:.0f} days", step)
    return Finding("fine", about, f"expires in {days:.0f} days")


def _tried(listed: list[Finding], about: str, get: Callable[[], _T], step: str) -> _T | None:
    try:
        return get()
    except PrivflError as error:
        listed.append(Finding("fault", about, str(error), step))
        return None
