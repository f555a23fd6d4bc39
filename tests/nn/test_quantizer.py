from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from codeformer_jax.nn import QUANTIZERS, VQGAN, VQVAE, GumbelQuantizer, VectorQuantizer, quantizer
from codeformer_jax.nn.quantizer import code_perplexity, count_codes, squared_distances
from examples import run_example

CODEBOOK = jnp.array([[0.0, 0.0], [1.0, 1.0], [4.0, 0.0]])
# Nearest: 0, 1, 1, 2; squared distances 0.5, 0.25, 1, 2.
LATENTS = jnp.array([[0.5, -0.5], [1.0, 0.5], [2.0, 1.0], [5.0, 1.0]]).reshape(1, 2, 2, 2)
MSE = (0.5 + 0.25 + 1 + 2) / 8


def nearest(**fields):
    return VectorQuantizer(3, 2, **fields), {"params": {"embedding": CODEBOOK}}


def test_nearest_code():
    module, variables = nearest()
    output = module.apply(variables, LATENTS)
    np.testing.assert_array_equal(output.indices, [[0, 1, 1, 2]])
    np.testing.assert_allclose(output.latents.reshape(-1, 2), CODEBOOK[jnp.array([0, 1, 1, 2])])
    np.testing.assert_array_equal(output.code_counts, [1, 2, 1])
    distances = squared_distances(LATENTS.reshape(-1, 2), CODEBOOK)
    by_hand = ((LATENTS.reshape(4, 1, 2) - CODEBOOK.reshape(1, 3, 2)) ** 2).sum(-1)
    np.testing.assert_allclose(distances, by_hand, atol=1e-5)
    np.testing.assert_allclose(output.mean_distance, by_hand.mean(), rtol=1e-6)
    rows = module.apply(variables, jnp.array([[2, 0]]), method="lookup")
    np.testing.assert_array_equal(rows, CODEBOOK[jnp.array([[2, 0]])])


def test_straight_through_gradient_is_identity():
    module, variables = nearest()
    weights = jax.random.normal(jax.random.key(0), LATENTS.shape)

    def through(variables, latents):
        return jnp.sum(weights * module.apply(variables, latents).latents)

    codebook, latents = jax.grad(through, argnums=(0, 1))(variables, LATENTS)
    np.testing.assert_array_equal(latents, weights)
    np.testing.assert_array_equal(codebook["params"]["embedding"], 0.0)


@pytest.mark.parametrize(
    ("beta_on", "to_latents", "to_codes"), [("commitment", 0.3, 1.0), ("codebook", 1.0, 0.3)]
)
def test_loss_and_its_gradients(beta_on, to_latents, to_codes):
    module, variables = nearest(beta=0.3, beta_on=beta_on)

    def loss(variables, latents):
        return module.apply(variables, latents).loss

    np.testing.assert_allclose(loss(variables, LATENTS), 1.3 * MSE, rtol=1e-6)
    codes, latents = jax.grad(loss, argnums=(0, 1))(variables, LATENTS)
    difference = LATENTS.reshape(4, 2) - CODEBOOK[jnp.array([0, 1, 1, 2])]
    # d mean(x^2) = 2 x / 8, weighted by the term that lets the gradient pass.
    np.testing.assert_allclose(latents.reshape(4, 2), to_latents * difference / 4, atol=1e-6)
    per_code = jnp.zeros((3, 2)).at[jnp.array([0, 1, 1, 2])].add(-to_codes * difference / 4)
    np.testing.assert_allclose(codes["params"]["embedding"], per_code, atol=1e-6)


def test_unknown_beta_on():
    with pytest.raises(ValueError, match="beta_on is 'both'; expected 'commitment' or 'codebook'"):
        VectorQuantizer(3, 2, beta_on="both")


def moving(**fields):
    module = VectorQuantizer(3, 2, ema_decay=0.9, **fields)
    state = {"embedding": CODEBOOK, "counts": jnp.ones(3), "sums": CODEBOOK}
    return module, {"codebook": state}


