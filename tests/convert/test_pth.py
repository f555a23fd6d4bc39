"""`.pth` files: the fixtures in data/ were written by PyTorch 2.13 in both of its formats."""

import collections
import os
import pickle
import tracemalloc
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from codeformer_jax.convert import (
    ConversionError,
    PthError,
    UnsafePickleError,
    read_pth,
    select_state_dict,
)

DATA = Path(__file__).parent / "data"
FORMATS = ["zip.pth.bin", "legacy.pth.bin"]
GRID = np.arange(6, dtype=np.float32).reshape(2, 3)
EXPECTED = {
    "transposed": GRID.T,
    "row": GRID[1, 1:],
    "half": GRID[0].astype(np.float16),
    "bfloat": GRID[0].astype(ml_dtypes.bfloat16),
    "double": GRID[:, 0].astype(np.float64),
    "count": np.array(7, np.int64),
    "int32": np.array([-1, 2], np.int32),
    "byte": np.array([0, 255], np.uint8),
    "flags": np.array([True, False]),
    "parameter": np.array([0.5], np.float32),
    "empty": np.zeros((0, 3), np.float32),
}
LEGACY_HEAD = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]


@pytest.mark.parametrize("name", FORMATS)
def test_reads_what_pytorch_wrote(name):
    tree = read_pth(DATA / name)
    assert {k: tree[k] for k in ("iter", "note", "lr")} == {
        "iter": 40000,
        "note": "x",
        "lr": [1e-4, 0.5],
    }
    assert list(tree["params_ema"]) == list(EXPECTED)
    for key, expected in EXPECTED.items():
        found = tree["params_ema"][key]
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape), key
        np.testing.assert_array_equal(found, expected, err_msg=key)


@pytest.mark.parametrize("name", FORMATS)
def test_every_truncation_is_an_error_that_names_the_file(name, tmp_path):
    whole = (DATA / name).read_bytes()
    path = tmp_path / "cut.pth"
    for length in range(0, len(whole) - 1, 13):
        path.write_bytes(whole[:length])
        with pytest.raises(PthError, match=r"cut\.pth: "):
            read_pth(path)


@pytest.mark.parametrize("name", FORMATS)
def test_damage_never_raises_anything_else(name, tmp_path):
    whole = (DATA / name).read_bytes()
    path = tmp_path / "damaged.pth"
    rng = np.random.RandomState(0)
    refused = 0
    for _ in range(200):
        damaged = bytearray(whole)
        damaged[rng.randint(len(whole))] = rng.randint(256)
        path.write_bytes(damaged)
        try:
            read_pth(path)
        except PthError as error:
            refused += str(error).startswith(str(path))
    assert refused > 30


def test_flipped_weights_in_an_archive_are_noticed(tmp_path):
    whole = bytearray((DATA / "zip.pth.bin").read_bytes())
    whole[whole.index(GRID.tobytes())] ^= 1
    path = tmp_path / "flipped.pth"
    path.write_bytes(whole)
    with pytest.raises(PthError, match="CRC"):
        read_pth(path)


class _Malicious:
    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


def _malicious_objects(marker):
    return {
        "system": _Malicious(os.system, f"touch {marker}"),
        "eval": _Malicious(eval, f"open({str(marker)!r}, 'w')"),
        "nested": {"params": [1, _Malicious(open, str(marker), "w")]},
        "getattr": _Malicious(getattr, "x", "upper"),
    }


@pytest.mark.parametrize("kind", ["system", "eval", "nested", "getattr"])
@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_pickle_is_refused_and_does_not_run(kind, legacy, tmp_path, make_pth):
    marker = tmp_path / "was_run"
    pickled = pickle.dumps(_malicious_objects(marker)[kind], protocol=2)
    if legacy:
        path = tmp_path / "made.pth"
        path.write_bytes(b"".join(pickle.dumps(x, 2) for x in LEGACY_HEAD) + pickled)
    else:
        path = make_pth(pickled)
    with pytest.raises(UnsafePickleError, match=r"made\.pth: refused: the pickle names '\w+\.\w+'"):
        read_pth(path)
    assert not marker.exists()
    # The same bytes do run where nobody looks at them: the refusal is what stopped them.
    if kind == "system":
        pickle.loads(pickled)
        assert marker.exists()


def test_code_in_a_legacy_header_is_refused(tmp_path):
    path = tmp_path / "header.pth"
    path.write_bytes(pickle.dumps(_Malicious(os.system, f"touch {tmp_path}/was_run"), 2))
    with pytest.raises(UnsafePickleError, match="system"):
        read_pth(path)
    assert not (tmp_path / "was_run").exists()


