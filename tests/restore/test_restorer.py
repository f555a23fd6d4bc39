import dataclasses

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from codeformer_jax.checkpoints.trained import Trained
from codeformer_jax.convert import save_model
from codeformer_jax.nn import CodeFormer
from codeformer_jax.restore import RestoreError, Restorer


def difference(a, b):
    return np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).max()


def test_is_the_network_clipped_and_rounded(network, restorer, picture):
    module, variables = network
    pixels = picture(32, 32)
    inputs = jnp.asarray(pixels[None], jnp.float32) / 127.5 - 1
    apply = jax.jit(module.apply, static_argnames="adain")
    expected = apply(variables, inputs, w=0.7, adain=True).image[0]
    expected = np.round((np.clip(expected, -1, 1) + 1) * 127.5)
    restored = restorer(pixels, w=0.7)
    assert restored.dtype == np.uint8
    assert restored.std() > 1
    assert difference(restored, expected) <= 1


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((32, 32, 3), (32, 32, 3)),
        ((20, 20, 3), (32, 32, 3)),
        ((100, 100, 3), (32, 32, 3)),
        ((32, 32), (32, 32)),
        ((5, 40, 40, 3), (5, 32, 32, 3)),
        ((0, 40, 40, 3), (0, 32, 32, 3)),
        ((64, 48, 3), (32, 24, 3)),
        ((2, 12, 48, 3), (2, 8, 32, 3)),
        ((1, 200, 3), (1, 32, 3)),
        ((1, 1), (32, 32)),
    ],
)
def test_shapes(restorer, shape, expected):
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    restored = restorer(images)
    assert restored.shape == expected
    assert restored.dtype == np.uint8


@pytest.mark.parametrize("shape", [(32, 32), (40, 40, 3), (1, 16, 24, 3)])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats(restorer, shape, dtype):
    images = np.random.default_rng(0).uniform(size=shape).astype(dtype)
    restored = restorer(images)
    assert restored.ndim == images.ndim
    assert restored.dtype == dtype
    assert 0 <= restored.min() < restored.max() <= 1


def test_float_pictures_are_restored_as_8_bit_ones(restorer, picture):
    pixels = picture(32, 32)
    floats = restorer(pixels.astype(np.float32) / 255)
    assert difference(floats * 255, restorer(pixels)) <= 1


def test_list_keeps_order_sizes_and_kinds(restorer, picture):
    images = [
        picture(32, 32, 1),
        picture(50, 50, 2)[..., 0],
        picture(60, 30, 3),
        picture(9, 9) / 255,
    ]
    restored = restorer(images)
    assert [x.shape for x in restored] == [(32, 32, 3), (32, 32), (32, 16, 3), (32, 32, 3)]
    assert [x.dtype for x in restored] == [np.uint8, np.uint8, np.uint8, np.float64]
    for image, result in zip(images, restored, strict=True):
        scale = 1 if result.dtype == np.uint8 else 255
        assert difference(result * scale, restorer(image) * scale) <= 1
    assert restorer([]) == []
    assert isinstance(restorer(images[:1]), list)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_batch_size_changes_nothing(restorer, picture, batch_size):
    images = np.stack([picture(32, 32, seed) for seed in range(5)])
    restored = restorer(images, batch_size=batch_size)
    assert difference(restored, restorer(images)) <= 1
    assert difference(restored[0], restored[1]) > 5


def test_gray_pictures_come_back_gray(restorer, picture):
    gray = picture(40, 40)[..., 0]
    colour = restorer(picture(40, 40))
    assert not np.all(colour == colour[..., :1])
    restored = restorer(gray)
    three = restorer(np.stack([gray] * 3, axis=-1))
    assert np.array_equal(three, np.stack([restored] * 3, axis=-1))


def test_the_network_decides_whether_gray_pictures_get_colours(network, restorer, picture):
    module, variables = network
    colours = Restorer(module.clone(keep_gray=False), variables, batch_size=4)
    gray = picture(32, 32)[..., 0]
    coloured = colours(gray)
    assert coloured.shape == (32, 32, 3)
    assert not np.all(coloured == coloured[..., :1])
    assert np.array_equal(colours(np.stack([gray] * 3, axis=-1)), coloured)
    # The caller has the last word.
    kept = Restorer(module.clone(keep_gray=False), variables, batch_size=4, keep_gray=True)
    assert np.array_equal(kept(gray), restorer(gray))


def test_the_network_decides_whether_known_pixels_stay(network, restorer, picture):
    module, variables = network
    inpainting = Restorer(module.clone(keep_known=True), variables, batch_size=4)
    pixels = picture(32, 32)
    pixels[8:20, 10:16] = 255
    restored, free = inpainting(pixels), restorer(pixels)
    painted = np.all(pixels == 255, axis=-1)
    assert np.array_equal(restored[~painted], pixels[~painted])
    assert np.array_equal(restored[painted], free[painted])
    assert difference(free[~painted], pixels[~painted]) > 20
    other = Restorer(module, variables, batch_size=4, keep_known=True)
    assert np.array_equal(other(pixels), restored)


def test_model_files_say_how_results_are_used(tmp_path, network):
    module, variables = network
    path = tmp_path / "model.safetensors"
    save_model(path, "codeformer", module.clone(keep_gray=False, keep_known=True), variables)
    loaded = Restorer.load(path)
    assert (loaded.keep_gray, loaded.keep_known) == (False, True)
    loaded = Restorer.load(path, keep_gray=True, keep_known=False)
    assert (loaded.keep_gray, loaded.keep_known) == (True, False)


def test_not_square_is_the_square_continued_by_its_edges(restorer, picture):
    wide = picture(16, 32)
    square = np.pad(wide, ((8, 8), (0, 0), (0, 0)), mode="edge")
    assert np.array_equal(restorer(wide), restorer(square)[8:24])


