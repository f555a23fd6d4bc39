"""The gated PixelCNN looks at every earlier value and at no later one, in all its forms."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codeformer_jax.nn import PixelCNN
from codeformer_jax.nn.pixelcnn import channel_mask

SMALL = {"levels": 5, "embed_dim": 3, "features": 12, "head_features": 24, "layers": 6}
# name -> fields, height and width: deep enough to cover the map, also with the smallest kernels.
CASES = {
    "codes": ({"first_kernel": 3, "kernel": 3}, (5, 6)),
    "wide kernels": ({"first_kernel": 7, "kernel": 5, "layers": 3}, (6, 5)),
    "classes": ({"classes": 4, "first_kernel": 3}, (4, 4)),
    "pixels": ({"channels": 3, "ordinal": True, "first_kernel": 3}, (4, 3)),
    "embedded pixels": ({"channels": 2, "first_kernel": 5, "kernel": 3}, (3, 4)),
}


@pytest.fixture(scope="module", params=CASES)
def network(request):
    fields, (h, w) = CASES[request.param]
    module = PixelCNN(**SMALL | fields)
    shape = (2, h, w, module.channels)
    values = jax.random.randint(jax.random.key(0), shape, 0, module.levels)
    labels = jnp.array([1, 3]) if module.classes else None
    return module, module.init(jax.random.key(1), values, labels), values, labels


def test_logits_depend_on_every_earlier_value_and_on_no_later_one(network):
    module, variables, values, labels = network
    labels = None if labels is None else labels[:1]
    _, h, w, c = values.shape
    # Of several maps: at a site all rectifiers of a network this small may be closed.
    many = jax.random.randint(jax.random.key(3), (6, 1, h, w, c), 0, module.levels)
    many = module.apply(variables, many, method="embedded")

    def logits(x):
        # Weighted by something random, since logits might cancel in a plain sum.
        y = module.apply(variables, x, labels, method="logits")
        weights = jax.random.normal(jax.random.key(2), (module.levels,))
        return jnp.sum(y * weights[None, None, None, None, :], axis=-1).reshape(-1)

    jacobian = jax.jit(jax.vmap(jax.jacrev(logits)))(many)  # [6, n, 1, h, w, c * d]
    seen = np.abs(np.asarray(jacobian)).reshape(6, h * w * c, h * w * c, -1).max(axis=(0, -1))
    earlier = np.tril(np.ones_like(seen), -1).astype(bool)
    assert np.all(seen[earlier] > 0)
    assert np.all(seen[~earlier] == 0)


def test_a_shallow_network_sees_a_part_of_the_rows_above():
    """The test above could not fail where everything reached everything."""
    module = PixelCNN(**SMALL | {"layers": 1, "first_kernel": 3})
    values = jnp.zeros((1, 4, 4, 1), jnp.int32)
    variables = module.init(jax.random.key(1), values)
    x = module.apply(variables, values, method="embedded")

    def logits(x):
        return module.apply(variables, x, method="logits")[0, 3, 2, 0, 0]

    seen = np.abs(np.asarray(jax.grad(logits)(x)))[0].max(axis=-1) > 0
    np.testing.assert_array_equal(seen, [[0, 0, 0, 0], [0, 0, 0, 0], [0, 1, 1, 1], [0, 1, 0, 0]])


def test_rows_and_sites_give_the_logits_of_the_map(network):
    module, variables, values, labels = network
    whole = module.apply(variables, values, labels)
    b, h, w, c = values.shape

    @partial(jax.jit, static_argnums=0)
    def compiled(method, *arguments):
        return module.apply(variables, *arguments, method=method)

    def call(method, *arguments):
        if method.startswith("empty"):
            return module.apply(variables, *arguments, method=method)
        return compiled(method, *arguments)

    rows = call("empty_rows", b, w)
    for i in range(h):
        rows, contexts = call("next_row", rows, labels)
        sites = call("empty_sites", b)
        for j in range(w):
            for channel in range(c):
                # What is not known yet must play no part.
                known = jnp.where(jnp.arange(c)[None] < channel, values[:, i, j], 1)
                here = tuple(context[:, j] for context in contexts)
                kept, logits = call("next_site", sites, here, known)
                np.testing.assert_allclose(
                    logits[:, channel], whole[:, i, j, channel], rtol=1e-4, atol=1e-5
                )
            x = call("embedded", values[:, i, j])
            sites = (jnp.concatenate([sites[0], x[:, None]], axis=1)[:, 1:], *kept[1:])
        x = call("embedded", values[:, i])
        rows = (jnp.concatenate([rows[0], x[:, None]], axis=1)[:, 1:], *rows[1:])


def test_every_layer_is_conditioned_on_the_class():
    fields, (h, w) = CASES["classes"]
    module = PixelCNN(**SMALL | fields)
    values = jnp.zeros((1, h, w, 1), jnp.int32)
    variables = module.init(jax.random.key(1), values, jnp.array([0]))

    def loss(params):
        return jnp.sum(module.apply({"params": params}, values, jnp.array([2]))[..., 0])

    gradients = jax.grad(loss)(variables["params"])
    tables = {n: np.abs(g["labels"]) for n, g in gradients.items() if n.startswith("gated_")}
    assert len(tables) == module.layers
    for name, table in tables.items():
        # The last layer's vertical output goes nowhere, only its context does.
        stacks = table[1:] if name == f"gated_{module.layers - 1}" else table
        assert np.all(stacks[:, 2] > 0), name
        assert np.all(table[:, [0, 1, 3]] == 0), name
    one, other = (module.apply(variables, values, jnp.array([k])) for k in (0, 1))
    assert np.abs(one - other).max() > 1e-4


def test_masks_of_three_channels():
    np.testing.assert_array_equal(
        channel_mask(3, 3, 6, own=False), [[0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 1, 1], [0] * 6]
    )
    np.testing.assert_array_equal(
        channel_mask(3, 6, 3, own=True).T, [[1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0], [1] * 6]
    )


def test_published_sizes_are_built():
    """Pixels of CIFAR-10, and codes of 32x32 ImageNet maps: shapes only."""
    for fields, shape in (
        ({"channels": 3, "levels": 256, "ordinal": True, "features": 126}, (2, 32, 32, 3)),
        ({"levels": 512, "features": 384, "layers": 20, "classes": 1000}, (2, 32, 32, 1)),
    ):
        module = PixelCNN(**{"head_features": 384} | fields)
        values = jnp.zeros(shape, jnp.int32)
        labels = jnp.zeros(2, jnp.int32) if module.classes else None
        logits, _ = jax.eval_shape(
            lambda v=values, n=labels, m=module: m.init_with_output(jax.random.key(0), v, n)
        )
        assert logits.shape == (*shape, module.levels)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"channels": 3, "features": 64}, "features=64 does not divide into groups for channels=3"),
        ({"channels": 3, "features": 6, "head_features": 10}, "head_features=10 does not divide"),
        ({"kernel": 4}, "kernel must be odd and at least 3; got 4"),
        ({"first_kernel": 1}, "first_kernel must be odd and at least 3; got 1"),
        ({"layers": 0}, "layers must be positive; got 0"),
        ({"classes": -1}, "classes must not be negative; got -1"),
    ],
)
def test_sizes_that_cannot_be_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        PixelCNN(**fields)


def test_labels_come_with_classes_only():
    values = jnp.zeros((2, 3, 3, 1), jnp.int32)
    for classes, labels, message in (
        (0, jnp.array([0, 1]), "conditioned on no classes, and labels were given"),
        (4, None, "conditioned on 4 classes, and none were given"),
    ):
        module = PixelCNN(**SMALL | {"classes": classes})
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(module.init, jax.random.key(0), values, labels)