def tensor_pickle(storage="FloatStorage", count=6, offset=0, size=(2, 3), stride=(3, 1)):
    """Pickle of one tensor over storage '0', in opcodes."""

    def number(n):
        return b"J" + int(n).to_bytes(4, "little", signed=True)

    def sequence(items):
        return b"(" + b"".join(map(number, items)) + b"t"

    persistent = (
        b"(X\x07\x00\x00\x00storagectorch\n"
        + storage.encode()
        + b"\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
        + number(count)
        + b"tQ"
    )
    return (
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n("
        + persistent
        + number(offset)
        + sequence(size)
        + sequence(stride)
        + b"\x89}tR."
    )


def test_hand_made_tensor_reads(make_pth):
    path = make_pth(tensor_pickle(size=(3, 2), stride=(1, 3)), [GRID.tobytes()])
    np.testing.assert_array_equal(read_pth(path), GRID.T)
    # An expanded tensor has stride 0: one stored value, many times.
    path = make_pth(tensor_pickle(count=1, size=(1000, 1000), stride=(0, 0)), [b"\0\0\x80\x3f"])
    assert read_pth(path).shape == (1000, 1000)
    big = make_pth(
        tensor_pickle(), [GRID.astype(">f4").tobytes()], extra=[("made/byteorder", b"big")]
    )
    np.testing.assert_array_equal(read_pth(big), GRID)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"offset": 1}, "reaches outside its storage of 6 elements"),
        ({"size": (3, 3)}, "reaches outside"),
        ({"stride": (3, 2)}, "reaches outside"),
        ({"stride": (-3, 1)}, "stride"),
        ({"offset": -1}, "offset -1"),
        ({"size": (6,)}, "stride"),
        ({"count": 7}, "24 bytes; expected 7 x 4"),
        ({"count": -1}, "a storage described as"),
        ({"storage": "DoubleStorage"}, "24 bytes; expected 6 x 8"),
        ({"storage": "QInt9Storage"}, r"'torch\.QInt9Storage'"),
    ],
)
def test_tensors_outside_their_storage_are_refused(change, message, make_pth):
    with pytest.raises(PthError, match=message):
        read_pth(make_pth(tensor_pickle(**change), [GRID.tobytes()]))


def test_odd_archives_are_refused(make_pth):
    with pytest.raises(PthError, match="storage '0' is not in the archive"):
        read_pth(make_pth(tensor_pickle()))
    with pytest.raises(PthError, match="compressed"):
        read_pth(make_pth(tensor_pickle(), [GRID.tobytes()], compression=zipfile.ZIP_DEFLATED))
    with pytest.raises(UnsafePickleError, match="not a storage"):
        read_pth(make_pth(b"\x80\x02X\x01\x00\x00\x00xQ."))
    with pytest.raises(UnsafePickleError, match="sets attributes"):
        read_pth(make_pth(b"\x80\x02ctorch._utils\n_rebuild_parameter\n}b."))
    with pytest.raises(PthError, match="KeyError"):
        # An extension code: an opcode that no tensor takes.
        read_pth(make_pth(b"\x80\x02\x82\x01."))
    with pytest.raises(UnsafePickleError, match="_StorageType, which is not data"):
        read_pth(make_pth(b"\x80\x02ctorch\nFloatStorage\n."))


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
        b"ccollections\nCounter\nh\xff\x85R" * 5000 + b"t.",
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


def kept_by_pytorch(torch):
    """Values that `torch.load(weights_only=True)` reads, and what they become here."""
    ones = torch.ones(2)
    tagged, parameter = torch.ones(2), torch.nn.Parameter(torch.ones(2))
    tagged.tag, parameter.tag = "x", "x"
    array = np.ones(2, np.float32)
    return {
        "counter": (collections.Counter({40_000: 1}), {40_000: 1}),
        "size": (torch.Size([1, 2]), (1, 2)),
        "dtype": (torch.bfloat16, "torch.bfloat16"),
        "device": (torch.device("cuda:1"), "cuda:1"),
        "plain device": (torch.device("cpu"), "cpu"),
        "layout": (torch.strided, "torch.strided"),
        "class": (torch.Tensor, "torch.Tensor"),
        "set": ({1, "a"}, {1, "a"}),
        "empty set": (set(), set()),
        "complex": (1 + 2j, 1 + 2j),
        "bytes": (b"a\xff", b"a\xff"),
        "bytearray": (bytearray(b"a\xff"), b"a\xff"),
        "float keys": ({0.5: 1}, {0.5: 1}),
        "tuple keys": ({(1, "a", (2.5, None)): 1}, {(1, "a", (2.5, None)): 1}),
        "tagged tensor": (tagged, array),
        "tagged parameter": (parameter, array),
        "transposed": (torch.ones(2, 3, dtype=torch.complex64).T, np.ones((3, 2), np.complex64)),
        "sparse": (torch.eye(2).to_sparse(), "sparse tensor"),
        "meta": (torch.ones(2, device="meta"), "meta tensor"),
        **{
            name: (ones.to(getattr(torch, name)), np.ones(2, getattr(ml_dtypes, name, name)))
            for name in ("uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2")
        },
        "float8_e8m0fnu": (
            ones.to(torch.float8_e8m0fnu),
            np.ones(2, ml_dtypes.float8_e8m0fnu),
        ),
    }


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("legacy", [False, True])
def test_what_pytorchs_safe_loader_keeps_beside_weights_is_read(legacy, tmp_path):
    torch = pytest.importorskip("torch")
    for kind, (value, expected) in kept_by_pytorch(torch).items():
        path = tmp_path / f"{kind}.pth"
        tree = {"optimizer": {"state": value}, "params": {"a": torch.arange(3.0)}}
        torch.save(tree, path, _use_new_zipfile_serialization=not legacy)
        if not legacy:
            torch.load(path, weights_only=True)
        tree = read_pth(path)
        np.testing.assert_array_equal(select_state_dict(tree)["a"], np.arange(3, dtype="f4"))
        found = tree["optimizer"]["state"]
        if isinstance(expected, np.ndarray):
            assert (found.dtype, found.shape) == (expected.dtype, expected.shape), kind
            np.testing.assert_array_equal(found, expected, err_msg=kind)
        else:
            assert found == expected, kind


