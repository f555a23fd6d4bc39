"""Values beside weights: everything that `torch.load(weights_only=True)` reads is read."""

import collections

import ml_dtypes
import numpy as np
import pytest

from codeformer_jax.convert import ConversionError, read_pth, select_state_dict


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
