"""Runs with codes computed once: the losses of runs without, and refusals that write nothing."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from tiny import stage_config, tiny_config

from codeformer_jax import convert
from codeformer_jax.checkpoints.teachers import teacher_of
from codeformer_jax.checkpoints.trained import load_trained
from codeformer_jax.data.precomputed_codes import Codes, CodesError, write_codes
from codeformer_jax.data.synthetic import SyntheticFaces
from codeformer_jax.priors import encode
from codeformer_jax.train import loop


@pytest.fixture(scope="module")
def root(stages, tmp_path_factory):
    """Workdirs of stage I, `vqgan`, and II, and the codes of what they were trained on, `codes`."""
    root = tmp_path_factory.mktemp("runs")
    for stage in ("vqgan", "code_prediction"):
        (root / stage).symlink_to(stages[0] / stage)
    encode.encode_dataset(root / "vqgan", root / "codes", mesh="data:1")
    return root


def config_with(root):
    config = stage_config("code_prediction", str(root / "vqgan")).unlock()
    config.data.codes = str(root / "codes")
    return config


def losses(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    clocks = ("per_second", "seconds", "share")
    return [{k: v for k, v in line.items() if not k.endswith(clocks)} for line in lines]


@pytest.mark.slow
def test_a_run_with_codes_has_the_losses_of_one_without(root, tmp_path):
    loop.train(config_with(root), tmp_path / "with")
    wanted, found = losses(root / "code_prediction"), losses(tmp_path / "with")
    assert [line["step"] for line in wanted] == [line["step"] for line in found]
    assert {"train/accuracy", "train/feature"} <= wanted[1].keys()
    for one, other in zip(wanted, found, strict=True):
        assert one == pytest.approx(other, rel=1e-4)
    # A second run knows its teacher from the workdir alone.
    config = config_with(root)
    config.init_from = None
    loop.train(config, tmp_path / "with")
    assert [x for x in losses(tmp_path / "with") if "train/loss" in x] == [
        x for x in found if "train/loss" in x
    ]


def refused(tmp_path, config, message, error=CodesError):
    with pytest.raises(error, match=message):
        loop.train(config.lock(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_codes_of_another_network_are_refused(root, tmp_path):
    module, variables = teacher_of(load_trained(root / "vqgan"), root / "vqgan")
    other = jax.tree.map(np.array, variables)
    other["params"]["encoder"]["blocks_0"]["bias"][0] += 1e-3
    source = SyntheticFaces("train", 32, 32)
    encode.encode_source(source, tmp_path / "codes", module, other, described="", mesh="data:1")
    config = config_with(root)
    config.data.codes = str(tmp_path / "codes")
    refused(tmp_path, config, r"SHA-256 of its encoder.* is .*that of the run's teacher .*Encode w")
    # The same codes serve the run that this network teaches.
    convert.save_model(tmp_path / "other.safetensors", "vqgan", module, other)
    config.init_from = str(tmp_path / "other.safetensors")
    config.steps = 1
    loop.train(config.lock(), tmp_path / "run")


def described_as(root, tmp_path, **changes):
    """The folder of codes, written again with another description and codes to match."""
    codes = Codes(root / "codes")
    about = dataclasses.replace(codes.description, **changes)
    directory = tmp_path / "codes"
    directory.mkdir()
    write_codes(directory, about, [codes[index][None] for index in range(about.number)])
    return str(directory)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 64}, "its image size is 64, that of the run's teacher 32"),
        (
            {"grid": (8, 32)},
            r"its grid of codes is \(8, 32\), that of the run's teacher \(16, 16\)",
        ),
        ({"codebook_size": 32}, "its codebook size is 32, that of the run's teacher 16"),
        ({"fingerprint": "0" * 64}, "its network .* is 00000.*codeformer-jax encode CHECKPOINT"),
        ({"number": 31}, "codes of 31 images of 'synthetic faces', and the data have 32 images"),
    ],
)
def test_codes_that_do_not_fit_are_refused(root, tmp_path, changes, message):
    config = config_with(root)
    config.data.codes = described_as(root, tmp_path, **changes)
    refused(tmp_path, config, message)


def test_codes_of_other_images_are_refused(root, tmp_path):
    config = config_with(root)
    config.data.seed = 1
    refused(tmp_path, config, "not all with the same names and files")


def test_missing_or_damaged_codes_are_refused(root, tmp_path):
    config = config_with(root)
    config.data.codes = str(tmp_path / "none")
    refused(tmp_path, config, "no codes in ", FileNotFoundError)
    config.data.codes = described_as(root, tmp_path)
    array = tmp_path / "codes" / "codes.npy"
    array.write_bytes(array.read_bytes()[:-100])
    refused(tmp_path, config, "is damaged")
    (tmp_path / "codes" / "codes.json").write_text("{")
    refused(tmp_path, config, "cannot be used")


def test_a_task_without_a_teacher_takes_no_codes(root, tmp_path):
    config = tiny_config("vqgan").unlock()
    config.data.codes = str(root / "codes")
    refused(tmp_path, config, "task 'vqgan' learns no codes", ValueError)
