"""Gated PixelCNN prior of a frozen autoencoder's code maps, or of pixels."""

import jax.numpy as jnp
import ml_collections
from jaxtyping import Array, Float, Key

from codeformer_jax.degrade import Recipe
from codeformer_jax.nn import PixelCNN
from codeformer_jax.sampling import sample_pixelcnn
from codeformer_jax.tasks import common, prior
from codeformer_jax.tasks.protocol import TASKS
from codeformer_jax.tasks.state import PyTree

PIXELS = "pixels"


@TASKS.register("pixelcnn_prior")
class PixelCNNPriorTask(prior.PriorTask):
    """Prior of VQ-VAE (section 3.3) with the network of Gated PixelCNN (section 2).

    Also reads pixelcnn of the config. prior_of may be 'pixels': 256 levels of R, G and B, without a
    teacher.
    """

    classes_setting = "--config.pixelcnn.classes"
    without_classes = "--config.pixelcnn.classes=0"
    other_kinds = (PIXELS,)

    def __init__(self, config: ml_collections.ConfigDict):
        super().__init__(config)
        height, _, channels = self.map_shape
        self.codebook_size = self.teacher.codebook_size if self.needs_teacher else 256
        self.module = PixelCNN(
            **common.network_fields(config.pixelcnn),
            map_size=height,
            channels=channels,
            levels=self.codebook_size,
            ordinal=not self.needs_teacher,
        )
        self.classes = self.module.classes

    def _init_params(self, key: Key[Array, ""]) -> PyTree:
        labels = jnp.zeros(1, jnp.int32) if self.needs_labels else None
        return self.module.init(key, jnp.zeros((1, *self.map_shape), jnp.int32), labels)["params"]

    def logits(
        self,
        params: PyTree,
        frozen: dict[str, PyTree],
        values: prior.Values,
        inputs: PyTree,
        recipe: Recipe | None,
        *,
        train: bool,
    ) -> Float[Array, "b h2 w2 c k"]:
        del frozen, recipe, train
        return self.module.apply({"params": params}, values, inputs.get("labels"))

    def draw(self, variables: PyTree, frozen: dict[str, PyTree], inputs: PyTree) -> prior.Values:
        del frozen
        keys, labels = inputs["keys"], inputs["labels"]
        return sample_pixelcnn(self.module, variables, keys, labels=labels)
