"""`restore --samples` and `--score`: several restorations, and how usual their codes are."""

import json
import shutil
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codeformer_jax import cli, restore
from codeformer_jax.convert import save_model
from codeformer_jax.data.images import read_image, write_image
from codeformer_jax.metrics import bits_per_dim
from codeformer_jax.nn import GPT, VQGAN, PixelCNN
from codeformer_jax.priors.prior import load_prior
from codeformer_jax.restore import RestoreError, RestoreOptions, Scorer, sample_batch, scores
from codeformer_jax.restore.fit import fit
from codeformer_jax.restore.heatmap import draw_heatmap


def restore_files(inputs, output, restorer, scorer=None, **options):
    options = RestoreOptions(**options)
    return restore.restore_files(inputs, output, options, restorer=restorer, scorer=scorer)


GPT_FIELDS = {"vocab_size": 16, "block_size": 600, "n_layer": 1, "n_head": 2, "n_embd": 8}
VQGAN_FIELDS = {"image_size": 32, "nf": 8, "res_blocks": 1, "norm_groups": 4, "ch_mult": (1, 2)}
VQGAN_FIELDS |= {"attn_resolutions": (16,), "codebook_size": 16, "emb_dim": 8}


@pytest.fixture(scope="module")
def models(network, draw, tmp_path_factory):
    """Folder of an autoencoder with the network's codebook, one with another, and priors."""
    root = tmp_path_factory.mktemp("priors")
    module = VQGAN(**VQGAN_FIELDS)
    variables = draw(module, jnp.zeros((1, 32, 32, 3)))
    variables["params"]["quantize"] = network[1]["params"]["quantize"]
    save_model(root / "ae.safetensors", "vqgan", module, variables)
    variables["params"]["quantize"] = jax.tree.map(
        lambda x: x + 0.1, network[1]["params"]["quantize"]
    )
    save_model(root / "other.safetensors", "vqgan", module, variables)
    token = jnp.zeros((1, 1), jnp.int32)
    kinds = {
        "start": {},
        "codes": {"condition": "codes", "condition_length": 256},
        "class": {"condition": "class", "classes": 2},
    }
    for name, fields in kinds.items():
        module = GPT(**GPT_FIELDS, **fields)
        save_model(root / f"{name}.safetensors", "taming_gpt", module, draw(module, token))
    fields = {"embed_dim": 4, "layers": 2, "features": 6, "head_features": 6, "first_kernel": 3}
    module = PixelCNN(map_size=16, levels=16, **fields)
    values = jnp.zeros((1, 16, 16, 1), jnp.int32)
    save_model(root / "pixelcnn.safetensors", "pixelcnn", module, draw(module, values))
    return root


def scorer(models, restorer, name):
    return Scorer.load(models / f"{name}.safetensors", restorer, teacher=models / "ae.safetensors")


@pytest.fixture
def faces(tmp_path, picture):
    for seed, size in ((1, (32, 32)), (2, (40, 40)), (3, (16, 32))):
        write_image(tmp_path / "faces" / f"{seed}.png", picture(*size, seed))
    return tmp_path / "faces"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_samples_depend_on_seed_name_and_number_only(tmp_path, faces, restorer):
    one, other, third = tmp_path / "one", tmp_path / "other", tmp_path / "third"
    summary = restore_files([faces], one, restorer, samples=3, w=0.0, batch_size=2)
    assert names(one) == [f"{face}_{number}.png" for face in (1, 2, 3) for number in (1, 2, 3)]
    assert str(summary).startswith("3 of 3 images restored in ")
    assert ", 3 times each" in str(summary)
    assert len(summary.written) == 9
    # Another batch, fewer pictures and fewer samples of each.
    files = [faces / "3.png", faces / "2.png"]
    restore_files(files, other, restorer, samples=2, w=0.0, batch_size=1)
    restore_files([faces], third, restorer, samples=2, seed=1, w=0.0, limit=1)
    for name in names(other):
        first, second = (read_image(folder / name).pixels.astype(int) for folder in (one, other))
        assert abs(first - second).max() <= 1
    pictures = [read_image(one / f"1_{number}.png").pixels for number in (1, 2, 3)]
    pictures.append(read_image(third / "1_1.png").pixels)
    for index, picture in enumerate(pictures):
        assert all((picture != before).any() for before in pictures[:index])


