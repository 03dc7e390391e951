"""`privfl compare --json`: the server's epsilon of central noise (infinity) and that of plain FedAvg (no claim).
Must hold: the record distinguishes the two."""

import json
import subprocess
import sys
import tempfile

with tempfile.TemporaryDirectory() as folder:
    command = [sys.executable, "-m", "privfl", "compare", "--data", "breast_cancer", "--clients", "4", "--rounds", "1"]
    command += ["--seeds", "1", "--epsilon", "8", "--sums", "plain", "--workers", "1", "--to", folder, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
assert done.returncode == 0, done.stderr
rows = {row["arm"]: row for row in json.loads(done.stdout)["rows"]}
central, plain = rows["central DP 8"]["server_epsilon"], rows["FedAvg"]["server_epsilon"]
bad = central == plain
print("FAILS:" if bad else "holds:", f"server_epsilon of central noise {central!r}, of FedAvg {plain!r}")
sys.exit(int(bad))
