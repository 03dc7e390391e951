"""Cryptographic building blocks: thin, labelled wrappers around the cryptography package.

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
from privfl.crypto.kdf import KEY_BYTES, PROTOCOL_LABEL, check_key, derive, draw, framed
from privfl.crypto.keystream import CHUNK_BYTES, add_keystreams
from privfl.crypto.memory import TaskMemory, TasksInFolder, TasksInMemory
from privfl.crypto.sealed import SEAL_OVERHEAD, TAG_BYTES, seal, tag, unseal
from privfl.crypto.shamir import PRIME, SHARE_BYTES, Combiner, share_from_bytes, share_to_bytes, split
from privfl.crypto.signing import SIGNATURE_BYTES, SigningKey, VerifyKey

__all__ = [
    "CHUNK_BYTES",
    "KEY_BYTES",
    "PRIME",
    "PROTOCOL_LABEL",
    "SEAL_OVERHEAD",
    "SHARE_BYTES",
    "SIGNATURE_BYTES",
    "TAG_BYTES",
    "AgreementKey",
    "Combiner",
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
    "check_key",
    "derive",
    "draw",
    "framed",
    "generate_identities",
    "load_credentials",
    "save_credentials",
    "seal",
    "share_from_bytes",
    "share_to_bytes",
    "split",
    "tag",
    "unseal",
]
