import pickletools
import zipfile

import ml_dtypes
import numpy as np
import pytest

from codeformer_jax.convert import ConversionError, read_pth, write_pth

TREE = {
    "params_ema": {
        "transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "half": np.array([1.5, -2], np.float16),
        "bfloat": np.array([1.5, -2], ml_dtypes.bfloat16),
        "double": np.array([[1e300]]),
        "count": np.zeros((), np.int64),
        "big_endian": np.array([1, 2], ">f4"),
        "byte": np.array([0, 255], np.uint8),
        "flags": np.array([True, False]),
        "complex": np.array([1 + 2j], np.complex64),
        "empty": np.zeros((0, 3), np.float32),
    },
    "iter": -129,
    "large": 2**80,
    "others": [0, 255, 2.5, "\u03b2", None, True, False, (1, 2), []],
}


def assert_same(found, expected):
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype.newbyteorder("=")
    np.testing.assert_array_equal(found, expected)


def test_round_trip(tmp_path):
    path = tmp_path / "new" / "w.pth"
    write_pth(path, TREE)
    tree = read_pth(path)
    assert {k: v for k, v in tree.items() if k != "params_ema"} == {
        k: v for k, v in TREE.items() if k != "params_ema"
    }
    for name, expected in TREE["params_ema"].items():
        assert_same(tree["params_ema"][name], expected)
    assert [p.name for p in path.parent.iterdir()] == ["w.pth"]


def test_same_content_gives_the_same_bytes_aligned_for_mapping(tmp_path):
    (tmp_path / "b").mkdir()
    for path in (tmp_path / "w.pth", tmp_path / "b" / "w.pth"):
        write_pth(path, TREE)
    content = (tmp_path / "w.pth").read_bytes()
    assert content == (tmp_path / "b" / "w.pth").read_bytes()
    assert content.index(TREE["params_ema"]["transposed"].tobytes()) % 64 == 0
    with zipfile.ZipFile(tmp_path / "w.pth") as archive:
        assert archive.testzip() is None
        names = [op.name for op, _, _ in pickletools.genops(archive.read("w/data.pkl"))]
    assert names[-1] == "STOP"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.zeros(2, np.uint16), "an array of dtype uint16 cannot be written"),
        (np.array(["x"]), "of dtype <U1 cannot"),
        ({1, 2}, "a set cannot be written"),
    ],
)
def test_what_the_format_lacks_is_refused_and_nothing_is_lost(value, message, tmp_path):
    path = tmp_path / "w.pth"
    path.write_bytes(b"precious")
    with pytest.raises(ConversionError, match=message):
        write_pth(path, {"params": {"a": value}})
    assert path.read_bytes() == b"precious"
    assert [p.name for p in tmp_path.iterdir()] == ["w.pth"]


@pytest.mark.parametrize("mmap", [False, True])
def test_pytorch_loads_it_without_trusting_it(mmap, tmp_path):
    torch = pytest.importorskip("torch")
    write_pth(tmp_path / "w.pth", TREE)
    tree = torch.load(tmp_path / "w.pth", weights_only=True, mmap=mmap)
    assert (tree["iter"], tree["others"]) == (TREE["iter"], TREE["others"])
    for name, expected in TREE["params_ema"].items():
        tensor = tree["params_ema"][name]
        assert tensor.is_contiguous()
        if name == "bfloat":
            assert tensor.dtype == torch.bfloat16
            assert_same(tensor.float().numpy(), expected.astype(np.float32))
        else:
            assert_same(tensor.numpy(), expected)
