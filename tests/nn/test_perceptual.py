import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parity import support

from codeformer_jax.convert.networks import expected_variables
from codeformer_jax.nn import LPIPS, STLPIPS, fit_lpips
from codeformer_jax.nn.perceptual import IMAGENET_MEAN, IMAGENET_STD
from codeformer_jax.nn.shift_tolerant import BlurredConv, blurred_half, dense_max

IMAGES, TARGETS = (jnp.asarray(support.images(32, seed, seed + 1)) for seed in (0, 2))


@pytest.fixture(scope="module")
def variables():
    yield support.seeded_lpips(support.load("lpips"))[1]
    jax.clear_caches()


@pytest.fixture(scope="module")
def distance():
    return jax.jit(LPIPS().apply)


def test_one_symmetric_positive_value_per_image(variables, distance):
    forth, back = distance(variables, IMAGES, TARGETS), distance(variables, TARGETS, IMAGES)
    assert forth.shape == (2,)
    assert (np.asarray(forth) > 0.01).all()
    np.testing.assert_allclose(forth, back, rtol=1e-4)
    first = distance(variables, IMAGES[:1], TARGETS[:1])
    np.testing.assert_allclose(first, forth[:1], rtol=1e-4)


def test_nearer_images_are_nearer(variables, distance):
    near = distance(variables, 0.9 * IMAGES + 0.1 * TARGETS, IMAGES)
    assert (np.asarray(near) < np.asarray(distance(variables, TARGETS, IMAGES))).all()
    np.testing.assert_allclose(distance(variables, IMAGES, IMAGES), 0.0, atol=1e-12)


def test_normalising_twice_is_normalising_the_input_once_more(variables, distance):
    mean, std = (np.array(v, np.float32)[None, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    mapped = [((x + 1) / 2 - mean) / std for x in (IMAGES, TARGETS)]
    twice = jax.jit(LPIPS(normalize_twice=True).apply)(variables, IMAGES, TARGETS)
    np.testing.assert_allclose(twice, distance(variables, *mapped), rtol=1e-4)
    assert not np.allclose(twice, distance(variables, IMAGES, TARGETS), rtol=1e-2)


def test_gradients_are_finite_also_at_the_target(variables):
    gradient = jax.jit(jax.grad(lambda x, y: LPIPS().apply(variables, x, y).sum()))
    for target in (TARGETS, IMAGES):
        assert np.isfinite(gradient(IMAGES, target)).all()
    assert np.abs(gradient(IMAGES, TARGETS)).max() > 0


def torch_alex_lpips(torch, variables, images, targets):
    """LPIPS 0.1 of AlexNet, in PyTorch's own functions, channels first."""
    functional = torch.nn.functional
    params = variables["params"]
    tensors = [torch.from_numpy(np.array(x)).permute(0, 3, 1, 2) for x in (images, targets)]
    shift = torch.tensor([-0.030, -0.088, -0.188])[None, :, None, None]
    scale = torch.tensor([0.458, 0.448, 0.450])[None, :, None, None]

    def features(x):
        x = (x - shift) / scale
        for i, (stride, padding) in enumerate(((4, 2), (1, 2), (1, 1), (1, 1), (1, 1)), start=1):
            if i in (2, 3):
                x = functional.max_pool2d(x, 3, 2)
            layer = params["alex"][f"conv{i}"]
            kernel = torch.from_numpy(np.array(layer["kernel"]).transpose(3, 2, 0, 1).copy())
            bias = torch.from_numpy(np.array(layer["bias"]))
            x = functional.relu(functional.conv2d(x, kernel, bias, stride, padding))
            yield x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10)

    total = 0
    for i, (one, other) in enumerate(zip(*map(features, tensors), strict=True)):
        head = np.array(params[f"lins_{i}"]["layer"]["kernel"]).transpose(3, 2, 0, 1).copy()
        total += functional.conv2d((one - other) ** 2, torch.from_numpy(head)).mean((1, 2, 3))
    return total.numpy()


def test_alexnet_is_that_of_pytorch():
    torch = pytest.importorskip("torch")
    module = LPIPS(net="alex")
    rng = np.random.RandomState(0)
    images, targets = rng.uniform(-1, 1, (2, 2, 67, 64, 3)).astype(np.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), images, targets)
    draw = lambda x: (rng.standard_normal(x.shape) / np.prod(x.shape[:-1]) ** 0.5).astype("f4")  # noqa: E731
    variables = jax.tree.map(draw, shapes)
    heads = {n: jax.tree.map(np.abs, v) for n, v in variables["params"].items() if n != "alex"}
    variables = {"params": {**variables["params"], **heads}}
    assert fit_lpips(LPIPS(), variables) == module
    found = jax.jit(module.apply)(variables, images, targets)
    expected = torch_alex_lpips(torch, variables, images, targets)
    assert expected.min() > 1e-3
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_other_networks_are_refused():
    with pytest.raises(ValueError, match="net is 'squeeze'; expected one of vgg, alex"):
        LPIPS(net="squeeze")


