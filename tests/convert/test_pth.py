"""`.pth` files: the fixtures in data/ were written by PyTorch 2.13 in both of its formats."""

import os
import pickle
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from convert.pickles import GRID, tensor_pickle

from codeformer_jax.convert import (
    ConversionError,
    PthError,
    UnsafePickleError,
    read_pth,
    select_state_dict,
)

DATA = Path(__file__).parent / "data"
FORMATS = ["zip.pth.bin", "legacy.pth.bin"]
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
    for length in range(0, len(whole) - 1, 29):
        path.write_bytes(whole[:length])
        with pytest.raises(PthError, match=r"cut\.pth: "):
            read_pth(path)


@pytest.mark.parametrize("name", FORMATS)
def test_damage_never_raises_anything_else(name, tmp_path):
    whole = (DATA / name).read_bytes()
    path = tmp_path / "damaged.pth"
    rng = np.random.RandomState(0)
    refused = 0
    for _ in range(120):
        damaged = bytearray(whole)
        damaged[rng.randint(len(whole))] = rng.randint(256)
        path.write_bytes(damaged)
        try:
            read_pth(path)
        except PthError as error:
            refused += str(error).startswith(str(path))
    assert refused > 20


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


def test_hand_made_tensor_reads(make_pth):
    path = make_pth(tensor_pickle(size=(3, 2), stride=(1, 3)), [GRID.tobytes()])
    np.testing.assert_array_equal(read_pth(path), GRID.T)
    # An expanded tensor has stride 0: one stored value, many times.
    path = make_pth(tensor_pickle(count=1, size=(1000, 1000), stride=(0, 0)), [b"\0\0\x80\x3f"])
    assert read_pth(path).shape == (1000, 1000)
    big = make_pth(
        tensor_pickle(), [GRID.astype(">f4").tobytes()], extra=[("made/byteorder", b"big")]
    )
    with pytest.raises(PthError, match="big-endian"):
        read_pth(big)


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
