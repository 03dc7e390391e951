"""What the server of a CKKS sum holds: no key and nothing that decrypts, one block, and no TenSEAL."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privfl.crypto import AgreementKey, Credentials, SigningKey
from privfl.errors import RemoteProtocolError
from privfl.he import KeyStore
from privfl.he.authenticator import SessionCipher
from privfl.he.opening import decrypt_sum
from privfl.he.packing import unpack
from privfl.he.seal import SealCipher

Make = Callable[..., Any]
Search = Callable[..., list[object]]


def test_no_key_and_no_decryptor_is_reachable_from_a_server(ckks: Make, reachable: Search) -> None:
    room = ckks()
    room.until("open")
    assert reachable(room.sessions[0], SessionCipher, SealCipher, SigningKey), "the search would find them"
    assert not reachable(room.server, SessionCipher, SealCipher, SigningKey, AgreementKey, KeyStore, Credentials)
    secrets = [room.sessions[0]._secrets.session_key, *(own.signing.secret for own in room.credentials.values())]  # type: ignore[union-attr]
    for thing in reachable(room.server, bytes, memoryview, np.ndarray):
        content = bytes(thing)  # type: ignore[call-overload]
        assert not any(secret in content for secret in secrets if secret)


def test_a_server_holds_one_block_however_many_clients(ckks: Make, reachable: Search) -> None:
    """Of a frame only header and seeds stay."""

    def held(clients: int) -> int:
        room = ckks(clients=clients)
        room.until("consent")
        buffers = {id(thing): thing for thing in reachable(room.server, bytes, memoryview, np.ndarray)}
        return sum(memoryview(thing).nbytes for thing in buffers.values())  # type: ignore[arg-type]

    plan = ckks(clients=4).plan
    assert plan.degree * 8 <= held(4) < plan.degree * 8 + 4 * 1024
    assert held(12) - held(4) < 8 * 1024 < plan.block_bytes


def test_the_server_cannot_decrypt_with_what_it_has(ckks: Make) -> None:
    """Under any other key the block is uniform noise."""
    room = ckks()
    ask = room.ask()
    guess = SessionCipher(room.plan, bytes(32), room.task.digest())
    with pytest.raises(RemoteProtocolError, match="off an integer"):
        decrypt_sum(room.plan, unpack(ask.block, room.plan), [h.seeds for h in ask.headers], guess)


def test_a_server_runs_without_tenseal() -> None:
    code = (
        "import sys; sys.modules['tenseal'] = None\n"
        "from privfl.he import CkksSum\n"
        "from privfl.crypto import generate_identities\n"
        "from privfl.errors import MissingExtra\n"
        "from privfl.ring import Ring\n"
        "from privfl.sums import SumTask\n"
        "from privfl.he.seal import self_test\n"
        "_, directory = generate_identities(range(3))\n"
        "server = CkksSum(directory).server(SumTask(b'', (0, 1, 2), 2, 10, Ring(23), 5))\n"
        "assert server.awaiting == {0, 1, 2}\n"
        "assert not any(name.startswith('_sealapi') for name in sys.modules)\n"
        "try:\n    self_test()\n"
        "except MissingExtra as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'privfl[he]'" in done.stdout


REPLAY = """
import base64, json, sys
sys.modules["tenseal"] = None
from privfl.crypto import MemoryDirectory, SigningKey
from privfl.he import CkksSum
from privfl.ring import Ring
from privfl.sums import SumTask
told = json.load(open(sys.argv[1]))
task = told["task"]
task = SumTask(bytes.fromhex(task["context"]), tuple(range(task["clients"])), task["min_survivors"], task["length"],
               Ring(task["bits"]), task["bound"])
keys = {int(c): SigningKey(bytes.fromhex(own["signing"])).public for c, own in told["parties"].items()}
server = CkksSum(MemoryDirectory(keys), min_vectors=1).server(task)
for step in told["script"]:
    if "advance" in step:
        assert server.advance() == {int(c): base64.b64decode(m) for c, m in step["messages"].items()}
    else:
        server.receive(step["from"], base64.b64decode(step["message"]))
assert not any("sealapi" in name for name in sys.modules)
print(json.dumps([server.result.total.tolist(), sorted(server.result.survivors), server.result.transcript.hex()]))
"""


@pytest.mark.parametrize("name", ["three-clients", "dropouts", "held-key"])
def test_whole_sums_pass_through_a_server_without_tenseal(name: str) -> None:
    """The vectors have what all clients say, so that no client is needed."""
    vector = Path(__file__).parents[2] / "protocols" / "ckks-sum" / "vectors" / f"{name}.json"
    command = [sys.executable, "-W", "error", "-c", REPLAY, str(vector)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(vector.read_text())["result"]
    assert json.loads(done.stdout) == [told["total"], told["survivors"], told["transcript"]]
