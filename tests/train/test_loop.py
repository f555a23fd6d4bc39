"""Whole runs: files, stages in a row, resuming, refusals that write nothing."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import tiny_config, tiny_vqvae

from codeformer_jax import convert
from codeformer_jax.checkpoints.trained import export_trained, load_teacher, load_trained
from codeformer_jax.data.images import write_image
from codeformer_jax.system import hosts
from codeformer_jax.train import loop
from codeformer_jax.train.writer import Writer


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def tree_equal(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def test_a_run_leaves_its_files(stages):
    root, scores = stages
    for stage, names in {
        "vqgan": {"loss", "l1", "perplexity", "dead_codes", "gan", "d_real", "images_per_second"},
        "code_prediction": {"loss", "cross_entropy", "accuracy", "learning_rate"},
        "restoration": {"loss", "l1", "adaptive_weight", "feature"},
    }.items():
        workdir = root / stage
        found = {p.name for p in workdir.iterdir()}
        assert {"config.json", "metrics.jsonl", "checkpoints", "images"} <= found
        assert any("tfevents" in name for name in found)
        assert sorted(p.name for p in (workdir / "images").iterdir()) == [
            f"{step:08d}.png" for step in (0, 2, 4)
        ]
        train = [line for line in lines(workdir) if "train/loss" in line]
        assert [line["step"] for line in train] == [1, 2, 3, 4]
        assert {f"train/{name}" for name in names} <= train[-1].keys()
        evals = [line for line in lines(workdir) if "eval/psnr" in line]
        assert [line["step"] for line in evals] == [0, 2, 4]
        assert evals[-1]["eval/psnr"] == scores[stage]["psnr"]
        assert json.loads((workdir / "config.json").read_text())["task"] == stage


def test_checkpoints_latest_and_best(stages):
    root, _ = stages
    latest = load_trained(root / "restoration")
    assert (latest.network, latest.step) == ("codeformer", 4)
    best = load_trained(root / "restoration", "best")
    scores = {x["step"]: x["eval/psnr"] for x in lines(root / "restoration") if "eval/psnr" in x}
    assert scores[best.step] == max(scores.values())
    assert load_trained(root / "restoration", 4).step == 4
    with pytest.raises(FileNotFoundError, match=r"has checkpoints \[.*\], not 3"):
        load_trained(root / "restoration", 3)
    with pytest.raises(ValueError, match="expected 'latest', 'best' or a step"):
        load_trained(root / "restoration", "newest")


def test_the_teacher_travels_with_the_workdir(stages):
    root, _ = stages
    teacher = load_teacher(root / "restoration")
    codes = load_trained(root / "vqgan").variables["codebook"]["quantize"]["embedding"]
    np.testing.assert_array_equal(teacher[1]["params"]["quantize"]["embedding"], codes)


def test_a_trained_network_exports_to_pytorch_names_and_back(stages):
    root, _ = stages
    trained = load_trained(root / "restoration")
    state_dict = convert.to_torch("codeformer", trained.variables)
    fields = {"norm_groups": 4, "n_head": 2, "image_size": 32}
    module, variables = convert.from_torch("codeformer", state_dict, **fields)
    assert module.connect_list == (16, 32)
    tree_equal(variables, trained.variables)


def test_export_writes_a_model_file_once(stages, tmp_path):
    root, _ = stages
    target = tmp_path / "codeformer.safetensors"
    export_trained(root / "restoration", target)
    network, _, variables = convert.load_model(target)
    assert network == "codeformer"
    tree_equal(variables, load_trained(root / "restoration").variables)
    written = target.read_bytes()
    with pytest.raises(FileExistsError, match="exists; pass --force to replace it"):
        export_trained(root / "vqgan", target)
    assert target.read_bytes() == written
    with pytest.raises(ValueError, match=r"name it codeformer\.safetensors"):
        export_trained(root / "vqgan", tmp_path / "codeformer.pth")
    assert not (tmp_path / "codeformer.pth").exists()


def test_export_in_16_bits_says_what_it_is(stages, tmp_path):
    root, _ = stages
    target = tmp_path / "half.safetensors"
    export_trained(root / "restoration", target, half=True, about={"commit": "0123abc"})
    trained = load_trained(root / "restoration")
    assert convert.read_about(target) == {"commit": "0123abc", "step": str(trained.step)}
    stored = jax.tree.map(lambda x: x.astype(jnp.float16).astype(x.dtype), trained.variables)
    tree_equal(convert.load_model(target)[2], stored)


def test_a_second_run_of_the_same_command_changes_nothing(stages, tmp_path):
    root, scores = stages
    workdir = shutil.copytree(root / "vqgan", tmp_path / "vqgan")
    before = (workdir / "metrics.jsonl").read_text()
    again = loop.train(tiny_config("vqgan"), workdir)
    assert again["psnr"] == pytest.approx(scores["vqgan"]["psnr"], abs=1e-6)
    new = (workdir / "metrics.jsonl").read_text()[len(before) :].splitlines()
    assert not any("train/loss" in line for line in new)


def test_changed_settings(stages, caplog):
    root, _ = stages
    config = tiny_config("vqgan").unlock()
    before = (root / "vqgan" / "config.json").read_bytes()
    config.model.codebook_size = 32
    with pytest.raises(ValueError, match=r"model\.codebook_size: 16 -> 32"):
        loop.train(config.lock(), root / "vqgan")
    assert (root / "vqgan" / "config.json").read_bytes() == before


def refused(tmp_path, config, message, error=ValueError):
    with pytest.raises(error, match=message):
        loop.train(config.lock(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_stage2_without_a_teacher_is_refused(tmp_path):
    config = tiny_config("code_prediction").unlock()
    refused(tmp_path, config, "learns the codes of a trained stage-I network and none was given")


@pytest.mark.slow
def test_a_refused_run_starts_once_its_settings_are_mended_on_several_devices(stages, tmp_path):
    config = tiny_config("code_prediction", steps=1).unlock()
    config.mesh = "data:2"
    config.init_from = str(stages[0] / "vqgan")
    config.teacher_min_psnr = 40.0
    refused(tmp_path, config, r"reconstructs clean images at .* dB, under the floor of 40 dB")
    config.teacher_min_psnr = 0.0
    loop.train(config, tmp_path / "run")
    assert load_trained(tmp_path / "run").step == 1


def test_a_batch_that_the_mesh_does_not_divide_is_refused(tmp_path):
    config = tiny_config("vqgan").unlock()
    config.mesh = "data:8"
    refused(tmp_path, config, r"data\.batch_size=4 does not divide over the 8 devices")


def test_a_run_with_a_value_that_is_refused_today_is_still_loaded(stages, tmp_path):
    workdir = shutil.copytree(stages[0] / "vqgan", tmp_path / "old")
    config = json.loads((workdir / "config.json").read_text())
    config["optimizer"]["clip_norm"] = -1.0
    (workdir / "config.json").write_text(json.dumps(config))
    assert load_trained(workdir).step == load_trained(stages[0] / "vqgan").step


@pytest.mark.slow
def test_images_that_break_while_training_stop_it_with_the_state_saved(tmp_path):
    for i in range(8):
        write_image(tmp_path / f"faces/{i}.png", np.full((32, 32, 3), 30 * i, np.uint8))
    config = tiny_vqvae(steps=40).unlock()
    config.data.path = str(tmp_path / "faces")
    config.data.cache = False
    config.data.heldout_fraction = 0.5
    config.data.max_unreadable = 0
    config.eval_every = config.checkpoint_every = 100
    original = Writer.train_metrics

    def spoil(self, step, metrics):
        original(self, step, metrics)
        for path in (tmp_path / "faces").iterdir():
            path.write_bytes(path.read_bytes()[:60])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Writer, "train_metrics", spoil)
        with pytest.raises(ValueError, match=r"\.png"):
            loop.train(config, tmp_path / "run")
    assert load_trained(tmp_path / "run").step >= 1


def test_a_teacher_with_another_codebook_is_refused(stages, tmp_path):
    root, _ = stages
    module, variables = load_teacher(root / "restoration")
    variables = jax.tree.map(lambda x: x, variables)
    variables["params"]["quantize"] = {
        "embedding": variables["params"]["quantize"]["embedding"] + 1
    }
    convert.save_model(tmp_path / "other.safetensors", "vqgan", module, variables)
    config = tiny_config("restoration").unlock()
    config.init_from = str(root / "code_prediction")
    config.teacher = str(tmp_path / "other.safetensors")
    refused(tmp_path, config, "the teacher's codebook is not the one of the network")


def test_stage3_from_stage1_is_refused(stages, tmp_path):
    config = tiny_config("restoration").unlock()
    config.init_from = str(stages[0] / "vqgan")
    refused(tmp_path, config, r"train stage II \(code_prediction\) first")


def test_missing_files_are_named(tmp_path):
    config = tiny_config("vqgan").unlock()
    config.init_from = str(tmp_path / "nowhere")
    refused(tmp_path, config, "nowhere does not exist: expected a model file or a workdir", OSError)
    config = tiny_config("vqgan").unlock()
    config.data.path = str(tmp_path / "faces")
    refused(tmp_path, config, "faces", OSError)
    config = tiny_config("vqgan").unlock()
    config.loss.perceptual_weight = 1.0
    refused(tmp_path, config, "needs converted LPIPS weights; make one with")
    config.loss.lpips = str(tmp_path / "lpips.safetensors")
    refused(tmp_path, config, "no LPIPS weights at", OSError)


def test_a_folder_that_is_no_workdir(tmp_path):
    with pytest.raises(FileNotFoundError, match="neither a model file nor a training workdir"):
        load_trained(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"config\.json is not the config of a training run"):
        load_trained(tmp_path)
    (tmp_path / "config.json").write_text('{"task": ')
    with pytest.raises(ValueError, match=r"config\.json is damaged"):
        load_trained(tmp_path)


def test_every_part_of_a_run_is_a_stage_with_its_own_limit(tmp_path, monkeypatch):
    stages = []
    monkeypatch.setattr(hosts, "at", stages.append)
    loop.train(tiny_vqvae(1), tmp_path)
    evaluation = ["evaluation, batch 0", "evaluation, batch 1"]
    assert stages == [
        "opening of the data",
        "start of the state",
        *("evaluation at step 0", *evaluation, "save at step 0"),
        *("reading of batch 0", "step 0"),
        *("evaluation at step 1", *evaluation, "save at step 1"),
    ]
    stages.clear()
    loop.train(tiny_vqvae(1), tmp_path)
    assert stages[:3] == ["opening of the data", "start of the state", "restoration of the state"]
