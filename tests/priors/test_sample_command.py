"""`codeformer-jax sample`: priors of every kind, and errors."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import tiny_gpt

from codeformer_jax import cli
from codeformer_jax.convert import code_fingerprint, load_model, save_model
from codeformer_jax.data.images import read_image, write_image
from codeformer_jax.nn import GPT, VQVAE, PixelCNN
from codeformer_jax.priors.prior import load_prior
from codeformer_jax.sampling.gpt import _sample_map
from codeformer_jax.train import loop

CODES = 16  # The autoencoder's; maps are 4x4 of 4 px.
GPT_FIELDS = {"vocab_size": CODES, "block_size": 32, "n_layer": 1, "n_head": 2, "n_embd": 8}
GPT_FIELDS |= {"map_size": (4, 4)}
PIXELCNN_FIELDS = {"embed_dim": 4, "layers": 2, "features": 6, "head_features": 6}
PIXELCNN_FIELDS |= {"first_kernel": 3}


def save(path, network, module, *arguments):
    """A model file of random weights, large enough that every value matters."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(module.init, jax.random.key(0), *arguments)
    variables = jax.tree.map(lambda x: jnp.asarray(0.5 * rng.normal(size=x.shape), x.dtype), shapes)
    save_model(path, network, module, variables)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folder of model files: autoencoders ae, other, fine; priors start, class, codes, ..."""
    root = tmp_path_factory.mktemp("models")
    picture = jnp.zeros((1, 16, 16, 3))
    for name, side, codes in (("ae", 16, CODES), ("other", 16, 8), ("large", 32, CODES)):
        module = VQVAE(image_size=side, hidden=8, res_blocks=0, codebook_size=codes, emb_dim=4)
        save(root / f"{name}.safetensors", "vqvae", module, picture)
    token = jnp.zeros((1, 1), jnp.int32)
    kinds = {
        "start": {},
        "class": {"condition": "class", "classes": 3},
        "codes": {"condition": "codes", "condition_length": 16},
        "few": {"condition": "codes", "condition_length": 9},
    }
    for name, fields in kinds.items():
        module = GPT(**(GPT_FIELDS | fields))
        save(root / f"{name}.safetensors", "taming_gpt", module, token)
    kinds = {
        "pixelcnn": ({"map_size": 4, "levels": CODES, "classes": 3}, jnp.zeros((1,), jnp.int32)),
        "pixels": ({"map_size": 8, "channels": 3, "levels": 256, "ordinal": True}, None),
    }
    for name, (fields, labels) in kinds.items():
        module = PixelCNN(**PIXELCNN_FIELDS, **fields)
        side, channels = module.map_size, module.channels
        values = jnp.zeros((1, side, side, channels), jnp.int32)
        save(root / f"{name}.safetensors", "pixelcnn", module, values, labels)
    rng = np.random.default_rng(1)
    write_image(root / "face.png", rng.integers(0, 256, (20, 30, 3)).astype(np.uint8))
    return root


@pytest.fixture
def sample(models, tmp_path, monkeypatch, capsys):
    """sample(PRIOR, *arguments) -> (exit code, stdout, stderr); files are named in the folder."""
    monkeypatch.chdir(tmp_path)

    def run(prior, *arguments, teacher="ae", force=True):
        files = {path.stem: str(path) for path in models.iterdir()}
        given = ["--checkpoint", files.get(prior, prior)]
        given += ["--teacher", files.get(teacher, teacher)] if teacher else []
        given += ["--force"] if force else []
        given += [files.get(str(argument), str(argument)) for argument in arguments]
        code = cli.main(["sample", *given])
        return code, *capsys.readouterr()

    return run


def stored(name="samples.npz"):
    with np.load(name) as file:
        return {key: file[key] for key in file}


def test_a_prior_of_a_transformer(sample, models, tmp_path):
    compiled = _sample_map._cache_size()
    code, out, _ = sample("start", "-n", "5", "--batch-size", "2", "--seed", "3", "-o", "a/b.png")
    assert (code, _sample_map._cache_size()) == (0, compiled + 1)
    assert out.splitlines()[0] == "5 samples of 16x16 px (4x4 values) -> a/b.png"
    assert sorted(p.name for p in (tmp_path / "a" / "b").iterdir()) == [
        f"000{n}.png" for n in range(5)
    ]
    found = stored("a/b.npz")
    assert found["codes"].shape == (5, 4, 4)
    settings = json.loads(str(found["settings"]))
    _, module, variables = load_model(models / "ae.safetensors")
    assert settings["autoencoder"] == code_fingerprint(module, variables)
    assert (settings["seed"], settings["levels"], settings["downsampling"]) == (3, CODES, 4)
    # The codes are those of the pictures.
    images = module.apply(variables, jnp.asarray(found["codes"]), method="decode")
    expected = np.clip((images + 1) * 127.5, 0, 255)
    for index in range(5):
        picture = read_image(f"a/b/{index:04d}.png").pixels
        assert abs(picture - np.asarray(expected[index])).max() <= 0.51
    # A sample depends on its number, not on the batch or the number of samples.
    assert sample("start", "-n", "3", "--batch-size", "3", "--seed", "3")[0] == 0
    np.testing.assert_array_equal(stored()["codes"], found["codes"][:3])
    assert sample("start", "-n", "3")[0] == 0
    assert (stored()["codes"] != found["codes"][:3]).any()


def test_larger_maps_and_settings(sample):
    assert (
        sample("start", "-n", "2", "--size", "16x24", "--top-k", "1", "--temperature", "2")[0] == 0
    )
    found = stored()["codes"]
    assert found.shape == (2, 4, 6)
    np.testing.assert_array_equal(found[0], found[1])
    assert read_image("samples/0001.png").pixels.shape == (16, 24, 3)
    assert sample("start", "-n", "1", "--size", "16x24", "--temperature", "0")[0] == 0
    np.testing.assert_array_equal(stored()["codes"], found[:1])


@pytest.mark.parametrize("prior", ["class", "pixelcnn"])
def test_classes(sample, prior):
    assert sample(prior, "-n", "5")[0] == 0
    spread = stored()
    assert spread["classes"].tolist() == [0, 0, 1, 1, 2]
    sheet = read_image("samples.png").pixels
    assert sample(prior, "-n", "5", "--class", "2,0")[0] == 0
    chosen = stored()
    assert chosen["classes"].tolist() == [2, 2, 2, 0, 0]
    # Sample 4 is of class 2 in one call and of class 0 in the other.
    assert (chosen["codes"][4] != spread["codes"][4]).any()
    assert read_image("samples.png").pixels.shape[0] < sheet.shape[0]  # A row for each class.
    assert sample(prior, "-n", "2")[0] == 0
    assert stored()["classes"].tolist() == [0, 1]


def test_pixels(sample):
    code, out, _ = sample("pixels", "-n", "2", "--size", "8x6", teacher=None)
    assert (code, out.splitlines()[0][:24]) == (0, "2 samples of 8x6 px (8x6")
    codes = stored()["codes"]
    assert codes.shape == (2, 8, 6, 3)
    np.testing.assert_array_equal(read_image("samples/0001.png").pixels, codes[1])


@pytest.mark.parametrize(
    ("prior", "keep", "kept"),
    [
        ("start", "top-half", np.s_[:, :2]),
        ("start", "left:0.25", np.s_[:, :, :1]),
        ("pixelcnn", "left-half", np.s_[:, :, :2]),
        ("pixels", "top:0.6", np.s_[:, :5]),
    ],
)
def test_a_picture_is_continued(sample, models, prior, keep, kept):
    teacher = None if prior == "pixels" else "ae"
    given = ["-n", "3", "--complete", "face", "--keep", keep]
    assert sample(prior, *given, teacher=teacher)[0] == 0
    found = stored()
    assert found["keep"].sum() == found["codes"][0][kept[1:]].size // (3 if teacher is None else 1)
    expected = np.broadcast_to(found["given"][kept], found["codes"][kept].shape)
    np.testing.assert_array_equal(found["codes"][kept], expected)
    assert (found["codes"][1] != found["codes"][0]).any()
    if teacher:
        _, module, variables = load_model(models / "ae.safetensors")
        pixels = read_image(models / "face.png").pixels[:, 5:25]
        from PIL import Image  # noqa: PLC0415

        small = np.asarray(Image.fromarray(pixels).resize((16, 16), Image.Resampling.LANCZOS))
        images = jnp.asarray(small[None], jnp.float32) / 127.5 - 1
        codes = module.apply(variables, images, method="encode").indices.reshape(1, 4, 4)
        np.testing.assert_array_equal(found["given"], codes)


def test_a_condition_of_codes(sample):
    assert sample("codes", "-n", "2", "--condition", "face")[0] == 0
    assert stored()["condition"].shape == (4, 4)
    assert sample("codes", "-n", "1", "--condition", "face", "--size", "24")[0] == 0
    found = stored()
    assert (found["condition"].shape, found["codes"].shape) == ((6, 6), (1, 6, 6))


def test_a_workdir_brings_its_autoencoder(sample, stages, tmp_path):
    config = tiny_gpt(steps=2).unlock()
    config.teacher = str(stages[0] / "vqgan")
    scores = loop.train(config, tmp_path / "run")
    assert load_prior(tmp_path / "run").heldout_bits == pytest.approx(scores["bits_per_dim"])
    assert sample("run", "-n", "1", teacher=None)[0] == 0
    assert stored()["codes"].shape == (1, 16, 16)
    assert json.loads(str(stored()["settings"]))["step"] == 2
    # A config of another network than that of the checkpoint.
    path = tmp_path / "run" / "config.json"
    text = path.read_text()
    for changed, problem in (
        (
            text.replace('"n_embd": 16', '"n_embd": 32'),
            "kernel: [16, 16] in the checkpoint, [32, 32] expected",
        ),
        (text.replace('"n_layer": 1', '"n_layer": 2'), "blocks_1/attn/key/bias: missing in"),
        (text.replace('"condition": "start"', '"condition": "depth"'), "condition is 'depth'"),
    ):
        path.write_text(changed)
        code, _, err = sample("run", "-n", "1", "-o", "other.png", teacher=None)
        assert (code, err.count("\n"), problem in err) == (2, 1, True), err
    assert not (tmp_path / "other.png").exists()


@pytest.mark.parametrize(
    ("prior", "arguments", "message"),
    [
        ("class", ["--class", "3"], "class 3 is unknown; this prior has the classes 0 to 2"),
        ("pixelcnn", ["--class", "-1"], "class -1 is unknown; this prior has the classes 0 to 2"),
        ("class", ["--class", "cat"], "--class is 'cat'; expected a number"),
        ("class", ["--class", "all", "-n", "2"], "-n 2 is fewer than the 3 classes"),
        ("start", ["--class", "0"], "--class 0: this prior has no classes; leave it out"),
        ("start", ["--size", "18x24"], "does not divide into codes of 4 px; give multiples of 4"),
        ("start", ["--size", "12x24"], "is smaller than the 4x4 that this prior was"),
        ("start", ["--size", "wide"], "--size is 'wide'; expected height and width in pixels"),
        ("start", ["--top-k", "17"], "top_k is 17; expected 1 to 16, the number of codes"),
        ("start", ["--top-k", "0"], "top_k is 0; expected 1 to 16"),
        ("start", ["--top-p", "1.5"], "top_p is 1.5; expected more than 0"),
        ("start", ["--temperature", "-1"], "temperature is -1.0; expected 0"),
        ("start", ["-n", "0"], "-n is 0; expected at least 1"),
        ("start", ["--seed", "-1"], "--seed is -1; expected 0 to"),
        ("start", ["--batch-size", "0"], "--batch-size is 0; expected at least 1"),
        ("start", ["--teacher", "other"], "the autoencoder has 8 codes and this prior samples 16"),
        (
            "pixelcnn",
            ["--teacher", "other"],
            "the autoencoder has 8 codes and this prior samples 16",
        ),
        ("start", ["--teacher", "large"], "maps of 4x4 codes, but 32 px are 8x8 codes"),
        ("start", ["--teacher", "class"], "holds a taming_gpt; expected an autoencoder"),
        ("start", ["--teacher", "nowhere"], "nowhere does not exist"),
        ("pixels", [], "is a prior of pixels, not of codes: leave --teacher out"),
        ("ae", [], "holds a vqvae, which is not a prior; give the workdir of"),
        ("nowhere", [], "nowhere does not exist: expected a model file or a workdir"),
        ("start", ["--keep", "top-half"], "--keep is a part of a picture; add --complete IMAGE"),
        ("start", ["--complete", "face", "--keep", "bottom-half"], "depends on those above"),
        ("start", ["--complete", "face", "--keep", "half"], "--keep is 'half'; expected top-half"),
        ("start", ["--complete", "face", "--keep", "top:0.1"], "keeps 0 of the map's 4 rows"),
        ("start", ["--complete", "gone.png"], "cannot read image 'gone.png': no such file"),
        ("start", ["--condition", "face"], "this prior has no condition of codes; leave it out"),
        ("start", ["--condition-teacher", "ae"], "this prior has no condition of codes"),
        ("codes", [], "give a picture as --condition IMAGE"),
        ("few", ["--condition", "face"], "makes 4x4 codes of a picture, and this prior takes 9"),
        ("start", ["-o", "grid"], "cannot write 'grid': expected a name ending in .png"),
        ("start", ["-o", "/proc/no/grid.png"], "No such file or directory: '/proc/no'"),
        ("start", ["-o", "file/grid.png"], "File exists: 'file'"),
        ("start", ["-o", "folder.png"], "'folder.png' is a folder; give another name as -o"),
        ("start", ["-o", "mine.png"], "would replace 'mine/notes.txt', which is another file"),
    ],
)
def test_errors_are_messages(sample, tmp_path, prior, arguments, message):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("")
    before = sorted(tmp_path.rglob("*"))
    code, out, err = sample(prior, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("codeformer-jax: error: ")
    assert err.count("\n") == 1
    assert message in err
    assert sorted(tmp_path.rglob("*")) == before


def test_without_an_autoencoder(sample):
    assert "give that one's workdir or model file as --teacher" in sample("start", teacher=None)[2]


def test_nothing_is_replaced_without_force(sample, tmp_path):
    (tmp_path / "samples.npz").write_text("mine")
    code, _, err = sample("start", "-n", "1", force=False)
    assert (code, "samples.npz: exists; pass --force to replace it" in err) == (2, True)
    assert [p.name for p in tmp_path.iterdir()] == ["samples.npz"]
    assert sample("start", "-n", "2")[0] == 0
    shutil.copy("samples/0000.png", "samples/0009.png")
    assert sample("start", "-n", "1")[0] == 0
    assert [p.name for p in (tmp_path / "samples").iterdir()] == ["0000.png"]


def test_a_folder_without_permission_is_refused_before_sampling(sample, tmp_path, monkeypatch):
    # Permissions do not stop root, who may run the tests.
    monkeypatch.setattr("codeformer_jax.priors.sample.os.access", lambda *_: False)
    code, _, err = sample("start", "-n", "1")
    assert (code, "cannot write into '.'; give another -o" in err) == (2, True), err
    assert not any(tmp_path.iterdir())