def test_temperature_0_takes_the_likeliest_codes(faces, restorer):
    batch = [fit(read_image(faces / "1.png").pixels, 32)]
    usual = restorer.restore_batch(batch, 0.5, True, batch_size=1, codes=True)
    [cold] = sample_batch(
        restorer, batch, ["1"], 0.5, True, batch_size=1, number=1, temperature=0.0
    )
    np.testing.assert_array_equal(cold.indices, usual.indices)
    assert abs(cold.images.astype(int) - usual.images).max() <= 1


def test_samples_have_the_codes_probabilities(network, restorer, picture):
    module, variables = network
    batch = [fit(picture(32, 32), 32)]
    inputs = jnp.asarray(batch[0].pixels[None], jnp.float32) / 127.5 - 1
    predict = jax.jit(module.apply, static_argnames="method")
    expected = jax.nn.softmax(predict(variables, inputs, method="predict").logits)[0]
    draws = 60
    drawn = sample_batch(restorer, batch, ["x"], 0.0, True, batch_size=1, number=draws)
    counts = np.mean([np.eye(16)[sample.indices[0]] for sample in drawn], axis=0)
    # Over all 256 places a code's share is known to about a hundredth.
    np.testing.assert_allclose(counts.mean(axis=0), expected.mean(axis=0), atol=0.012)


@pytest.mark.parametrize("kind", ["start", "codes", "pixelcnn"])
def test_scores_are_the_bits_under_the_prior(models, restorer, faces, kind):
    found = scorer(models, restorer, kind)
    batch = [fit(read_image(faces / f"{n}.png").pixels, 32) for n in (1, 2)]
    indices = restorer.restore_batch(batch, 0.5, True, batch_size=2, codes=True).indices
    bits = found.bits(batch, indices, batch_size=4)
    assert bits.shape == (2, 16, 16)
    prior = load_prior(models / f"{kind}.safetensors", teacher=models / "ae.safetensors")
    maps = jnp.asarray(indices, jnp.int32)
    if kind == "pixelcnn":
        logits = prior.module.apply(prior.variables, maps.reshape(2, 16, 16, 1))
    else:
        condition = jnp.zeros((2, 1), jnp.int32)
        if kind == "codes":
            pictures = np.stack([fitted.pixels for fitted in batch])
            condition = jnp.asarray(prior.stage1.encode(pictures).reshape(2, -1))
        tokens = jnp.concatenate([condition, maps], axis=1)
        logits = prior.module.apply(prior.variables, tokens[:, :-1])
        logits = logits[:, condition.shape[1] - 1 :].reshape(2, 16, 16, 1, 16)
    expected = bits_per_dim(logits, maps.reshape(2, 16, 16, 1))
    np.testing.assert_allclose(bits.mean(axis=(1, 2)), expected, rtol=1e-5)
    # A code that is replaced costs something else, and those before it do not change.
    changed = indices.copy()
    changed[0, 100] = (changed[0, 100] + 1) % 16
    again = found.bits(batch, changed, batch_size=4).reshape(2, -1)
    before = bits.reshape(2, -1)
    np.testing.assert_allclose(again[0, :100], before[0, :100], atol=1e-5)
    assert abs(again[0, 100:] - before[0, 100:]).max() > 1e-3
    np.testing.assert_allclose(again[1], before[1], atol=1e-5)