@pytest.mark.parametrize("size", [(14, 15), (15, 14), (16, 16), (13, 17)])
def test_a_blur_in_the_kernel_is_the_blur_after_it(size):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, *size, 3)), jnp.float32)
    layer = {"kernel": rng.normal(size=(11, 11, 3, 4)), "bias": rng.normal(size=4)}
    params = {"params": jax.tree.map(jnp.float32, layer)}
    blurred = BlurredConv(4, 11).apply(params, x)
    dense = jax.lax.conv_general_dilated(
        x, params["params"]["kernel"], (1, 1), ((2, 2), (2, 2)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    ) + params["params"]["bias"][None, None, None, :]  # fmt: skip
    np.testing.assert_allclose(blurred, blurred_half(dense), atol=1e-4)
    # Plain definition: mirror, blur, keep every second site.
    mirrored = np.pad(np.asarray(dense), ((0, 0), (2, 2), (2, 2), (0, 0)), mode="reflect")
    for axis in (1, 2):
        before, middle, after = (np.roll(mirrored, shift, axis) for shift in (1, 0, -1))
        mirrored = (before + 2 * middle + after) / 4
    np.testing.assert_allclose(blurred, mirrored[:, 1:-1:2, 1:-1:2], atol=1e-4)


def test_dense_maxima_and_their_gradients_are_those_of_max_pool():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 7, 8, 3)), jnp.float32)
    pool = lambda x: jax.lax.reduce_window(  # noqa: E731
        x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 1, 1, 1), "VALID"
    )
    ours, pullback = jax.vjp(lambda x: dense_max(x, 3), x)
    expected, pool_pullback = jax.vjp(pool, x)
    np.testing.assert_array_equal(ours, expected)
    np.testing.assert_allclose(pullback(ours)[0], pool_pullback(ours)[0], rtol=1e-5)


def test_st_lpips_is_chosen_by_its_variables():
    for given in (LPIPS(), LPIPS(net="alex"), STLPIPS(), STLPIPS(net="vgg")):
        network = "st_lpips" if isinstance(given, STLPIPS) else "lpips"
        variables = expected_variables(network, given)
        assert fit_lpips(LPIPS(), variables) == given
        fitted = fit_lpips(LPIPS(normalize_twice=True, dtype=jnp.bfloat16), variables)
        assert (fitted.normalize_twice, fitted.dtype) == (True, jnp.bfloat16)
    with pytest.raises(ValueError, match="'squeeze'; expected one of alex, vgg"):
        STLPIPS(net="squeeze")


def test_gradients_of_st_lpips_are_finite_also_at_the_target_and_on_flat_images():
    module, variables = support.seeded_st_lpips(support.load("st_lpips_alex"))
    gradient = jax.jit(jax.grad(lambda x, y, v: module.apply(v, x, y).sum()))
    for images in (IMAGES, TARGETS, -jnp.ones_like(IMAGES)):
        assert np.isfinite(gradient(images, TARGETS, variables)).all()
    assert np.abs(gradient(IMAGES, TARGETS, variables)).max() > 0
    # Where all channels are zero the norm has no gradient; the ReLU before it passes none on.
    layer = variables["params"]["st_alex"]["conv5"]
    dead = {
        "st_alex": {
            **variables["params"]["st_alex"],
            "conv5": {**layer, "bias": layer["bias"] - 100},
        }
    }
    found = gradient(IMAGES, TARGETS, {"params": {**variables["params"], **dead}})
    assert np.isfinite(found).all()
    with pytest.raises(ValueError, match="images are 20x32 px; expected sides of at least 21 px"):
        module.apply(variables, IMAGES[:, :20], TARGETS[:, :20])
