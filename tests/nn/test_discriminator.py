import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codeformer_jax.nn import PatchDiscriminator


def init(module, side):
    x = jnp.zeros((1, side, side, 3))
    return jax.eval_shape(lambda: module.init(jax.random.key(0), x, train=False))


@pytest.mark.parametrize(("n_layers", "smallest"), [(1, 6), (2, 12), (3, 24), (4, 48)])
def test_min_size_is_the_smallest_that_scores_a_patch(n_layers, smallest):
    module = PatchDiscriminator(ndf=4, n_layers=n_layers)
    assert module.min_size() == smallest
    variables = init(module, smallest)

    def score(side):
        x = jnp.zeros((1, side, side, 3))
        return jax.eval_shape(lambda v: module.apply(v, x, train=False), variables)

    assert score(smallest).shape == (1, 1, 1, 1)
    message = f"images of {smallest - 1}x{smallest - 1} px are too small for {n_layers} strided"
    with pytest.raises(ValueError, match=f"{message} layers: at least {smallest} px"):
        score(smallest - 1)


def test_widths_double_up_to_eight_times():
    params = init(PatchDiscriminator(ndf=4, n_layers=5), 256)["params"]
    widths = {name: p["kernel"].shape[-1] for name, p in params.items() if "kernel" in p}
    assert widths == {
        "main_0": 4,
        "main_2": 8,
        "main_5": 16,
        "main_8": 32,
        "main_11": 32,
        "main_14": 32,
        "main_17": 1,
    }
    assert {n for n, p in params.items() if "kernel" in p and "bias" in p} == {"main_0", "main_17"}


@pytest.mark.parametrize("fields", [{"ndf": 0}, {"n_layers": 0}])
def test_impossible_hyperparameters(fields):
    with pytest.raises(ValueError, match="ndf and n_layers must be positive; got ndf="):
        PatchDiscriminator(**fields)


def test_statistics_are_the_batch_s_in_training_alone():
    module = PatchDiscriminator(ndf=4, n_layers=1)
    images = jax.random.normal(jax.random.key(0), (2, 16, 16, 3))
    variables = module.init(jax.random.key(1), images, train=False)
    trained, updated = module.apply(variables, images, train=True, mutable="batch_stats")
    mean = updated["batch_stats"]["main_3"]["mean"]
    assert np.abs(mean).max() > 0
    assert not np.allclose(trained, module.apply(variables, images, train=False), atol=1e-3)
    # One image's score depends on the other in training only.
    other = images.at[1].multiply(2.0)
    alone = [module.apply(variables, x, train=False)[0] for x in (images, other)]
    np.testing.assert_allclose(*alone, atol=1e-6)
    mixed, _ = module.apply(variables, other, train=True, mutable="batch_stats")
    assert not np.allclose(mixed[0], trained[0], atol=1e-3)


def test_bfloat16_gives_float32_scores():
    module = PatchDiscriminator(ndf=4, n_layers=1, dtype=jnp.bfloat16)
    images = jax.random.normal(jax.random.key(0), (2, 16, 16, 3))
    variables = module.init(jax.random.key(1), images, train=False)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert module.apply(variables, images, train=False).dtype == jnp.float32