def test_scores_beside_the_results(tmp_path, faces, model_file, models, capsys):
    out, plain = tmp_path / "out", tmp_path / "plain"
    command = ["restore", str(faces), "--checkpoint", str(model_file), "--batch-size", "2"]
    score = ["--score", str(models / "start.safetensors")]
    score += ["--score-teacher", str(models / "ae.safetensors")]
    assert cli.main([*command, "-o", str(plain), "--aligned"]) == 0
    capsys.readouterr()
    assert cli.main([*command, "-o", str(out), *score]) == 0
    printed = capsys.readouterr().out
    assert "a blind guess 4.00) -> " in printed
    # The results are those of a call without scores, to the bit.
    for name in names(plain):
        assert (plain / name).read_bytes() == (out / name).read_bytes()
    assert names(out) == sorted(
        [*names(plain), *(f"{n}_score.png" for n in (1, 2, 3)), "scores.json"]
    )
    content = json.loads((out / "scores.json").read_text())
    assert content["bits_per_code_uniform"] == 4
    assert content["bits_per_code_heldout"] is None
    face = content["faces"]["3.png"]
    assert (np.shape(face["map"]), face["heat_map"]) == ((16, 16), "3_score.png")
    assert np.mean(face["map"]) == pytest.approx(face["bits_per_code"], abs=1e-3)
    # Samples go into the same file, and what was there stays.
    assert cli.main([*command, "-o", str(out), *score, "--samples", "2", "--limit", "1"]) == 0
    assert set(json.loads((out / "scores.json").read_text())["faces"]) == {
        "1.png",
        "2.png",
        "3.png",
        "1_1.png",
        "1_2.png",
    }
    # A heat map that is missing is made, and the result that is there is kept.
    before = (out / "2.png").stat().st_mtime_ns
    (out / "2_score.png").unlink()
    assert cli.main([*command, "-o", str(out), *score, "--skip-existing"]) == 0
    assert (out / "2_score.png").is_file()
    assert (out / "2.png").stat().st_mtime_ns == before
    # A drawn one may have been made by another seed.
    (out / "1_2_score.png").unlink()
    again = [*command, "-o", str(out), *score, "--samples", "2", "--limit", "1", "--skip-existing"]
    assert cli.main(again) == 2
    assert "1 samples exist without a score" in capsys.readouterr().err
    # The same prior by another path is the same.
    elsewhere = out.parent / "elsewhere.safetensors"
    elsewhere.write_bytes(Path(score[1]).read_bytes())
    moved = [score[0], str(elsewhere), *score[2:]]
    (out / "2_score.png").unlink()
    assert cli.main([*command, "-o", str(out), *moved, "--skip-existing"]) == 0
    assert (out / "2_score.png").is_file()
    # Scores of another prior are not mixed in.
    (out / "2_score.png").unlink()
    other = [*score[:1], str(models / "pixelcnn.safetensors"), *score[2:]]
    capsys.readouterr()
    assert cli.main([*command, "-o", str(out), *other, "--skip-existing"]) == 2
    assert "has scores by another prior" in capsys.readouterr().err
    assert not (out / "2_score.png").exists()


def test_scores_belong_to_the_parameters_of_the_prior(tmp_path):
    """A workdir knows its step and its bits on held-out faces, a model file of it does not."""
    about = {"prior": "runs/gpt", "prior_sha256": "ab", "step": 7, "bits_per_code_heldout": 3.0}
    scores.write_scores(tmp_path, about, {"1.png": {"bits_per_code": 2.0}})
    exported = {**about, "prior": "gpt.safetensors", "step": None, "bits_per_code_heldout": None}
    assert scores.read_scores(tmp_path, exported, False) == {"1.png": {"bits_per_code": 2.0}}
    with pytest.raises(RestoreError, match=r"another prior .runs/gpt."):
        scores.read_scores(tmp_path, {**exported, "prior_sha256": "cd"}, False)