def test_a_scheduler_and_an_optimizer_are_read(tmp_path):
    torch = pytest.importorskip("torch")
    module = torch.nn.Linear(2, 2)
    optimizer = torch.optim.Adam(module.parameters())
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 3, 5])
    tree = {"params": module.state_dict(), "s": scheduler.state_dict(), "o": optimizer.state_dict()}
    torch.save(tree, tmp_path / "training.pth")
    assert read_pth(tmp_path / "training.pth")["s"]["milestones"] == {3: 2, 5: 1}


def test_a_tensor_that_numpy_lacks_is_named(make_pth):
    content = b"\x80\x02}X\x01\x00\x00\x00actorch._utils\n_rebuild_sparse_tensor\n)Rs."
    with pytest.raises(ConversionError, match=r"the file has 'a' \(sparse tensor\)"):
        select_state_dict(read_pth(make_pth(content)))


def test_containers_without_end_are_refused(make_pth):
    cycle = []
    cycle.append(cycle)
    with pytest.raises(PthError, match="nested more than 50 deep"):
        read_pth(make_pth(pickle.dumps(cycle, 2)))
    doubled = [0]
    for _ in range(40):
        doubled = [doubled, doubled]
    assert len(read_pth(make_pth(pickle.dumps(doubled, 2)))) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"\x89PNG\r\n\x1a\n", "not a PyTorch file"),
        (pickle.dumps({"a": 1}), "not one that PyTorch wrote"),
        (pickle.dumps(LEGACY_HEAD[0], 2) + pickle.dumps(1000, 2), "protocol version 1000"),
    ],
)
def test_other_files_are_named_and_described(content, message, tmp_path):
    path = tmp_path / "other.pth"
    path.write_bytes(content)
    with pytest.raises(PthError, match=rf"other\.pth: .*{message}"):
        read_pth(path)


def test_zip_of_something_else(tmp_path):
    path = tmp_path / "other.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(PthError, match=r"without 'data\.pkl'"):
        read_pth(path)
    with pytest.raises(FileNotFoundError):
        read_pth(tmp_path / "none.pth")


def test_select_state_dict():
    a, b = {"a": GRID}, {"b": GRID}
    assert select_state_dict({"params": b, "params_ema": a, "iter": 1}) == a
    assert select_state_dict({"params": b, "params_ema": a}, "params") == b
    assert select_state_dict({"params_d": b}) == b
    assert select_state_dict({"state_dict": b, "epoch": 3}) == b
    assert select_state_dict(a) == a
    with pytest.raises(ConversionError, match=r"under 'x'; the file has 'params' \(dict of 1\)"):
        select_state_dict({"params": b}, "x")
    with pytest.raises(ConversionError, match=r"'model' \(dict of 1\), 'epoch' \(int\)"):
        select_state_dict({"model": b, "epoch": 3})
    with pytest.raises(ConversionError, match="holds a list"):
        select_state_dict([1])
    with pytest.raises(ConversionError, match="the file has nothing"):
        select_state_dict({})


@pytest.mark.parametrize("legacy", [False, True])
def test_reads_what_the_installed_pytorch_writes(legacy, tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "torch.pth"
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    torch.save(module.state_dict(), path, _use_new_zipfile_serialization=not legacy)
    table = read_pth(path)
    assert list(table) == list(module.state_dict())
    for name, tensor in module.state_dict().items():
        np.testing.assert_array_equal(table[name], tensor.numpy())
