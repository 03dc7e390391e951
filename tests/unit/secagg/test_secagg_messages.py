"""Bitmaps and pieces, the two forms that the masked sum adds to the wire."""

import pytest

from privfl.errors import WireError
from privfl.secagg.messages import BOX_BYTES, MESSAGES, Bitmap, BitmapCodec, Unmask, pieces
from privfl.wire import Reader


def test_a_bitmap_has_one_encoding() -> None:
    codec = BitmapCodec(20)
    for count, members in [(0, ()), (1, (0,)), (8, (0, 7)), (9, (8,)), (20, (1, 3, 19)), (17, ())]:
        bitmap = Bitmap.of(count, members)
        data = codec.write(bitmap)
        assert data == count.to_bytes(4, "little") + sum(1 << m for m in members).to_bytes(-(-count // 8), "little")
        assert codec.read(Reader(data)) == bitmap
        assert list(bitmap) == list(members)
        assert len(bitmap) == len(members)
        assert [i in bitmap for i in range(count)] == [i in members for i in range(count)]


def test_bitmaps_that_are_none() -> None:
    codec = BitmapCodec(20)
    for value in (Bitmap(21, 0), Bitmap(3, 8), b"\0", None):
        with pytest.raises(WireError):
            codec.write(value)
    for data in ((21).to_bytes(4, "little") + bytes(3), b"\x03\0\0\0\x08", b"\x09\0\0\0\x01", b"\x01\0"):
        with pytest.raises(WireError):
            codec.read(Reader(data))


def test_pieces_are_of_one_size_and_all_there() -> None:
    assert pieces(memoryview(b"abcdef"), 2, 3, "pairs") == [b"ab", b"cd", b"ef"]
    assert pieces(b"", 2, 0, "pairs") == []
    for count in (2, 4):
        with pytest.raises(WireError, match="6 bytes of pairs"):
            pieces(b"abcdef", 2, count, "pairs")


def test_kinds_are_distinct_and_shares_stay_out_of_reprs() -> None:
    assert len({message.KIND for message in MESSAGES}) == len(MESSAGES) == 9
    assert BOX_BYTES == 94
    assert "secret" not in repr(Unmask(Bitmap(1, 1), b"secret"))
