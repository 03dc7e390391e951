"""privfl's sums, noise and ledger in a Flower app: a Grid for the server, a mod or a relay for the clients.

`SecureGrid` runs the exchanges of a secure sum in place of one exchange of models, and hands the strategy one reply:
the mean. `SecureSumMod` is the client's half in an app whose train function stays as it is; `relay` is the client's
half in front of a site's own agent. Needs the extra `flower`, and the Message API of Flower 1.41 or 1.42.
"""

from privfl.errors import MissingExtra

try:
    import flwr  # noqa: F401 - its absence is reported here, once, with the line that installs it
except ModuleNotFoundError as error:
    raise MissingExtra("flwr", "flower") from error

from privfl.adapters.flower.grid import SecureGrid
from privfl.adapters.flower.mod import SecureSumMod
from privfl.adapters.flower.records import ArrayLayout
from privfl.adapters.flower.relay import relay

__all__ = ["ArrayLayout", "SecureGrid", "SecureSumMod", "relay"]
