"""Model files and PyTorch files in a bucket."""

import jax
import numpy as np
import pytest

from codeformer_jax.convert import (
    ConversionError,
    ModelFileError,
    convert_file,
    load_model,
    read_about,
    read_pth,
    save_model,
    verify,
    write_pth,
)
from codeformer_jax.convert.networks import expected_variables
from codeformer_jax.nn import PatchDiscriminator
from codeformer_jax.system.hashes import file_sha256
from codeformer_jax.system.storage import to_path


@pytest.fixture
def source(bucket, table_of):
    """A discriminator's `.pth`."""
    write_pth(f"{bucket}/weights.pth", {"params_d": table_of("discriminator_0")})
    return f"{bucket}/weights.pth"


def test_there_and_back(source, bucket, object_store, tmp_path):
    summary = convert_file(source, f"{bucket}/models/")
    assert str(summary.target) == f"{bucket}/models/weights.safetensors"
    assert f"{source} -> {bucket}/models/weights.safetensors" in str(summary)
    network, module, variables = load_model(summary.target)
    save_model(tmp_path / "local.safetensors", network, module, variables)
    assert file_sha256(summary.target) == file_sha256(tmp_path / "local.safetensors")
    back = convert_file(summary.target, f"{bucket}/back", to_torch=True)
    found, expected = read_pth(f"{bucket}/back.pth")["params_d"], read_pth(source)["params_d"]
    assert str(back.target) == f"{bucket}/back.pth"
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    names = ["back.pth", "models/weights.safetensors", "weights.pth"]
    assert object_store.names(bucket) == names


def test_what_stands_in_the_way_stays(source, bucket):
    convert_file(source, f"{bucket}/model")
    with pytest.raises(FileExistsError, match=f"{bucket}/model.safetensors: exists"):
        convert_file(source, f"{bucket}/model")
    convert_file(source, f"{bucket}/model", force=True)
    with pytest.raises(ConversionError, match="the same file"):
        convert_file(f"{bucket}/model.safetensors", f"{bucket}/model.safetensors")
    with pytest.raises(FileNotFoundError, match=f"{bucket}/none.pth: no such file"):
        convert_file(f"{bucket}/none.pth", f"{bucket}/other")
    with pytest.raises(FileNotFoundError, match=f"{bucket}/none.safetensors does not exist"):
        load_model(f"{bucket}/none.safetensors")


def test_a_damaged_file_is_named(source, bucket):
    convert_file(source, f"{bucket}/model")
    path = to_path(f"{bucket}/model.safetensors")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ModelFileError, match=f"{path}: not a safetensors file, or damaged"):
        load_model(path)
    with pytest.raises(ModelFileError, match="this is a PyTorch file"):
        load_model(source)


def test_notes_and_checksum(bucket):
    module = PatchDiscriminator(ndf=4, n_layers=2)
    expected = expected_variables("discriminator", module)
    variables = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), expected)
    save_model(f"{bucket}/m.safetensors", "discriminator", module, variables, about={"a": "b"})
    assert read_about(f"{bucket}/m.safetensors") == {"a": "b"}
    assert str(verify(f"{bucket}/m.safetensors")).startswith("unverified")