def test_moving_average_follows_the_appendix():
    module, variables = moving()
    codebook, counts, sums = np.array(CODEBOOK), np.ones(3), np.array(CODEBOOK)
    for step in range(3):
        latents = np.array(LATENTS) + 0.1 * step
        output, variables = module.apply(variables, jnp.asarray(latents), mutable="codebook")
        # VQ-VAE, appendix A.1: N_i, m_i, e_i = m_i / N_i with Laplace-smoothed N_i.
        flat = latents.reshape(-1, 2)
        chosen = ((flat[:, None] - codebook[None]) ** 2).sum(-1).argmin(1)
        for code in range(3):
            assigned = flat[chosen == code]
            counts[code] = 0.9 * counts[code] + 0.1 * len(assigned)
            sums[code] = 0.9 * sums[code] + 0.1 * assigned.sum(0)
        smoothed = (counts + 1e-5) / (counts.sum() + 3e-5) * counts.sum()
        codebook = sums / smoothed[:, None]
        np.testing.assert_array_equal(output.indices[0], chosen)
        np.testing.assert_allclose(variables["codebook"]["counts"], counts, rtol=1e-6)
        np.testing.assert_allclose(variables["codebook"]["embedding"], codebook, rtol=1e-5)
    assert not np.allclose(codebook, CODEBOOK)


def test_moving_average_trains_no_codebook_parameter():
    module, variables = moving(beta=0.3)
    assert "params" not in module.init(jax.random.key(0), LATENTS)
    output = module.apply(variables, LATENTS)
    np.testing.assert_allclose(output.loss, 0.3 * MSE, rtol=1e-6)
    # Immutable (evaluation): nothing is updated, and nothing fails.
    _, same = module.apply(variables, LATENTS, mutable=["other"])
    assert same == {}


def test_a_fresh_average_starts_at_its_codes():
    module = VectorQuantizer(3, 2, ema_decay=0.9)
    state = module.init(jax.random.key(0), LATENTS)["codebook"]
    np.testing.assert_array_equal(state["sums"], state["embedding"])
    np.testing.assert_array_equal(state["counts"], 1.0)


def test_dead_codes_restart_from_the_batch():
    module, variables = moving(restart_below=0.05)
    state = variables["codebook"] | {"counts": jnp.array([1.0, 1.0, 0.01])}
    far = LATENTS.at[0, 1, 1].set(0.0)  # nothing near code 2

    def restart(seed):
        rngs = {"codes": jax.random.key(seed)}
        return module.apply({"codebook": state}, far, mutable="codebook", rngs=rngs)[1]["codebook"]

    first = restart(0)
    np.testing.assert_array_equal(first["counts"][2], 1.0)
    drawn = first["sums"][2]
    assert any(np.array_equal(drawn, latent) for latent in far.reshape(-1, 2))
    np.testing.assert_allclose(first["embedding"][2], drawn, rtol=1e-4, atol=1e-6)
    assert all(
        np.array_equal(a, b) for a, b in zip(first.values(), restart(0).values(), strict=True)
    )
    others = {tuple(np.asarray(restart(seed)["sums"][2])) for seed in range(8)}
    assert len(others) > 1
    # The codes in use are those of an average without restarts.
    usual, _ = moving()
    after = usual.apply({"codebook": state}, far, mutable="codebook")[1]["codebook"]
    np.testing.assert_allclose(first["sums"][:2], after["sums"][:2])


def test_restarts_on_four_devices_are_those_of_one():
    module = VectorQuantizer(32, 4, ema_decay=0.9, restart_below=0.5)
    latents = jax.random.normal(jax.random.key(1), (8, 4, 4, 4))
    # Far from all latents: most codes are never chosen.
    codes = jax.random.normal(jax.random.key(2), (32, 4)).at[4:].add(50.0)
    state = {"embedding": codes, "counts": jnp.full(32, 0.5), "sums": codes}

    @jax.jit
    def step(state, latents):
        rngs = {"codes": jax.random.key(3)}
        return module.apply({"codebook": state}, latents, mutable="codebook", rngs=rngs)

    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])
    output, one = step(state, latents)
    split = jax.device_put(latents, NamedSharding(mesh, PartitionSpec("data")))
    state = jax.device_put(state, NamedSharding(mesh, PartitionSpec()))
    again, four = step(state, split)
    assert len(again.latents.sharding.device_set) == 4
    np.testing.assert_array_equal(again.indices, output.indices)
    restarted = np.asarray(one["codebook"]["counts"]) == 1.0
    assert restarted.sum() >= 28
    for name in ("sums", "counts", "embedding"):
        # What is drawn is equal; sums over the devices are rounded in another order.
        a, b = np.asarray(four["codebook"][name]), np.asarray(one["codebook"][name])
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
        if name == "sums":
            np.testing.assert_array_equal(a[restarted], b[restarted])


def gumbel(**fields):
    module = GumbelQuantizer(5, 2, **fields)
    return module, module.init(jax.random.key(0), LATENTS)


