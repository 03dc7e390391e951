import os
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real data: PRIVFL_DATA, or ../shared/data beside the checkout; skips where there is neither."""
    named = os.environ.get("PRIVFL_DATA")
    folder = Path(named) if named else CHECKOUT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data: set PRIVFL_DATA, or provide {folder}")
    return folder
