"""L1, perceptual and adversarial losses of generated images: what stages I and III share."""

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
    """pixel * L1 + perceptual * LPIPS + gan_weight * lambda * hinge on generated images.

    Both parts are differentiated at the output of the last trained block: the image in stage I, the
    last fusion in stage III. Lambda needs of each only the gradient of that block's last kernel,
    and the weighted sum of the cotangents is then pulled back once. Where a batch comes in slices,
    lambda is still the whole batch's: the two parts are pulled back separately and weighted at the
    end, which costs a second backward pass through all that lies before that output. The
    discriminator's BatchNorm sees one slice at a time.

    Attributes:
        config: section `loss` of the task.
        lpips: network of the perceptual part; `net` is that of its variables, `frozen['lpips']`.
        discriminator: network of the adversarial part.
        last_kernel: of the gradients of the trained parameters, the last layer's.
        reached: prefixes of the parameters that the image depends on.
    """

    config: ml_collections.ConfigDict
    lpips: LPIPS
    discriminator: PatchDiscriminator
    last_kernel: Callable[[PyTree], Array]
    reached: Sequence[str]

    @property
    def needed_lpips(self) -> LPIPS | None:
        """The network of the perceptual part, or None where that part has no weight."""
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
        """Gradients and metrics as means over these images, for `weighted`.

        Args:
            fake: generated images.
            real: their truth.
            frozen: 'lpips' where the perceptual part has a weight.
            discriminator: None leaves the adversarial part out.
            pullback: cotangents of the last trained block's output and of the other losses' sum ->
                gradients.
            pull_to_trained: cotangent of the images -> of that output; by default they are it.
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
        # Cotangents of features may be bfloat16; they are summed in the weights' float32.
        wide, weights = weights.dtype, groups.per_row(weights, fake.shape[0])
        summed = cotangent.astype(wide) + weights * gan_cotangent.astype(wide)
        return means | {"gradients": pullback(summed.astype(cotangent.dtype), 1.0)}

    def weighted(self, means: dict[str, Any]) -> tuple[PyTree, common.Metrics]:
        """Gradients of the sum of all losses, and its metrics with the image losses' sum."""
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
        """The weight of the adversarial part for one ratio or one per group; metrics."""
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
        """Gradients and batch statistics of the hinge loss on real and generated images."""

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
    """The losses that `config.loss` and `config.discriminator` describe; see `ImageLosses`.

    Args:
        dtype: of the computation in LPIPS and the discriminator, where the latter's section does
            not name its own.
    """
    fields = {"dtype": dtype, **common.network_fields(config.discriminator)}
    return ImageLosses(
        config.loss,
        LPIPS(normalize_twice=config.loss.lpips_normalize_twice, dtype=dtype),
        PatchDiscriminator(**fields),
        last_kernel,
        reached,
    )
