"""Statistics and adaptive weights over groups of a batch instead of the whole of it.

PyTorch's DistributedDataParallel, which the published networks were trained with, leaves BatchNorm
statistics and the adaptive weight to each device. Here a group of rows that follow one another
stands for a device, on any number of real ones: with as many groups as devices each lies on one.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections
from jaxtyping import Array, Float

from codeformer_jax import losses
from codeformer_jax.nn import PatchDiscriminator
from codeformer_jax.tasks.state import PyTree


def groups_of(loss: ml_collections.ConfigDict) -> int:
    """`loss.statistics_groups`; 1 in configs of runs that are older than it."""
    return loss.get("statistics_groups", 1)


def check(config: ml_collections.ConfigDict) -> None:
    """Raises ValueError where `loss.statistics_groups` does not divide `data.batch_size`.

    Nor does it go with slices of a batch: the published runs had none.
    """
    groups, batch = groups_of(config.loss), config.data.batch_size
    if groups < 1 or batch % groups:
        raise ValueError(
            f"loss.statistics_groups={groups} does not divide data.batch_size={batch}; expected 1 "
            "(statistics of the whole batch) or the number of devices to imitate"
        )
    if groups > 1 and config.optimizer.get("accumulate", 1) > 1:
        raise ValueError(
            f"loss.statistics_groups={groups} are statistics of parts of the batch, which "
            f"optimizer.accumulate={config.optimizer.accumulate} cuts in another way; set one of "
            "them to 1"
        )


def discriminate(
    discriminator: PatchDiscriminator,
    params: PyTree,
    batch_stats: PyTree,
    images: Float[Array, "b h w 3"],
    groups: int,
) -> tuple[Float[Array, "b h2 w2 1"], PyTree]:
    """Logits in training mode, each group normalised by its own statistics; new running statistics.

    Those are the mean over the groups. DDP keeps what its first process saw, a sample of the same
    expectation and more noise; no step reads them, so that training is the same.
    """

    def apply(images):
        return discriminator.apply(
            {"params": params, "batch_stats": batch_stats},
            images,
            train=True,
            mutable="batch_stats",
        )

    if groups == 1:
        logits, updated = apply(images)
        return logits, updated["batch_stats"]
    logits, updated = jax.vmap(apply)(images.reshape(groups, -1, *images.shape[1:]))
    means = jax.tree.map(lambda x: jnp.mean(x, axis=0), updated["batch_stats"])
    return logits.reshape(-1, *logits.shape[2:]), means


def gradient_ratios(
    last_layer_gradient: Callable[[Float[Array, "b h w c"]], Array],
    cotangent: Float[Array, "b h w c"],
    gan_cotangent: Float[Array, "b h w c"],
    groups: int,
) -> Float[Array, "g"]:
    """`losses.gradient_ratio` of each group, as if its rows were the whole batch.

    A group's gradient is the pull-back of a cotangent that is zero in all other rows, because no
    row of the generator depends on another. That takes 2 * groups gradients of one kernel, which is
    the last of the block (with remat each computes the block again).

    Args:
        last_layer_gradient: cotangent of the last trained block's output -> gradient of its last
            kernel.
        cotangent: of the reconstruction loss, a mean over the batch.
        gan_cotangent: of the adversarial loss, likewise.
    """
    if groups == 1:
        ratio = losses.gradient_ratio(
            last_layer_gradient(cotangent), last_layer_gradient(gan_cotangent)
        )
        return ratio[None]
    group = jnp.repeat(jnp.arange(groups), cotangent.shape[0] // groups)[:, None, None, None]

    def ratio(index):
        # Times `groups`: a group's mean is over fewer rows.
        inside = jnp.where(group == index, float(groups), 0.0)
        return losses.gradient_ratio(
            last_layer_gradient(inside * cotangent), last_layer_gradient(inside * gan_cotangent)
        )

    # One after the other, so that no more than one pull-back is in memory.
    return jax.lax.map(ratio, jnp.arange(groups))


def per_row(values: Float[Array, "g"], batch: int) -> Float[Array, "b 1 1 1"]:
    """Each group's value for each of its rows."""
    return jnp.repeat(values, batch // values.shape[0])[:, None, None, None]
