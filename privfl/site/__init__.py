"""A site: keys, policy, budget, data and rounds of one party of a federation, behind one function from bytes to bytes.

`Site` is the whole of it in one process. The agent (`privfl site serve`) puts it behind a Unix socket, so the app that
an engine delivers is a relay that holds nothing worth stealing.
"""

from privfl.site.home import SiteHome
from privfl.site.site import Site

__all__ = ["Site", "SiteHome"]
