"""The folder of a site: keys, policy, directory, approved charters, ledgers, receipts, rounds in progress and log."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from privfl.crypto import Credentials, SigningKey, load_credentials, save_credentials
from privfl.crypto.agreement import AgreementKey
from privfl.crypto.members import Members, SiteCard, check_name, client_of
from privfl.crypto.passphrase import is_protected
from privfl.errors import ConfigError, PlanRejected, StateError
from privfl.files import atomic_write, canonical_json, existing_parent, read_json, sync_folder, user_path
from privfl.fl.charter import Charter
from privfl.fl.receipts import Receipt
from privfl.lock import sole_writer
from privfl.site.place import note_place, since
from privfl.site.policy import Policy, commented_policy, load_policy
from privfl.wire import ClientId

DAY: Final = 86400
POLICY: Final = "policy.toml"
KEYS: Final = "keys.json"
DIRECTORY: Final = "directory.json"
RECEIPTS: Final = "receipts.jsonl"
LOG: Final = "log.jsonl"
BEHIND: Final = "behind.json"
PEERS: Final = "peers.json"
PLACE: Final = "place.json"
LEDGERS: Final = "ledgers"
CHARTERS: Final = "charters"
ROUNDS: Final = "rounds"
STATES: Final = "states"
LOCK: Final = "lock"


class SiteHome:
    """A site's folder, opened.

    Args:
        folder: The folder that `SiteHome.make` made.

    Raises:
        StateError: It is not the folder of a site.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = user_path(folder).resolve()
        cards = sorted(self.folder.glob("*.pub"))
        if len(cards) != 1 or not (self.folder / POLICY).is_file() or not (self.folder / KEYS).is_file():
            raise StateError(f"{folder} is not the folder of a site: make one with `privfl site new {folder}`")
        self.card = SiteCard.read(cards[0])

    @classmethod
    def make(
        cls,
        folder: Path | str,
        name: str,
        *,
        now: float,
        days: int = 365,
        passphrase: str | None = None,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> SiteHome:
        """Make the folder of a new site, with fresh keys, a commented policy and no charter.

        Args:
            folder: The folder; it must not exist, or be empty.
            name: The name of the site.
            now: The present time, in seconds since 1970.
            days: The days for which the key counts.
            passphrase: Seals the keys; None writes them in the clear, for the owner alone.
            entropy: A source of random bytes.

        Raises:
            StateError: There is something in the folder.
            ConfigError: The name is not allowed.
        """
        path = existing_parent(folder)
        check_name(name)
        if path.exists() and any(path.iterdir()):
            raise StateError(f"{path} is not empty: choose another folder for the new site")
        path.mkdir(mode=0o700, exist_ok=True)
        path.chmod(0o700)
        signing = SigningKey.generate(entropy)
        own = Credentials(client_of(signing.public), signing, AgreementKey.generate(entropy))
        save_credentials(path / KEYS, own, passphrase=passphrase)
        atomic_write(path / POLICY, commented_policy().encode())
        issued = int(now)
        SiteCard.make(name, signing, issued=issued, expires=issued + days * DAY).write(path / f"{name}.pub")
        note_place(path / PLACE, path / KEYS, now)
        sync_folder(path.parent)
        return cls(path)

    def __truediv__(self, name: str) -> Path:
        """The path of a file or folder in the site's folder."""
        return self.folder / name

    @contextlib.contextmanager
    def writing(self) -> Iterator[int]:
        """Hold the folder as its only writer, and yield the number of this holder: each one has the next number.

        Raises:
            StateError: Another process, or another part of this one, holds it; or its lock cannot be written.
        """
        with sole_writer(self / LOCK) as lock:
            yield lock.turn()

    @property
    def sealed(self) -> bool:
        """True if the keys are under a passphrase."""
        return is_protected((self / KEYS).read_bytes())

    def policy(self) -> Policy:
        """The policy, read and checked now."""
        return load_policy(self / POLICY)

    def credentials(self, passphrase: str | None = None) -> Credentials:
        """The keys; raises `StateError` unless they are those of the card."""
        own = load_credentials(self / KEYS, passphrase=passphrase)
        if own.signing.public != self.card.key or own.client != self.card.client:
            raise StateError(f"{self / KEYS} holds another key than the card of {self.card.name}")
        return own

    def members(self) -> Members:
        """The directory that this site holds; raises `StateError` if there is none."""
        if not (self / DIRECTORY).exists():
            raise StateError(f"{self.folder} has no directory: install one with `privfl site sign`")
        return Members.read(self / DIRECTORY)

    def charters(self) -> dict[bytes, Charter]:
        """The approved charters by digest."""
        found = (Charter.read(path) for path in sorted((self / CHARTERS).glob("*.json")))
        return {charter.digest(): charter for charter in found}

    def fresh_since(self, now: float) -> float:
        """The time from which frames of step 0 count; ends the open rounds of a folder that was copied or restored.

        Args:
            now: The present time, in seconds since 1970.
        """
        time, copied = since(self / PLACE, self / KEYS, now)
        if copied:  # a restored state may have been answered already
            self.end_rounds()
        return time

    def end_rounds(self) -> None:
        """Forget the rounds in progress."""
        for path in (self / ROUNDS).glob("*"):
            path.unlink()

    def approve(self, charter: Charter) -> None:
        """Approve a charter, after the directory and the policy were compared with it.

        Raises:
            PlanRejected: The policy does not allow the run, or its directory is another one.
        """
        members = self.members()
        if charter.directory != members.digest:
            raise PlanRejected(
                f"the charter names the directory {charter.directory[:16]}..., and this site holds "
                f"{members.digest[:16]}...: install that directory, or ask for another charter"
            )
        if set(charter.members) != set(members.clients) or self.card.client not in charter.members:
            raise PlanRejected("the members of the charter are not those of this site's directory")
        self.policy().check_charter(charter)
        (self / CHARTERS).mkdir(mode=0o700, exist_ok=True)
        atomic_write(self / CHARTERS / f"{charter.digest().hex()}.json", charter.to_bytes())

    def withdraw(self, digest: str) -> None:
        """Take back an approval: from the next start of the agent on, no frame of that charter is read."""
        path = self / CHARTERS / f"{digest}.json"
        if not path.exists():
            raise StateError(f"no charter {digest} is approved here; `privfl site show` lists those that are")
        path.unlink()
        sync_folder(path.parent)

    def socket(self, policy: Policy) -> Path:
        """The path of the agent's socket, in a folder that holds nothing else of the site.

        Raises:
            ConfigError: The folder of the socket, which the relay's group may enter, holds the site's own folder.
        """
        path = (self.folder / policy.agent.socket).resolve()
        if self.folder.is_relative_to(path.parent) or path == self.folder:
            raise ConfigError(
                f"agent.socket is {policy.agent.socket!r}, and the relay's group may enter the folder of the socket: "
                "name a folder of its own, such as 'agent/agent.sock'"
            )
        return path

    def peers(self) -> dict[str, dict[ClientId, Receipt]]:
        """The newest receipt of every other site that this site was shown: charter's digest, then site, to receipt.

        Raises:
            StateError: The file was altered.
        """
        path = self / PEERS
        try:
            held = read_json(path.read_bytes()) if path.exists() else {}
            return {
                charter: {int(client): Receipt.from_bytes(text.encode()) for client, text in of.items()}
                for charter, of in held.items()
            }
        except (ValueError, AttributeError, TypeError) as error:
            raise StateError(f"{path} does not hold receipts of other sites: remove it") from error

    def keep_peers(self, peers: Mapping[str, Mapping[ClientId, Receipt]]) -> None:
        """Store durably the receipts that `peers` then returns."""
        texts = {
            charter: {str(client): receipt.to_bytes().decode() for client, receipt in of.items()}
            for charter, of in peers.items()
        }
        atomic_write(self / PEERS, canonical_json(texts))
