"""Whole runs: evaluation, export, restoration, and the errors that a user sees."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from launching import with_devices
from parity import support
from tiny import tiny_config

from codeformer_jax import cli, convert, demo
from codeformer_jax.checkpoints.trained import load_teacher, load_trained
from codeformer_jax.convert import read_pth, write_pth
from codeformer_jax.data.images import read_image, resize_image, write_image
from codeformer_jax.evaluate import evaluate, evaluator, plain_text
from codeformer_jax.evaluate.make_testset import make_testset
from codeformer_jax.evaluate.own_config import own_config
from codeformer_jax.evaluate.run import evaluate_run
from codeformer_jax.priors import encode
from codeformer_jax.restore import Restorer, restorer, samples
from codeformer_jax.restore.fit import fit
from configs import vqgan

ROOT = Path(__file__).resolve().parents[2]
HELDOUT, TOKENS = 6, 16 * 16


@pytest.fixture(scope="module")
def reconstruction(runs):
    return evaluate_run(tiny_config("vqgan"), runs / "vqgan")


def same_scores(a, b):
    assert list(a) == list(b)
    for row in a:
        for metric in ("psnr", "ssim"):
            np.testing.assert_allclose(a[row][metric], b[row][metric], rtol=1e-4, atol=1e-5)


def script(*arguments):
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env=with_devices(1),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_a_vqgan_is_scored_by_its_reconstructions(runs, reconstruction):
    assert list(reconstruction.scores) == ["reconstruction"]
    assert reconstruction.scores["reconstruction"]["psnr"].shape == (HELDOUT,)
    assert reconstruction.codes == {}
    assert reconstruction.code_counts["network"].sum() == HELDOUT * TOKENS
    logged = [json.loads(x) for x in (runs / "vqgan" / "metrics.jsonl").read_text().splitlines()]
    in_training = [line["eval/psnr"] for line in logged if "eval/psnr" in line][-1]
    psnr = reconstruction.means()["reconstruction"]["psnr"]
    assert psnr == pytest.approx(in_training, abs=1e-3)


def test_a_codeformer_is_scored_beside_its_input_and_teacher(restoration, reconstruction):
    evaluation = restoration
    assert list(evaluation.scores) == ["input", "w=0", "w=0.5", "w=1", "teacher"]
    assert set(evaluation.codes) == {"code_accuracy", "code_cross_entropy"}
    assert evaluation.codes["code_accuracy"].shape == (HELDOUT,)
    assert {n: int(c.sum()) for n, c in evaluation.code_counts.items()} == {
        "predicted": HELDOUT * TOKENS,
        "teacher": HELDOUT * TOKENS,
    }
    clean = reconstruction.scores["reconstruction"]
    same_scores({"teacher": evaluation.scores["teacher"]}, {"teacher": clean})
    psnr = {name: score["psnr"] for name, score in evaluation.means().items()}
    assert len(set(psnr.values())) == 5
    assert json.loads(evaluation.to_json())["settings"]["images"] == HELDOUT


@pytest.mark.slow
def test_an_exported_network_scores_as_its_run(runs, restoration):
    config = tiny_config("restoration").unlock()
    alone = evaluate_run(config, runs / "codeformer.safetensors")
    same_scores(alone.scores, {k: v for k, v in restoration.scores.items() if k != "teacher"})
    assert alone.codes == {}
    config.teacher = str(runs / "restoration")
    taught = evaluate_run(config, runs / "codeformer.safetensors")
    same_scores(taught.scores, restoration.scores)
    np.testing.assert_allclose(
        taught.codes["code_accuracy"], restoration.codes["code_accuracy"], atol=1e-3
    )


def test_a_folder_of_images_may_be_given(runs, tmp_path):
    for i in range(3):
        write_image(tmp_path / f"{i}.png", np.full((40, 40, 3), 60 * i, np.uint8))
    config = tiny_config("vqgan").unlock()
    config.eval.path, config.eval.limit = str(tmp_path), 2
    evaluation = evaluate_run(config, runs / "vqgan")
    assert [Path(name).name for name in evaluation.names] == ["0.png", "1.png"]
    assert evaluation.settings["image_size"] == [32, 32]


def test_st_lpips_has_its_own_setting_and_name(runs, tmp_path):
    file = str(tmp_path / "st_lpips.safetensors")
    convert.save_model(file, "st_lpips", *support.seeded_st_lpips(support.load("st_lpips_alex")))
    config = tiny_config("vqgan").unlock()
    config.eval.limit, config.eval.st_lpips = 2, file
    evaluation = evaluate_run(config, runs / "vqgan")
    scores = evaluation.scores["reconstruction"]
    assert (scores["st_lpips"] > 0).all()
    assert "lpips" not in scores
    assert "ST-LPIPS" in plain_text(evaluation)
    config.eval.st_lpips, config.eval.lpips = None, file
    with pytest.raises(ValueError, match="holds a st_lpips; expected weights of lpips"):
        evaluate_run(config, runs / "vqgan")


@pytest.fixture(scope="module")
def testset(tmp_path_factory):
    root = tmp_path_factory.mktemp("testset")
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 256, (4, 4, 3), np.uint8)
        write_image(root / "gt" / f"{i}.png", resize_image(pixels, 32))
    return make_testset([root / "gt"], root / "set", size=32, seed=5)


def test_a_test_set_is_scored_as_it_is_stored(runs, testset):
    config = tiny_config("restoration").unlock()
    config.eval.testset = str(testset.root)
    evaluation = evaluate_run(config, runs / "restoration")
    trained = load_trained(runs / "restoration")
    by_hand = evaluate(
        trained.module,
        trained.variables,
        [testset[i] for i in range(3)],
        teacher=load_teacher(runs / "restoration"),
        batch_size=4,
    )
    same_scores(evaluation.scores, by_hand.scores)
    for i in range(3):
        mse = np.mean((testset[i]["degraded"].astype(float) - testset[i]["image"]) ** 2)
        psnr = 10 * np.log10(255**2 / mse)
        assert evaluation.scores["input"]["psnr"][i] == pytest.approx(psnr, rel=1e-4)
    summary = {"sha256": testset.sha256, "recipe": "celeba-test", "seed": 5, "pairs": 3}
    assert json.loads(evaluation.to_json())["settings"]["testset"] == summary
    head = f"3 images of 32x32 px of test set {testset.sha256[:12]} (recipe celeba-test, seed 5)"
    assert plain_text(evaluation).splitlines()[:2] == [
        head,
        f"SHA-256 of the test set: {testset.sha256}",
    ]
    config.eval.limit = 2
    few = evaluate_run(config, runs / "restoration")
    assert "seed 5, only the first 2 of its 3 pairs)" in plain_text(few)


def test_restore_writes_the_pictures_that_are_scored(runs, testset, tmp_path):
    config = own_config(runs / "restoration", vqgan.get_config()).unlock()
    config.eval.testset = str(testset.root)
    evaluation = evaluate_run(config, runs / "restoration")
    arguments = ["restore", str(testset.root / "lq"), "-o", str(tmp_path), "-w", "1", "--aligned"]
    # The blurred pictures have so little colour that they count as black and white.
    arguments += ["--no-keep-gray", "--checkpoint", str(runs / "restoration")]
    assert cli.main(arguments) == 0
    assert evaluation.settings["adain"] is True
    for i in range(3):
        restored = read_image(tmp_path / testset[i]["name"]).pixels.astype(float)
        psnr = 10 * np.log10(255**2 / np.mean((restored - testset[i]["image"]) ** 2))
        assert evaluation.scores["w=1"]["psnr"][i] == pytest.approx(psnr, abs=0.01)


def test_a_test_set_serves_a_vqgan_and_a_config_without_it_runs(runs, testset, reconstruction):
    config = tiny_config("vqgan").unlock()
    config.eval.testset = str(testset.root)
    evaluation = evaluate_run(config, runs / "vqgan")
    assert evaluation.settings["testset"]["sha256"] == testset.sha256
    assert list(evaluation.scores) == ["reconstruction"]
    del config.eval.testset
    older = evaluate_run(config, runs / "vqgan")
    same_scores(older.scores, reconstruction.scores)
    assert "testset" not in older.settings


def test_a_test_set_that_does_not_fit_is_refused(runs, testset, tmp_path):
    config = tiny_config("vqgan").unlock()
    config.eval.testset, config.eval.path = str(testset.root), str(tmp_path)
    with pytest.raises(ValueError, match=r"eval\.testset=.* and eval\.path=.* are both given"):
        evaluate_run(config, runs / "vqgan")
    larger = make_testset([testset.root / "gt"], tmp_path / "set", size=64)
    config.eval.testset, config.eval.path = str(larger.root), None
    with pytest.raises(ValueError, match=r"a network for 32 px, but .* of 64 px: .*--size 32"):
        evaluate_run(config, runs / "vqgan")


@pytest.mark.slow
def test_eval_prints_the_hash_of_a_test_set_and_refuses_a_damaged_one(runs, testset, tmp_path):
    arguments = [
        "eval.py",
        f"--workdir={runs / 'restoration'}",
        f"--output={tmp_path / 'scores'}",
        f"--config.eval.testset={testset.root}",
    ]
    done = script(*arguments)
    assert done.returncode == 0, done.stderr
    assert f"of test set {testset.sha256[:12]} (" in done.stdout
    assert f"SHA-256 of the test set: {testset.sha256}\n" in done.stdout
    metrics = json.loads((tmp_path / "scores" / "metrics.json").read_text())
    assert metrics["settings"]["testset"]["sha256"] == testset.sha256
    assert (
        f"SHA-256 <code>{testset.sha256}</code>"
        in (tmp_path / "scores" / "report.html").read_text()
    )

    copy = shutil.copytree(testset.root, tmp_path / "copy")
    (copy / "lq" / "1.png").unlink()
    shutil.rmtree(tmp_path / "scores")
    done = script(*arguments, f"--config.eval.testset={copy}")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1] == "  lq/1.png: missing"
    assert not (tmp_path / "scores").exists()


def test_a_codeformer_needs_a_config_with_degradation(runs):
    with pytest.raises(ValueError, match="'vqgan' says nothing of degradation: leave out --config"):
        evaluate_run(tiny_config("vqgan"), runs / "restoration")


def test_a_missing_checkpoint_is_named(runs):
    config = tiny_config("vqgan").unlock()
    config.eval.checkpoint = "5"
    with pytest.raises(FileNotFoundError, match=r"vqgan has checkpoints \[.*4\], not 5"):
        evaluate_run(config, runs / "vqgan")


def test_a_run_and_its_exported_file_restore_alike(runs):
    picture = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
    results = [
        Restorer.load(runs / name)(picture, w=0.5)
        for name in ("restoration", "codeformer.safetensors")
    ]
    assert results[0].shape == (32, 24, 3)
    np.testing.assert_array_equal(*results)
    # Stage III's constants are a matter of its losses, not of the network for use.
    assert not load_trained(runs / "restoration").module.stop_gradients
    with pytest.raises(ValueError, match="holds the network 'vqgan'"):
        Restorer.load(runs / "vqgan")


def test_eval_prints_a_table_and_writes_a_report(runs, tmp_path, capsys):
    done = script(
        "eval.py",
        f"--workdir={runs / 'restoration'}",
        f"--output={tmp_path / 'scores'}",
        "--config.data.heldout_length=4",
        "--config.eval.weights=(0.0, 1.0)",
    )
    assert done.returncode == 0, done.stderr
    for word in ("PSNR", "degraded input", "w = 0 ", "w = 1 ", "teacher"):
        assert word in done.stdout
    assert "w = 0.5" not in done.stdout
    assert "<html" in (tmp_path / "scores" / "report.html").read_text()
    metrics = json.loads((tmp_path / "scores" / "metrics.json").read_text())
    assert len(metrics["images"]) == 4
    # The demo reads this file; an untrained network keeps none of its promises.
    assert demo.check(metrics) is False
    assert "4 held-out faces" in capsys.readouterr().out


@pytest.mark.parametrize(
    "options",
    [
        [],
        pytest.param(["--config=configs/demo.py:vqgan,short"], marks=pytest.mark.slow),
        pytest.param(["--config.eval.limit=3"], marks=pytest.mark.slow),
    ],
)
def test_eval_of_a_missing_run_is_one_line(options, tmp_path):
    done = script("eval.py", f"--workdir={tmp_path / 'nowhere'}", *options)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {tmp_path / 'nowhere'} does not exist")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_train_refuses_stage2_without_a_teacher_in_one_line(tmp_path):
    done = script(
        "train.py", "--config=configs/demo.py:code_prediction,short", f"--workdir={tmp_path / 'r'}"
    )
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: task 'code_prediction' learns the codes of a trained stage-I")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("data.bath_size", "batch_size"),
        pytest.param("dta.workers", 'Did you mean "data"', marks=pytest.mark.slow),
        pytest.param("mesh.data", "only a section has further names", marks=pytest.mark.slow),
    ],
)
def test_a_misspelt_setting_is_one_line(setting, told, tmp_path):
    config = "--config=configs/demo.py:vqgan,short"
    done = script("train.py", config, f"--workdir={tmp_path / 'r'}", f"--config.{setting}=3")
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: the config has no such value: ")
    assert told in line


def test_an_exported_network_goes_to_pytorch_and_back(runs, tmp_path, capsys):
    model, there, back = runs / "codeformer.safetensors", tmp_path / "a.pth", tmp_path / "b"
    assert cli.main(["convert", str(model), str(there), "--to-torch"]) == 0
    assert cli.main(["convert", str(there), str(back)]) == 0
    picture = np.asarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3)), np.uint8)
    one, other = (Restorer.load(path)(picture, w=0.5) for path in (model, f"{back}.safetensors"))
    np.testing.assert_array_equal(one, other)
    # A file without the settings says nothing of the heads, and none are guessed.
    tree = read_pth(there)
    write_pth(there, {"params_ema": tree["params_ema"]})
    capsys.readouterr()
    assert cli.main(["convert", str(there), str(back), "--force", "--set", "norm_groups=4"]) == 2
    assert "n_head: not shown by the file" in capsys.readouterr().err


@pytest.mark.slow
def test_networks_of_a_workdir_are_computed_in_its_precision(runs, tmp_path, monkeypatch):
    workdir, seen = tmp_path / "run", []
    workdir.mkdir()
    for file in (runs / "restoration").iterdir():
        if file.name != "config.json":
            (workdir / file.name).symlink_to(file.resolve())
    config = json.loads((runs / "restoration" / "config.json").read_text())
    config["model"]["precision"] = "highest"
    (workdir / "config.json").write_text(json.dumps(config))

    def watch(module, name):
        function = getattr(module, name)

        def watched(*args, **kwargs):
            seen.append(jax.config.jax_default_matmul_precision)
            return function(*args, **kwargs)

        monkeypatch.setattr(module, name, watched)

    watch(evaluator, "measure")
    watch(restorer, "_restore")
    watch(samples, "_predict")
    watch(samples, "_generate")
    evaluate_run(own_config(workdir, vqgan.get_config()), workdir)
    restore = Restorer.load(workdir, batch_size=1)
    restore(np.zeros((32, 32, 3), np.uint8))
    one = fit(np.zeros((32, 32, 3), np.uint8), 32)
    samples.sample_batch(restore, [one], ["a"], 0.5, True, batch_size=1, number=1)
    assert len(seen) == 5  # Two batches are evaluated.
    assert set(seen) == {"highest"}
    assert jax.config.jax_default_matmul_precision is None

    def encoded(module, variables, mesh, precision):
        raise InterruptedError(precision)

    monkeypatch.setattr(encode, "make_encode", encoded)
    with pytest.raises(InterruptedError, match="highest"):
        encode.encode_dataset(workdir, tmp_path / "codes")
