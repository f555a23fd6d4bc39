"""Files made to exhaust memory or time are refused, cheaply."""

import pickle
import tracemalloc
import zipfile

import pytest
from convert.pickles import GRID, tensor_pickle

from codeformer_jax.convert import PthError, read_pth


def pickled(value):
    """Opcodes of a value, to be put into others."""
    return pickle.dumps(value, 2)[2:-1]


def many_views(count):
    """A list of `count` tensors, each of them the whole of one storage."""
    tensor = tensor_pickle(count=2**18, size=(2**18,), stride=(1,))[2:-1]
    return b"\x80\x02](" + tensor * count + b"e."


STORED_MEBIBYTE = [bytes(2**20)]
LIST = b"](" + b"K\x01" * 5000 + b"eq\x00"
BOMBS = {
    "stride 0": (tensor_pickle(count=1, size=(2**27,), stride=(0,)), [bytes(4)]),
    "overlap": (tensor_pickle(count=2**13, size=(2**12, 2**12), stride=(1, 1)), [bytes(2**15)]),
    "many views": (many_views(100), STORED_MEBIBYTE),
    "sets": (b"\x80\x02(" + LIST + b"c__builtin__\nset\nh\x00\x85R" * 1000 + b"t.", []),
    "counters": (
        b"\x80\x02(" + pickled(dict.fromkeys(range(2000), 1)) + b"q\xff"
        b"ccollections\nCounter\nh\xff\x85R" * 500 + b"t.",
        [],
    ),
    "bytes": (
        b"\x80\x02(" + pickled("x" * 100_000) + b"q\xff"
        b"c_codecs\nencode\nh\xffX\x06\x00\x00\x00latin1\x86R" * 3000 + b"t.",
        [],
    ),
    "hashing": (b"\x80\x02}K\x01" + b"q\x00h\x00\x86" * 60 + b"Ns.", []),
    "message": (b"\x80\x02K\x01" + b"q\x00h\x00\x86" * 60 + b"Q.", []),
    "deep hash": (b"\x80\x02}K\x01" + b"\x85" * 100_000 + b"Ns.", []),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_memory_and_time_are_bounded_by_what_the_file_holds(kind, make_pth):
    path = make_pth(*BOMBS[kind])
    tracemalloc.start()
    with pytest.raises(PthError):
        read_pth(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**25 + 32 * path.stat().st_size


@pytest.mark.parametrize("member", ["byteorder", "data.pkl", "data/0"])
def test_compressed_members_are_refused_before_they_grow(member, make_pth):
    path = make_pth(b"", extra=[])
    contents = {"data.pkl": tensor_pickle(), "data/0": GRID.tobytes(), "byteorder": b"little"}
    contents[member] += bytes(2**26)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents.items():
            kind = zipfile.ZIP_DEFLATED if name == member else zipfile.ZIP_STORED
            archive.writestr(f"made/{name}", content, kind)
    del contents
    tracemalloc.start()
    with pytest.raises(PthError, match=f"'{member}' is compressed"):
        read_pth(path)
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


def test_members_that_lie_over_each_other_are_refused(make_pth):
    path = make_pth(tensor_pickle(), [GRID.tobytes()])
    whole = path.read_bytes()
    entry = whole.index(b"PK\x01\x02", whole.rindex(b"made/data/0") - 60)
    # The central directory says that the storage is larger than the file.
    size = (2**30).to_bytes(4, "little")
    path.write_bytes(whole[: entry + 20] + size + size + whole[entry + 28 :])
    with pytest.raises(PthError, match="larger than the file"):
        read_pth(path)


def test_a_legacy_file_reserves_no_more_than_it_has(tmp_path):
    path = tmp_path / "long.pth"
    path.write_bytes(b"\x80\x02\x8b" + (2**30).to_bytes(4, "little"))  # LONG4 of 2**30 bytes
    tracemalloc.start()
    with pytest.raises(PthError, match="truncated or corrupt: 1073741824 bytes of a file of 7"):
        read_pth(path)
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()
