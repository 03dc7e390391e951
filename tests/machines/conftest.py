"""Clients of CKKS sums that several files play."""

import pytest
from ckks_sums import People, sixty_people


@pytest.fixture(scope="session")
def people() -> People:
    return sixty_people()
