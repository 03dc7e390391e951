"""Blake2xb, which expands the seed of a ciphertext: a hash of section 5 of SPEC.md, after RFC 7693."""

import struct

from ckks_primitives import u64

IV = [
    0x6A09E667F3BCC908,
    0xBB67AE8584CAA73B,
    0x3C6EF372FE94F82B,
    0xA54FF53A5F1D36F1,
    0x510E527FADE682D1,
    0x9B05688C2B3E6C1F,
    0x1F83D9ABFB41BD6B,
    0x5BE0CD19137E2179,
]
SIGMA = [
    "0123456789abcdef",
    "ea489fd61c02b753",
    "b8c052fdae367194",
    "7931dcbe265a40f8",
    "905724afe1bc683d",
    "2c6a0b834d75fe19",
    "c51fed4a0763928b",
    "db7ec13950f4862a",
    "6fe9b308c2d714a5",
    "a2847615fb9e3cd0",
]
MASK = (1 << 64) - 1


def rotate(word, count):
    return (word >> count | word << (64 - count)) & MASK


def blake2b(parameters, message, key=b""):
    """RFC 7693 with the parameter block given whole: hashlib does not offer the depth of 0 that Blake2xb wants."""
    if key:
        message = key.ljust(128, b"\0") + message
    h = [iv ^ word for iv, word in zip(IV, struct.unpack("<8Q", parameters), strict=True)]
    for start in range(0, len(message), 128):
        block = message[start : start + 128]
        m = struct.unpack("<16Q", block.ljust(128, b"\0"))
        v = h + IV
        v[12] ^= start + len(block)
        if start + 128 >= len(message):
            v[14] ^= MASK
        for step in range(12):
            s = [int(c, 16) for c in SIGMA[step % 10]]
            for i in range(8):
                a, b = i % 4, 4 + (i + i // 4) % 4
                c, d = 8 + (i + 2 * (i // 4)) % 4, 12 + (i + 3 * (i // 4)) % 4
                v[a] = (v[a] + v[b] + m[s[2 * i]]) & MASK
                v[d] = rotate(v[d] ^ v[a], 32)
                v[c] = (v[c] + v[d]) & MASK
                v[b] = rotate(v[b] ^ v[c], 24)
                v[a] = (v[a] + v[b] + m[s[2 * i + 1]]) & MASK
                v[d] = rotate(v[d] ^ v[a], 16)
                v[c] = (v[c] + v[d]) & MASK
                v[b] = rotate(v[b] ^ v[c], 63)
        h = [h[i] ^ v[i] ^ v[i + 8] for i in range(8)]
    return struct.pack("<8Q", *h)


def blake2xb(seed, counter):
    """4096 bytes: root hash of the counter under the seed as key, then one output node for every 64 bytes."""

    # length, key length, fanout, depth; leaf length, node, length of the whole output; node depth, inner length
    form = "<BBBBIIIBB14x32x"
    root = blake2b(struct.pack(form, 64, len(seed), 1, 1, 0, 0, 4096, 0, 0), u64(counter), seed)
    return b"".join(blake2b(struct.pack(form, 64, 0, 0, 0, 64, node, 4096, 0, 64), root) for node in range(64))
