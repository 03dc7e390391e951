"""Cryptographic building blocks: thin, labeled wrappers around the cryptography package.

Everything here raises a typed error and never returns a bool: `verify` and `unseal` either give what was asked for
or a `RemoteProtocolError`. Keys are 32 bytes of full entropy; `derive` makes one key per purpose from them. Python
cannot wipe memory, so secrets live as long as the objects that hold them; no repr shows one.
"""

from privfl.crypto.agreement import AgreementKey
from privfl.crypto.identity import (
    Credentials,
    FileDirectory,
    KeyDirectory,
    MemoryDirectory,
    generate_identities,
    load_credentials,
    save_credentials,
)
from privfl.crypto.keystream import add_keystreams, read_keystream
from privfl.crypto.memory import TaskMemory, TasksInFolder, TasksInMemory
from privfl.crypto.signing import SigningKey, VerifyKey

__all__ = [
    "AgreementKey",
    "Credentials",
    "FileDirectory",
    "KeyDirectory",
    "MemoryDirectory",
    "SigningKey",
    "TaskMemory",
    "TasksInFolder",
    "TasksInMemory",
    "VerifyKey",
    "add_keystreams",
    "generate_identities",
    "load_credentials",
    "read_keystream",
    "save_credentials",
]
