"""Traces whose weights, inputs and reports lie in a bucket."""

import jax
import numpy as np
import pytest

from codeformer_jax.cli import main
from codeformer_jax.compare.inputs import read_images, save_inputs
from codeformer_jax.compare.trace import TraceError, load
from codeformer_jax.convert import save_model
from codeformer_jax.convert.networks import expected_variables
from codeformer_jax.nn import PatchDiscriminator
from codeformer_jax.system.storage import to_path


def test_trace_and_compare(bucket, object_store, capsys):
    module = PatchDiscriminator(ndf=4, n_layers=2)
    images = np.random.default_rng(0).uniform(-1, 1, (1, 32, 32, 3)).astype(np.float32)
    expected = expected_variables("discriminator", module)
    variables = jax.tree.map(lambda x: np.ones(x.shape, x.dtype) / 10, expected)
    save_model(f"{bucket}/model.safetensors", "discriminator", module, variables)
    save_inputs(f"{bucket}/x.npy", [images])
    np.testing.assert_array_equal(read_images(f"{bucket}/x.npy"), images)
    model, given, a, b = (f"{bucket}/{n}" for n in ("model.safetensors", "x.npy", "a", "b"))
    assert main(["trace", model, given, "-o", a, "--save-input", f"{bucket}/y.npy"]) == 0
    assert main(["trace", model, given, "-o", a]) == 2
    assert f"{a}: exists; pass --force" in capsys.readouterr().err
    assert main(["trace", model, given, "-o", b]) == 0
    assert load(a).source["weights"] == model
    assert main(["compare", a, b, "-o", f"{bucket}/report.html"]) == 0
    names = ["a", "b", "model.safetensors", "report.html", "x.npy", "y.npy"]
    assert object_store.names(bucket) == names
    assert object_store.read(f"{bucket}/y.npy") == object_store.read(given)
    to_path(a).write_bytes(to_path(a).read_bytes()[:-8])
    with pytest.raises(TraceError, match=f"{a}: not a trace, or a truncated file"):
        load(a)


def test_the_script_of_pytorch_is_written_once(bucket, object_store, capsys):
    target = f"{bucket}/trace_torch.py"
    for code in (0, 2):
        with pytest.raises(SystemExit) as ended:
            main(["trace", "--torch-script", target])
        assert ended.value.code == code
    assert f"{target} exists" in capsys.readouterr().err
    assert b"import torch" in object_store.read(target)
