"""BatchNorm statistics and adaptive weights over groups of a batch.

The published networks were trained with PyTorch's DistributedDataParallel, which computes BatchNorm
statistics and the adaptive weight on each device. Here a group of consecutive rows stands for such
a device, on any number of real devices. With as many groups as devices each group lies on one.
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
    """Returns `loss.statistics_groups`; 1 in older configs, which lack it."""
    return loss.get("statistics_groups", 1)


def check(config: ml_collections.ConfigDict) -> None:
    """Checks `loss.statistics_groups` against the batch.

    Raises:
        ValueError: it does not divide `data.batch_size`, or is combined with slices of a batch.
    """
    groups, batch = groups_of(config.loss), config.data.batch_size
    if groups < 1 or batch % groups:
        raise ValueError(
            f"loss.statistics_groups={groups} does not divide data.batch_size={batch}; expected 1 "
            "(statistics of the whole batch) or the number of devices to imitate"
        )
    if groups > 1 and config.optimizer.get("accumulate", 1) > 1:
        raise ValueError(
            f"loss.statistics_groups={groups} cannot be combined with "
            f"optimizer.accumulate={config.optimizer.accumulate}, which divides the batch in "
            "another way; set one of them to 1"
        )


def discriminate(
    discriminator: PatchDiscriminator,
    params: PyTree,
    batch_stats: PyTree,
    images: Float[Array, "b h w 3"],
    groups: int,
) -> tuple[Float[Array, "b h2 w2 1"], PyTree]:
    """Returns logits in training mode, and the new running statistics.

    Each group is normalised by its own statistics. Running statistics are the mean over the groups.
    DDP keeps those of its first process, which have the same expectation and more noise. No step
    reads them, so training is the same.

    Args:
        discriminator: the module.
        params, batch_stats: its variables.
        images: in [-1, 1], `groups` divides b.
        groups: number of groups.
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
    """Returns `losses.gradient_ratio` of each group, as if its rows were the whole batch.

    No row of the generator depends on another, so a group's gradient is the pullback of a cotangent
    that is zero in all other rows. This takes 2 * groups gradients of the block's last kernel. With
    remat each of them computes the block again.

    Args:
        last_layer_gradient: cotangent of the last trained block's output -> gradient of its last
            kernel.
        cotangent: cotangent of the reconstruction loss, a mean over the batch.
        gan_cotangent: cotangent of the adversarial loss, a mean over the batch.
        groups: number of groups.
    """
    if groups == 1:
        ratio = losses.gradient_ratio(
            last_layer_gradient(cotangent), last_layer_gradient(gan_cotangent)
        )
        return ratio[None]
    group = jnp.repeat(jnp.arange(groups), cotangent.shape[0] // groups)[:, None, None, None]

    def ratio(index):
        # A group's mean is over fewer rows, hence the factor.
        inside = jnp.where(group == index, float(groups), 0.0)
        return losses.gradient_ratio(
            last_layer_gradient(inside * cotangent), last_layer_gradient(inside * gan_cotangent)
        )

    # In sequence, so that at most one pullback is in memory.
    return jax.lax.map(ratio, jnp.arange(groups))


def per_row(values: Float[Array, "g"], batch: int) -> Float[Array, "b 1 1 1"]:
    """Returns each group's value for each of its rows."""
    return jnp.repeat(values, batch // values.shape[0])[:, None, None, None]