def test_a_heat_map_is_bright_where_codes_are_unusual():
    rng = np.random.default_rng(0)
    restored = np.full((64, 64, 3), 90, np.uint8)
    bits = np.zeros((16, 16), np.float32)
    bits[8:, :8] = 6.0
    sheet = draw_heatmap(restored, bits, fit(restored, 64), uniform=4.0, heldout=2.5).astype(int)
    face, heat = (sheet[75:-35, x : x + 240].sum(axis=-1) for x in (25, 320))
    assert set(np.unique(face)) == {3 * 90}
    unusual = heat[150:, :100].min()
    assert unusual > 2 * heat[:90].max()
    assert unusual > 2 * heat[150:, 160:].max()
    # Of a picture that was not square only its own part is shown.
    wide = rng.integers(0, 256, (32, 64, 3)).astype(np.uint8)
    sheet = draw_heatmap(wide, bits, fit(wide, 64), uniform=4.0, heldout=None)
    assert sheet.shape == (128 + 100, 512 + 150, 3)


def test_an_interrupt_leaves_the_scores_of_what_is_written(
    tmp_path, faces, restorer, models, monkeypatch
):
    found = scorer(models, restorer, "start")
    good, calls = restorer.restore_batch, []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return good(*args, **kwargs)

    monkeypatch.setattr(restorer, "restore_batch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        restore_files([faces], tmp_path / "out", restorer, scorer=found, batch_size=1)
    left = {path.name for path in (tmp_path / "out").glob("?.png")}
    scored = json.loads((tmp_path / "out" / "scores.json").read_text())["faces"]
    assert set(scored) == left
    assert "1.png" in left


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--samples", "0"], "samples is 0; expected at least 1"),
        (["--samples", "2", "--temperature", "-1"], "temperature is -1.0; expected 0"),
        (["--samples", "2", "--seed", "-1"], "seed is -1; expected 0 to"),
        (["--temperature", "1"], "temperature is a setting of samples; add --samples N"),
        (["--seed", "0"], "seed is a setting of samples; add --samples N"),
        (["--score-teacher", "ae"], "score_teacher is the autoencoder of a prior"),
        (["--score", "start"], "give that one's workdir or model file as --teacher"),
        (["--score", "start", "--score-teacher", "other"], "is not that of the network that rest"),
        (["--score", "class", "--score-teacher", "ae"], "needs a prior of codes without classes"),
        (["--score", "ae"], "holds a vqgan, which is not a prior"),
        (["--score", "nowhere"], "nowhere does not exist"),
    ],
)
def test_errors_are_messages(tmp_path, faces, model_file, models, capsys, arguments, message):
    files = {path.stem: str(path) for path in models.iterdir()}
    arguments = [files.get(argument, argument) for argument in arguments]
    command = ["restore", str(faces), "--checkpoint", str(model_file), "-o", str(tmp_path / "out")]
    assert cli.main([*command, *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_prior_of_other_maps_is_refused(models, restorer, draw, tmp_path):
    module = GPT(**GPT_FIELDS, map_size=(8, 8))
    path = tmp_path / "prior.safetensors"
    save_model(path, "taming_gpt", module, draw(module, jnp.zeros((1, 1), jnp.int32)))
    shutil.copy(models / "ae.safetensors", tmp_path / "ae.safetensors")
    with pytest.raises(ValueError, match="8x8 codes, but 32 px are 16x16 codes"):
        Scorer.load(path, restorer, teacher=tmp_path / "ae.safetensors")


def test_a_damaged_file_of_scores_is_kept_without_force(tmp_path, faces, restorer, models):
    found = scorer(models, restorer, "start")
    out = tmp_path / "out"
    out.mkdir()
    (out / "scores.json").write_text("mine")
    with pytest.raises(RestoreError, match="cannot be read as scores"):
        restore_files([faces], out, restorer, scorer=found)
    assert names(out) == ["scores.json"]
    restore_files([faces], out, restorer, scorer=found, force=True, limit=1)
    assert set(json.loads((out / "scores.json").read_text())["faces"]) == {"1.png"}


def test_a_network_without_codes_has_no_samples(tmp_path, faces):
    restorer = restore.Restorer(types.SimpleNamespace(image_size=32), {})
    with pytest.raises(RestoreError, match="need a network with codes"):
        restore_files([faces], tmp_path / "out", restorer, samples=2)
    assert not (tmp_path / "out").exists()