def test_w_and_adain_matter(restorer, picture):
    pixels = picture(32, 32)
    assert difference(restorer(pixels, w=0.0), restorer(pixels, w=1.0)) > 2
    assert difference(restorer(pixels), restorer(pixels, adain=False)) > 2
    assert np.array_equal(restorer(pixels), restorer(pixels, 0.5, True))


def test_compiles_once_per_batch_size(network, picture):
    traced = []

    class Counted(CodeFormer):
        def __call__(self, images, *, w, adain=False):
            traced.append(images.shape[0])
            return super().__call__(images, w=w, adain=adain)

    module, variables = network
    fields = {f.name: getattr(module, f.name) for f in dataclasses.fields(module) if f.init}
    del fields["parent"]
    restorer = Restorer(Counted(**fields), variables, batch_size=4)
    images = np.stack([picture(32, 32, seed) for seed in range(11)])
    results = [restorer(images, w=w) for w in (0, 0.25, np.float32(0.5), 1.0)]
    assert traced == [4]
    assert difference(results[0], results[3]) > 2
    restorer([picture(10, 10), *images])
    Restorer(Counted(**fields), variables, batch_size=4)(images)
    assert traced == [4]
    restorer(images[0])
    restorer(images[1], w=0.9)
    assert traced == [4, 1]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((8, 8, 4), np.uint8), r"uint8 \[8, 8, 4\].*alpha"),
        (np.zeros((2, 8, 8, 1), np.uint8), r"\[2, 8, 8, 1\]; expected \[n, h, w, 3\]"),
        (np.zeros((0, 8, 3), np.uint8), "no pixels"),
        (np.zeros((8, 8, 3), np.int64), "int64.*expected uint8"),
        (np.full((8, 8, 3), -0.5), r"-0\.5.*\(x \+ 1\) / 2"),
        (np.full((8, 8, 3), 200.0), r"200.*divide 0\.\.255 by 255"),
        (np.full((8, 8, 3), np.nan), "nan"),
        ([np.zeros((8, 8), np.uint8), np.zeros(8, np.uint8)], r"image 1 is uint8 \[8\]"),
    ],
)
def test_bad_pictures(restorer, images, message):
    with pytest.raises(RestoreError, match=message):
        restorer(images)


@pytest.mark.parametrize("w", [-0.1, 1.3, float("nan")])
def test_bad_w(restorer, picture, w):
    with pytest.raises(RestoreError, match=f"w is {w}; expected a number from 0"):
        restorer(picture(8, 8), w=w)


def test_bad_batch_size(network, restorer, picture):
    with pytest.raises(RestoreError, match="batch size is 0"):
        Restorer(*network, batch_size=0)
    with pytest.raises(RestoreError, match="batch size is -1"):
        restorer(picture(8, 8), batch_size=-1)


def test_result_that_is_not_finite_is_no_picture(network, picture):
    module, variables = network
    broken = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), variables)
    with pytest.raises(RestoreError, match="image 0: the network's result has infinities or NaN"):
        Restorer(module, broken)(picture(32, 32))


def test_load_model_file(model_file, restorer, picture):
    loaded = Restorer.load(model_file, batch_size=4)
    assert loaded.image_size == 32
    assert np.array_equal(loaded(picture(32, 32)), restorer(picture(32, 32)))


@pytest.mark.usefixtures("embedded_network")
def test_without_a_path_the_embedded_network_is_loaded_in_silence(restorer, picture, capfd):
    loaded = Restorer.load(batch_size=4)
    assert np.array_equal(loaded(picture(32, 32)), restorer(picture(32, 32), w=1))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("adain", [None, True, False])
def test_load_workdir(tmp_path, monkeypatch, network, restorer, picture, adain):
    asked = []
    config = ml_collections.ConfigDict({"eval": {} if adain is None else {"adain": adain}})

    def load_trained(path, which="latest"):
        asked.append((path, which))
        module, variables = network
        return Trained("codeformer", module, variables, config)

    # This stands for a run: training has its own tests.
    monkeypatch.setattr("codeformer_jax.checkpoints.trained.load_trained", load_trained)
    loaded = Restorer.load(str(tmp_path), which="best", batch_size=4)
    assert asked == [(tmp_path, "best")]
    # As its run's evaluations; a setting that an old run does not have is on.
    assert loaded.adain is (adain is not False)
    expected = restorer(picture(32, 32), adain=loaded.adain)
    assert np.array_equal(loaded(picture(32, 32)), expected)
    assert np.array_equal(loaded(picture(32, 32), adain=True), restorer(picture(32, 32)))


def test_load_folder_that_is_no_workdir(tmp_path):
    with pytest.raises(FileNotFoundError, match="neither a model file nor a training workdir"):
        Restorer.load(tmp_path)


def test_load_other_network(vqgan_file):
    with pytest.raises(RestoreError, match="holds the network 'vqgan'; restoration needs"):
        Restorer.load(vqgan_file)


def test_load_damaged_file(tmp_path, model_file):
    path = tmp_path / "cut.safetensors"
    path.write_bytes(model_file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"cut\.safetensors: not a safetensors file, or damaged"):
        Restorer.load(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.pth", "codeformer-jax convert .*model.pth .*model.safetensors"),
        ("model.onnx", "is not a model: expected a .safetensors model file"),
    ],
)
def test_load_other_files(tmp_path, name, message):
    (tmp_path / name).write_bytes(b"weights")
    with pytest.raises(RestoreError, match=message):
        Restorer.load(tmp_path / name)


def test_load_nothing(tmp_path):
    with pytest.raises(RestoreError, match=r"no checkpoint .*model\.safetensors"):
        Restorer.load(tmp_path / "model.safetensors")
