"""Stage I's training step against PyTorch's; the other two are in `test_full_size.py`."""

import jax
import numpy as np
import pytest
from parity import steps, support

from codeformer_jax import convert
from codeformer_jax.tasks import make_task
from configs import vqgan

LEARNING_RATE = 1e-3
BATCH = 2


@pytest.fixture(scope="module")
def stage1():
    """(fixture, task, state before, state after, metrics) of one generator and one D step."""
    fixture = support.load("stage1_step")
    fields = support.backbone_fields(fixture)
    module, variables = support.seeded("vqgan", fixture, **fields)
    judge, judge_variables = support.seeded("discriminator", fixture, "disc_shapes")
    config = vqgan.get_config().unlock()
    names = set(config.model) - {"dtype", "precision"}
    config.model.update({name: getattr(module, name) for name in names})
    config.discriminator.update(ndf=judge.ndf, n_layers=judge.n_layers)
    config.loss.update(lpips_normalize_twice=True, gan_start=0)
    config.optimizer.update(learning_rate=LEARNING_RATE, schedule="constant")
    task = make_task(config)
    assert (task.module, task.image_losses.discriminator) == (module, judge)
    steps.record(task)
    before = steps.make_state(
        task, variables, variables["params"], module.codebook_size, judge_variables
    )
    frozen = {"lpips": support.seeded_lpips(support.load("lpips"))[1]}
    after, metrics = steps.one_step(task, before, frozen, support.images(64, *range(BATCH)))
    yield fixture, before, after, metrics
    jax.clear_caches()


def test_scalars(stage1):
    fixture, _, _, metrics = stage1
    theirs = support.table(fixture, "scalars")
    names = {
        "l_pix": "l1",
        "l_percep": "perceptual",
        "l_codebook": "codebook_loss",
        "perplexity": "perplexity",
        "l_gan": "gan",
        "d_weight": "adaptive_weight",
        "l_total": "loss",
        "l_d_real": "d_real",
        "l_d_fake": "d_fake",
    }
    support.assert_scalars(
        {name: metrics[ours] for name, ours in names.items()}, {n: theirs[n] for n in names}
    )
    # A quotient of two gradient norms, each of which may be off by their relative bound.
    ratio = theirs["d_weight_unclamped"]
    assert abs(float(metrics["adaptive_ratio"]) - ratio) < support.NORM_BOUND[0] * ratio


def test_gradient_norms(stage1):
    fixture, _, after, _ = stage1
    support.assert_gradient_norms(
        steps.torch_gradients("vqgan", after), support.table(fixture, "grad_norms")
    )
    support.assert_gradient_norms(
        steps.torch_gradients("discriminator", after.discriminator),
        support.table(fixture, "disc_grad_norms"),
    )


def sums(network, variables):
    table = convert.to_torch(network, variables)
    return {name: array.sum(dtype=np.float64) for name, array in table.items()}, table


def assert_updated(network, variables, norms, expected):
    """Sums of parameters after one step of Adam, but for those that follow rounding alone.

    The first step of Adam is the learning rate times the sign of the gradient. Where a gradient is
    zero in exact arithmetic (key biases under a softmax, biases before a norm of one channel per
    group) those signs are rounding's, so the result is arbitrary.
    """
    ours, table = sums(network, variables)
    floor = support.NORM_BOUND[1] * max(norms.values())
    expected = {name: expected[name] for name, norm in norms.items() if norm > floor}
    support.assert_numbers(
        ours, expected, lambda name, value: 1e-2 * LEARNING_RATE * table[name].size
    )
    return len(norms) - len(expected)


def test_updated_parameters(stage1):
    fixture, before, after, _ = stage1
    norms, expected = (support.table(fixture, k) for k in ("grad_norms", "updated_sum"))
    # Six attention blocks' key biases, seven biases of convolutions before one-channel groups.
    assert assert_updated("vqgan", {"params": after.params}, norms, expected) == 13
    # The bound is far below one step: parameters that were not updated would not pass.
    with pytest.raises(AssertionError, match=r"first layer that differs: encoder\.blocks\.0\."):
        assert_updated("vqgan", {"params": before.params}, norms, expected)


def test_updated_discriminator(stage1):
    fixture, before, after, _ = stage1
    norms, expected = (support.table(fixture, f"disc_{k}") for k in ("grad_norms", "updated_sum"))
    state = {"params": after.discriminator.params, "batch_stats": after.discriminator.batch_stats}
    assert assert_updated("discriminator", state, norms, expected) == 0
    first = {**state, "batch_stats": before.discriminator.batch_stats}
    (old, _), (new, table) = sums("discriminator", first), sums("discriminator", state)
    # PyTorch's D saw three batches of two: generated, real, generated; 16x16 and 15x15 sites.
    assert expected["main.3.num_batches_tracked"] == 3
    for index, sites in ((3, BATCH * 16**2), (6, BATCH * 15**2)):
        name = f"main.{index}.running_mean"
        rounding = 1e-6 * np.abs(table[name]).sum()
        assert abs(new[name] - expected[name]) < rounding, name
        # Of the sum, 0.9^3 is the start; PyTorch adds unbiased variances, Flax biased ones.
        name = f"main.{index}.running_var"
        start = 0.9**3 * old[name]
        biased = start + (expected[name] - start) * (sites - 1) / sites
        rounding = 1e-6 * table[name].sum()
        assert abs(new[name] - biased) < rounding, name
        assert abs(new[name] - expected[name]) > 10 * rounding, name
