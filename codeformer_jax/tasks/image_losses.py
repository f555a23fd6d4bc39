"""L1, perceptual and adversarial losses of generated images, shared by stages I and III."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from codeformer_jax import losses
from codeformer_jax.nn import LPIPS, PatchDiscriminator, fit_lpips
from codeformer_jax.tasks import common, groups
from codeformer_jax.tasks.state import DiscriminatorState, PyTree


@dataclass(frozen=True)
class ImageLosses:
    """pixel * L1 + perceptual * distance + gan_weight * lambda * hinge on generated images.

    The distance is LPIPS or ST-LPIPS, whichever the frozen variables are of.

    Reconstruction (pixel and perceptual) and adversarial part are differentiated at the output of
    the last trained block: the image in stage I, the last fusion in stage III. Lambda needs only
    the gradient of that block's last kernel from each part. The weighted sum of the cotangents is
    then pulled back once.

    With a batch in slices, lambda is still that of the whole batch. Both parts are then pulled back
    separately and weighted at the end, which costs a second backward pass. The discriminator's
    BatchNorm sees one slice at a time.

    Attributes:
        config: section `loss` of the task.
        lpips: settings of the perceptual part; `frozen['lpips']` decides between LPIPS and
            ST-LPIPS, and their `net`.
        discriminator: network of the adversarial part.
        last_kernel: gradients of the trained parameters -> gradient of the last kernel.
        reached: prefixes of the parameters that the image depends on.
    """

    config: ml_collections.ConfigDict
    lpips: LPIPS
    discriminator: PatchDiscriminator
    last_kernel: Callable[[PyTree], Array]
    reached: Sequence[str]

    @property
    def needed_lpips(self) -> LPIPS | None:
        """The network of the perceptual part, or None if that part has no weight."""
        return self.lpips if self.config.perceptual_weight else None

    def measure(
        self,
        fake: Float[Array, "b h w 3"],
        real: Float[Array, "b h w 3"],
        frozen: dict[str, PyTree],
        discriminator: DiscriminatorState | None,
        pullback: Callable[[Float[Array, "b h w c"], float], PyTree],
        *,
        pull_to_trained: Callable[[Float[Array, "b h w 3"]], Float[Array, "b h w c"]] = lambda x: x,
        whole: bool,
    ) -> dict[str, Any]:
        """Returns gradients and metrics as means over these images, for `weighted`.

        Args:
            fake: generated images in [-1, 1].
            real: true images in [-1, 1].
            frozen: variables; 'lpips' if the perceptual part has a weight.
            discriminator: its state, or None to leave the adversarial part out.
            pullback: (cotangent of the last trained block's output, cotangent of the sum of the
                task's other losses) -> gradients of the trained parameters.
            pull_to_trained: cotangent of the images -> cotangent of the last trained block's
                output; the identity if the images are that output.
            whole: whether these images are the whole batch.
        """
        (total, metrics), cotangent = jax.value_and_grad(self._reconstruction, has_aux=True)(
            fake, real, frozen
        )
        cotangent = pull_to_trained(cotangent)
        metrics["image_loss"] = total
        if discriminator is None:
            return {"gradients": pullback(cotangent, 1.0), "metrics": metrics}
        (gan, (each, batch_stats)), gan_cotangent = jax.value_and_grad(
            self._adversarial, has_aux=True
        )(fake, discriminator)
        gan_cotangent = pull_to_trained(gan_cotangent)
        judged, judge_metrics = self._judge(discriminator.params, batch_stats, real, fake)
        means = {"discriminator": judged, "metrics": metrics | judge_metrics | {"gan": gan}}
        if not whole:
            adversarial = common.select(pullback(gan_cotangent, 0.0), self.reached)
            return means | {"gradients": pullback(cotangent, 1.0), "adversarial": adversarial}
        ratios = groups.gradient_ratios(
            lambda output: self.last_kernel(pullback(output, 0.0)),
            cotangent,
            gan_cotangent,
            groups.groups_of(self.config),
        )
        weights, adaptive = self._adaptive(ratios)
        means["metrics"] |= adaptive | {"gan_weighted": jnp.mean(weights * each)}
        # Cotangents of features may be bfloat16. They are summed in the weights' float32.
        wide, weights = weights.dtype, groups.per_row(weights, fake.shape[0])
        summed = cotangent.astype(wide) + weights * gan_cotangent.astype(wide)
        return means | {"gradients": pullback(summed.astype(cotangent.dtype), 1.0)}

    def weighted(self, means: dict[str, Any]) -> tuple[PyTree, common.Metrics]:
        """Returns the gradients of all losses' sum, and metrics with 'image_loss'.

        Args:
            means: `measure`'s results over the whole batch.
        """
        gradients, metrics = means["gradients"], dict(means["metrics"])
        if "adversarial" in means:
            adversarial = means["adversarial"]
            ratio = losses.gradient_ratio(
                self.last_kernel(gradients), self.last_kernel(adversarial)
            )
            weight, adaptive = self._adaptive(ratio)
            metrics |= adaptive | {"gan_weighted": weight * metrics["gan"]}
            gradients = gradients | {
                name: jax.tree.map(lambda g, a: g + weight * a, gradients[name], adversarial[name])
                for name in adversarial
            }
        metrics["image_loss"] += metrics.pop("gan_weighted", 0.0)
        return gradients, metrics

    def _adaptive(self, ratios):
        """Returns the adversarial part's weight for a ratio, or for one per group, and metrics."""
        adaptive = jnp.clip(ratios, 0.0, self.config.adaptive_maximum)
        metrics = {"adaptive_weight": jnp.mean(adaptive), "adaptive_ratio": jnp.mean(ratios)}
        return self.config.gan_weight * adaptive, metrics

    def _reconstruction(self, fake, real, frozen):
        pixel = losses.l1(fake, real)
        total, metrics = self.config.pixel_weight * pixel, {"l1": pixel}
        if self.config.perceptual_weight:
            lpips = fit_lpips(self.lpips, frozen["lpips"])
            perceptual = jnp.mean(lpips.apply(frozen["lpips"], fake, real))
            total += self.config.perceptual_weight * perceptual
            metrics["perceptual"] = perceptual
        return total, metrics

    def _adversarial(self, fake, discriminator):
        logits, batch_stats = self._discriminate(
            discriminator.params, discriminator.batch_stats, fake
        )
        each = jax.vmap(losses.hinge_generator)(logits.reshape(groups.groups_of(self.config), -1))
        return jnp.mean(each), (each, batch_stats)

    def _discriminate(self, params, batch_stats, images):
        return groups.discriminate(
            self.discriminator, params, batch_stats, images, groups.groups_of(self.config)
        )

    def _judge(self, params, batch_stats, real, fake):
        """Returns gradients and batch statistics of the discriminator's hinge loss, and metrics."""

        def loss(params):
            real_logits, stats = self._discriminate(params, batch_stats, real)
            fake_logits, stats = self._discriminate(params, stats, fake)
            real_loss, fake_loss = losses.hinge_discriminator(real_logits, fake_logits)
            metrics = {
                "d_real": real_loss,
                "d_fake": fake_loss,
                "d_logit_real": jnp.mean(real_logits),
                "d_logit_fake": jnp.mean(fake_logits),
            }
            return real_loss + fake_loss, (stats, metrics)

        gradients, (stats, metrics) = jax.grad(loss, has_aux=True)(params)
        return (gradients, stats), metrics


def make_image_losses(
    config: ml_collections.ConfigDict,
    dtype: DTypeLike,
    last_kernel: Callable[[PyTree], Array],
    reached: Sequence[str],
) -> ImageLosses:
    """Returns the losses that `config.loss` and `config.discriminator` describe.

    Args:
        config: the run's config.
        dtype: of the computation in the perceptual network, and in a discriminator whose section
            names none.
        last_kernel, reached: see `ImageLosses`.
    """
    fields = {"dtype": dtype, **common.network_fields(config.discriminator)}
    return ImageLosses(
        config.loss,
        LPIPS(normalize_twice=config.loss.lpips_normalize_twice, dtype=dtype),
        PatchDiscriminator(**fields),
        last_kernel,
        reached,
    )
