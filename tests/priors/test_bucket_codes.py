"""Codes and sampled pictures in a bucket."""

import numpy as np
import pytest
from encoding import Breaking, faces, run_encode

from codeformer_jax.checkpoints.teachers import teacher_of
from codeformer_jax.checkpoints.trained import load_trained
from codeformer_jax.data.precomputed_codes import Codes
from codeformer_jax.priors.outputs import Outputs, plan_outputs, write_outputs
from codeformer_jax.system.storage import to_path


def test_codes_are_those_on_disk(stages, bucket, object_store, tmp_path):
    workdir = stages[0] / "vqgan"
    teacher = teacher_of(load_trained(workdir), workdir)
    target = f"{bucket}/codes"
    with pytest.raises(ValueError, match="broken"):
        run_encode(Breaking(faces(6), 5), target, teacher)
    assert object_store.names(target) == []
    run_encode(faces(6), target, teacher)
    run_encode(faces(6), tmp_path / "codes", teacher)
    for name in ("codes.json", "codes.npy"):
        assert object_store.read(f"{target}/{name}") == (tmp_path / "codes" / name).read_bytes()
    with pytest.raises(FileExistsError, match=f"{target}: exists; pass --force"):
        run_encode(faces(6), target, teacher)
    (to_path(target) / "codes.json").unlink()  # As a killed call leaves it.
    run_encode(faces(6), target, teacher, force=True)
    assert len(Codes(target)) == 6
    (to_path(bucket) / "other" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="holds no codes"):
        run_encode(faces(6), f"{bucket}/other", teacher, force=True)


def test_samples(bucket, object_store):
    def write(number, force=False):
        pictures = np.zeros((number, 8, 8, 3), np.uint8)
        outputs = plan_outputs(f"{bucket}/samples.png", force)
        write_outputs(outputs, pictures[0], pictures, {"codes": np.arange(3)}, force)
        return outputs

    sheet, codes, folder = (to_path(bucket) / f"samples{x}" for x in (".png", ".npz", ""))
    assert write(3) == Outputs(sheet, codes, folder)
    with pytest.raises(FileExistsError, match=f"{sheet}: exists; pass --force"):
        write(3)
    write(1, force=True)
    assert object_store.names(bucket) == ["samples.npz", "samples.png", "samples/0000.png"]
    (folder / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"would replace '.*mine.txt', which is another file"):
        write(1, force=True)
