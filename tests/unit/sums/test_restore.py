"""The sums that restore sessions have the parameters that the interfaces state."""

import inspect

import pytest

from privfl.crypto import MemoryDirectory
from privfl.he import CkksSum
from privfl.secagg import MaskedSum
from privfl.sums import PlainSum, SecureSum
from privfl.sums.restore import ClientRestorer, ServerRestorer, restores_clients, restores_servers

EMPTY = MemoryDirectory({})


@pytest.mark.parametrize(
    ("scheme", "servers", "clients"),
    [(PlainSum(), False, False), (MaskedSum(EMPTY), True, True), (CkksSum(EMPTY), True, False)],
)
def test_a_sum_that_restores_sessions_takes_what_the_interface_states(
    scheme: SecureSum, servers: bool, clients: bool
) -> None:
    assert (restores_servers(scheme), restores_clients(scheme)) == (servers, clients)
    for holds, method, interface in (
        (servers, "resume", ServerRestorer.resume),
        (clients, "resume_client", ClientRestorer.resume_client),
    ):
        if holds:
            stated = set(inspect.signature(interface).parameters) - {"self"}
            assert stated <= set(inspect.signature(getattr(scheme, method)).parameters)
