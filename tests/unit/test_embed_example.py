"""The example of embedding runs as it stands, and is as short as it says."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "embed_masked_sum.py"


def test_embedding_over_tcp_with_a_client_killed_mid_round() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLE)], env=environment, capture_output=True, check=True, timeout=120
    )
    said = done.stdout.decode()
    assert "client 2 has dropped out" in said
    assert "sum over [0, 1, 3, 4]" in said
    assert "as in the clear" in said
    assert not done.stderr
    assert len(EXAMPLE.read_text().splitlines()) < 80
