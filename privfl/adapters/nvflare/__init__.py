"""privfl's sums, noise and ledger in an NVFlare job: a controller for the server, an executor for the clients.

`SecureController` runs the exchanges of secure sums, one task for each client and step. `SecureExecutor` answers them
through the site, around an executor that trains as before or in front of a site's own agent. `SecureRecipe` puts both
into a job. Needs the extra `nvflare`, and NVFlare 2.9.
"""

from privfl.errors import MissingExtra

try:
    import nvflare  # noqa: F401 - its absence is reported here, once, with the line that installs it
except ModuleNotFoundError as error:
    raise MissingExtra("nvflare", "nvflare") from error

from privfl.adapters.layout import NamedLayout
from privfl.adapters.nvflare.controller import SecureController
from privfl.adapters.nvflare.executor import SecureExecutor
from privfl.adapters.nvflare.recipe import SecureRecipe

__all__ = ["NamedLayout", "SecureController", "SecureExecutor", "SecureRecipe"]
