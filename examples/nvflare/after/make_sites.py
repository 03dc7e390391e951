"""Make the sites, the directory, the server's key and the charter of the hello app, all in one folder.

In a federation each site does its part on a machine of its own, with `privfl site`.
"""

import sys
import time

import tomli_w
from federation import home, open_server

from privfl.crypto import SigningKey
from privfl.crypto.members import Members
from privfl.files import atomic_write
from privfl.site import SiteHome


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    now = time.time()
    home().mkdir(parents=True)
    key = SigningKey.generate()
    atomic_write(home() / "server.key", key.secret)
    sites = [SiteHome.make(home() / f"site-{n}", f"site-{n}", now=now) for n in range(1, count + 1)]
    members = Members([site.card for site in sites], issued=int(now), expires=int(now) + 30 * 86400, quorum=count)
    for site in sites:
        members = members.signed(site.credentials().signing)
    members.write(home() / "directory.json")
    for site in sites:
        members.write(site / "directory.json")
        policy = {
            "server": {"key": key.public.public.hex()},
            "demands": {"placements": ["none"]},
            "budget": {"unlimited": True},
            "training": {"answer_after": 0.0},
        }
        (site / "policy.toml").write_text(tomli_w.dumps(policy))
    with open_server()[0] as server:
        charter = server.charter
    for site in sites:
        site.approve(charter)


if __name__ == "__main__":
    main()
