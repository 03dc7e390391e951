"""The parties that may look at a secure sum, and what each of them sees of it.

A sum states its `Views`; ledgers, reports and planners read them there. Every name here is a plain string, because
views are stored in ledgers and in published files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, get_args

Observer = Literal["outsider", "participant", "server", "key_holder"]
"""An observer: "outsider" reads what is published; "participant" is a client of the same sum; "server" relays messages;
"key_holder" is a client that can decrypt.
"""

View = Literal["vectors", "sum", "release"]
"""The part of a sum that an observer sees.

"vectors" are single contributions; the only noise in each is its own. "sum" is the sum as the opener gets it, before
the opening adds noise. Under distributed, mesh or local noise it already contains the clients' noise. "release" is only
what is published, and ciphertexts without their key.
"""

Views = Mapping[Observer, View]
"""The view of each observer of one sum, without collusion: what colluding parties see together is not a view. An
observer that a sum does not have is absent.
"""

OBSERVERS: Final[tuple[Observer, ...]] = get_args(Observer)
VIEWS: Final[tuple[View, ...]] = get_args(View)