def test_gumbel_without_noise_is_the_argmax():
    module, variables = gumbel()
    first, second = (module.apply(variables, LATENTS) for _ in range(2))
    np.testing.assert_array_equal(first.indices[0], first.logits.reshape(4, 5).argmax(1))
    embed = variables["params"]["embed"]
    np.testing.assert_allclose(first.latents.reshape(4, 2), embed[first.indices[0]], atol=1e-6)
    np.testing.assert_array_equal(first.latents, second.latents)


def test_gumbel_noise_comes_with_a_key():
    module, variables = gumbel()

    def draw(seed, module=module):
        return module.apply(variables, LATENTS, rngs={"gumbel": jax.random.key(seed)})

    np.testing.assert_array_equal(draw(0).indices, draw(0).indices)
    assert len({tuple(np.asarray(draw(seed).indices[0])) for seed in range(8)}) > 1
    # Straight through: codebook rows forward. Otherwise: mixtures of rows.
    embed = variables["params"]["embed"]
    output = draw(1)
    np.testing.assert_allclose(output.latents.reshape(4, 2), embed[output.indices[0]], atol=1e-6)
    soft = draw(1, GumbelQuantizer(5, 2, straight_through=False))
    assert not np.allclose(soft.latents, output.latents, atol=1e-3)
    cold = draw(1, GumbelQuantizer(5, 2, straight_through=False, temperature=1e-4))
    np.testing.assert_allclose(cold.latents, output.latents, atol=1e-4)
    given = GumbelQuantizer(5, 2, straight_through=False).apply(
        variables, LATENTS, temperature=jnp.float32(1e-4), rngs={"gumbel": jax.random.key(1)}
    )
    np.testing.assert_array_equal(given.latents, cold.latents)
    # Without noise codes are hard, also where training has mixtures.
    plain = GumbelQuantizer(5, 2, straight_through=False).apply(variables, LATENTS)
    np.testing.assert_allclose(plain.latents.reshape(4, 2), embed[plain.indices[0]], atol=1e-6)


def test_gumbel_gradients_reach_logits_and_codes():
    module, variables = gumbel()

    def loss(variables, latents):
        rngs = {"gumbel": jax.random.key(1)}
        return jnp.sum(module.apply(variables, latents, rngs=rngs).latents ** 2)

    gradients, latents = jax.grad(loss, argnums=(0, 1))(variables, LATENTS)
    for gradient in (*jax.tree.leaves(gradients["params"]["proj"]["kernel"]), latents):
        assert np.abs(gradient).max() > 0
    assert np.abs(gradients["params"]["embed"]).max() > 0


def test_gumbel_loss_is_weighted_kl_to_uniform():
    module, variables = gumbel(kl_weight=0.01)
    output = module.apply(variables, LATENTS)
    p = np.asarray(jax.nn.softmax(output.logits.reshape(4, 5)))
    np.testing.assert_allclose(output.loss, 0.01 * (p * np.log(p * 5)).sum(1).mean(), rtol=1e-4)


def test_perplexity_extremes():
    np.testing.assert_allclose(code_perplexity(jnp.array([7.0, 0, 0, 0])), 1.0, rtol=1e-6)
    np.testing.assert_allclose(code_perplexity(jnp.full(64, 3.0)), 64.0, rtol=1e-5)
    np.testing.assert_allclose(code_perplexity(jnp.array([1.0, 1.0, 0, 0])), 2.0, rtol=1e-6)
    counts = count_codes(jnp.array([[0, 3], [3, 3]]), 5)
    np.testing.assert_array_equal(counts, [1, 0, 0, 3, 0])
    assert counts.dtype == jnp.float32


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_codes_start_from_the_latents_that_init_is_given(ema_decay):
    module = VectorQuantizer(4, 3, codebook_init="latents", ema_decay=ema_decay)
    latents = jax.random.normal(jax.random.key(0), (2, 4, 4, 3))
    output, variables = jax.jit(module.init_with_output)(jax.random.key(1), latents)
    start = variables["params"] if ema_decay is None else variables["codebook"]
    rows = {row.tobytes() for row in np.asarray(latents).reshape(-1, 3)}
    codes = {row.tobytes() for row in np.asarray(start["embedding"])}
    assert len(codes) == 4
    assert codes <= rows
    if ema_decay is not None:
        np.testing.assert_array_equal(start["sums"], start["embedding"])
    # What init returns is by these codes, and so is what apply returns.
    np.testing.assert_array_equal(module.apply(variables, latents).indices, output.indices)
    looked_up = module.apply(variables, output.indices, method="lookup")
    np.testing.assert_allclose(looked_up.reshape(latents.shape), output.latents, atol=1e-6)


def test_more_codes_than_latents_are_told_apart():
    module = VectorQuantizer(64, 3, codebook_init="latents")
    latents = jax.random.normal(jax.random.key(0), (1, 4, 4, 3))
    codes = module.init(jax.random.key(1), latents)["params"]["embedding"]
    assert len(np.unique(np.asarray(codes), axis=0)) == 64


def test_a_network_starts_its_codebook_the_same_way():
    images = jax.random.uniform(jax.random.key(0), (2, 16, 16, 3), minval=-1)

    def spread(start):
        module = VQVAE(16, hidden=8, res_blocks=0, codebook_size=8, emb_dim=4, codebook_init=start)
        variables = jax.jit(module.init)(jax.random.key(1), images)
        latents = jax.jit(module.apply)(variables, images).latents
        codes = variables["params"]["quantize"]["embedding"]
        return jnp.min(squared_distances(codes, latents.reshape(-1, 4)))

    assert abs(spread("latents")) < 1e-5 < spread("uniform")


def test_unknown_start_is_refused():
    with pytest.raises(ValueError, match="codebook_init is 'zeros'; expected 'latents' or"):
        VectorQuantizer(4, 3, codebook_init="zeros")


class Colours(nn.Module):
    """A user's model: colours, eight numbers each, 64 codes."""

    quantizer: VectorQuantizer

    @nn.compact
    def __call__(self, images):
        quantized = self.quantizer(nn.Dense(8)(images))
        return nn.Dense(3)(quantized.latents), quantized


def trained_perplexity(**fields):
    """Perplexity of the codes after 150 steps of a loop as a user writes it."""
    module = Colours(VectorQuantizer(64, 8, **fields))
    images = jax.random.uniform(jax.random.key(0), (4, 16, 16, 3), minval=-1)
    variables = dict(module.init(jax.random.key(1), images))
    params, optimizer = variables.pop("params"), optax.adam(1e-2)

    def loss(params, others, key):
        (made, quantized), changed = module.apply(
            {"params": params, **others}, images, mutable=["codebook"], rngs={"codes": key}
        )
        return jnp.mean((made - images) ** 2) + quantized.loss, (changed, quantized.perplexity)

    def step(carry, key):
        params, others, state = carry
        gradients, (changed, perplexity) = jax.grad(loss, has_aux=True)(params, others, key)
        updates, state = optimizer.update(gradients, state)
        return (optax.apply_updates(params, updates), {**others, **changed}, state), perplexity

    with jax.numpy_dtype_promotion("standard"):
        carry = (params, variables, optimizer.init(params))
        keys = jax.random.split(jax.random.key(2), 150)
        return float(jax.jit(lambda *a: jax.lax.scan(step, *a))(carry, keys)[1][-1])


def test_a_start_from_latents_gets_the_codes_used_in_a_users_model():
    published = trained_perplexity()
    assert trained_perplexity(codebook_init="latents") > 1.5 * published
    average = {"ema_decay": 0.95, "restart_below": 0.1, "codebook_init": "latents"}
    assert trained_perplexity(**average) > 1.5 * published


@pytest.mark.slow
@mock.patch.dict(QUANTIZERS)
def test_a_registered_quantizer_works_in_a_vqgan():
    run_example(quantizer, {"__name__": __name__})
    sizes = {"image_size": 8, "nf": 4, "ch_mult": (1, 2), "res_blocks": 1, "attn_resolutions": ()}
    model = VQGAN(**sizes, codebook_size=8, emb_dim=3, norm_groups=2, quantizer="sign")
    images = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    variables = jax.jit(model.init)(jax.random.key(1), images)
    assert "quantize" not in variables["params"]

    def loss(params):
        output = model.apply({"params": params}, images)
        return jnp.mean((output.image - images) ** 2) + output.codebook_loss, output

    gradients, output = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])
    assert all(jnp.any(leaf != 0) for leaf in jax.tree.leaves(gradients["encoder"]["blocks_0"]))
    signs = jnp.where(output.latents > 0, 1.0, -1.0)
    np.testing.assert_array_equal(output.quantized.latents, signs)
    decode = jax.jit(lambda codes: model.apply(variables, codes, method="decode"))
    image = decode(output.indices.reshape(2, 4, 4))
    np.testing.assert_allclose(image, output.image, atol=1e-5)
