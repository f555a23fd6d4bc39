"""A restoration network as a function of pictures."""

import dataclasses
import functools
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, SupportsFloat

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from codeformer_jax.convert import load_model, networks_of_role
from codeformer_jax.nn.precision import check_precision, products_in
from codeformer_jax.restore import embedded, photo
from codeformer_jax.restore.fit import Fitted, as_dtype, as_image, fit, unfit
from codeformer_jax.restore.photo_options import PhotoOptions
from codeformer_jax.restore.restore_options import RestoreError, check_batch_size, check_weight
from codeformer_jax.system import storage

NOT_FINITE = "the network's result has infinities or NaN; the checkpoint is damaged or diverged"


@dataclasses.dataclass(frozen=True)
class RestoredBatch:
    """Restored images of one batch.

    Attributes:
        images: uint8 0..255 or float32 0..1, like the pictures.
        finite: False for an image with infinities or NaN.
        indices: the codes, row-major, if they were asked for.
    """

    images: UInt8[np.ndarray, "b s s 3"] | Float[np.ndarray, "b s s 3"]
    finite: Bool[np.ndarray, "b"]
    indices: Int[np.ndarray, "b n"] | None = None


class Restorer:
    """Restoration of aligned faces, with one compiled function per batch size.

    Args:
        module, variables: the network.
        batch_size: images per batch; default 1 on a CPU, 8 on an accelerator. The last batch is
            filled up with copies, so that it needs no compilation of its own.
        precision: precision of products and convolutions; see `nn.precision`.
        keep_gray: give black-and-white pictures black-and-white results; default the network's
            setting, see `CodeFormer`.
        keep_known: fill in pure white pixels only and keep all others; default the network's.
        adain, w: defaults of calls.

    Raises:
        RestoreError: if the batch size is below 1.
        ValueError: if the precision is unknown.
    """

    def __init__(
        self,
        module: Any,
        variables: Mapping[str, Any],
        *,
        batch_size: int | None = None,
        precision: str = "default",
        keep_gray: bool | None = None,
        keep_known: bool | None = None,
        adain: bool = True,
        w: SupportsFloat = 0.5,
    ):
        check_precision(precision)
        self.module, self.precision = module, precision
        # Your own network may lack these fields.
        self.keep_gray = getattr(module, "keep_gray", True) if keep_gray is None else keep_gray
        self.keep_known = getattr(module, "keep_known", False) if keep_known is None else keep_known
        self.variables = jax.device_put(dict(variables), jax.local_devices()[0])
        if batch_size is None:
            batch_size = 1 if jax.default_backend() == "cpu" else 8
        check_batch_size(batch_size)
        self.batch_size = batch_size
        self.adain, self.w = adain, check_weight(w)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike | None = None,
        *,
        which: str | int = "latest",
        batch_size: int | None = None,
        keep_gray: bool | None = None,
        keep_known: bool | None = None,
    ) -> "Restorer":
        """Loads the embedded network, a `.safetensors` model file or a training workdir.

        A workdir's precision and `eval.adain` are those of its run; with a model file AdaIN is on.
        The default of `w` is 1 for the embedded network, which was trained for it, and else 0.5.

        Args:
            path: the file or the workdir; None for the embedded network of 128 px.
            which: checkpoint of a workdir: 'latest', 'best' or a step.
            batch_size, keep_gray, keep_known: see the class.

        Returns:
            The restorer.

        Raises:
            RestoreError: if there is no such file, it holds no restoration network, or the embedded
                network is missing or damaged.
            ValueError, FileNotFoundError: if a model file is damaged, or a workdir has no
                checkpoint.
        """
        check_batch_size(batch_size)
        if path is None:
            (network, module, variables), use = embedded.load_embedded(), {"w": embedded.W}
        else:
            path = storage.to_path(path)
            network, module, variables, use = _load(path, which)
        if network not in (known := networks_of_role("restorer")):
            raise RestoreError(
                f"'{path}' holds the network '{network}'; restoration needs {' or '.join(known)} "
                "(from stage II or III of the training, or converted from codeformer.pth)"
            )
        return cls(
            module,
            variables,
            batch_size=batch_size,
            keep_gray=keep_gray,
            keep_known=keep_known,
            **use,
        )

    @property
    def image_size(self) -> int:
        """Side of the network's images in pixels."""
        return self.module.image_size

    def fit(self, picture: np.ndarray) -> Fitted:
        """Resizes a picture, uint8 or floats [h, w] or [h, w, 3], to the network's square."""
        return fit(picture, self.image_size, keep_gray=self.keep_gray, keep_known=self.keep_known)

    def __call__(
        self,
        images: Any,
        w: SupportsFloat | None = None,
        adain: bool | None = None,
        *,
        batch_size: int | None = None,
    ) -> np.ndarray | list[np.ndarray]:
        """Restores pictures of aligned faces.

        Args:
            images: uint8 0..255 or floats 0..1: one picture [h, w, 3] or gray [h, w], several
                [n, h, w, 3], or a list of pictures of any sizes.
            w: fidelity weight from 0 (quality: codes alone) to 1 (fidelity to the input); default
                the restorer's. It is traced: another value does not recompile.
            adain: give the codes' features the statistics of the input's, which keeps its tone.
                Default the restorer's `adain`.
            batch_size: default the restorer's.

        Returns:
            Pictures of the same dtype, range and number of dimensions; a list for a list. The
            longer side is `image_size`. A picture that is not square is extended by its edges for
            the network and cut back. With `keep_gray` a black-and-white picture stays
            black and white, see `fit.tint_of`; without it [h, w] becomes [h, w, 3]. With
            `keep_known` pixels that are not pure white stay.

        Raises:
            RestoreError: if a picture has another form, w is outside [0, 1], or the network's
                result is not finite.
        """
        pictures = _pictures(images)
        fitted = [self.fit(picture) for picture in pictures]
        restored = self.restore_crops(fitted, w, adain, batch_size=batch_size)
        results = [unfit(*pair) for pair in zip(restored, fitted, strict=True)]
        flat = self.keep_gray
        results = [
            as_dtype(result[..., 0] if flat and picture.ndim == 2 else result, picture.dtype)
            for result, picture in zip(results, pictures, strict=True)
        ]
        if isinstance(images, Sequence):
            return results
        if np.ndim(images) == 4:
            empty = np.zeros((0, self.image_size, self.image_size, 3), np.asarray(images).dtype)
            return np.stack(results) if results else empty
        return results[0]

    def restore_photo(
        self,
        image: np.ndarray,
        w: SupportsFloat | None = None,
        adain: bool | None = None,
        *,
        options: PhotoOptions | None = None,
        tools: photo.PhotoTools | None = None,
    ) -> photo.Photo:
        """Restores a photograph with any number of faces.

        Args:
            image: uint8 0..255 or uint16 0..65535, gray [h, w], RGB [h, w, 3] or RGBA [h, w, 4].
            w, adain: see `__call__`.
            options: default `PhotoOptions()`; those about files are not used.
            tools: a `restore.PhotoTools` with detector and options, loaded once for many
                photographs; default one of `options`.

        Returns:
            A `restore.Photo`: the whole picture, of the same dtype and channels, and a record of
            each face. Without a face the pixels are those of the input.

        Raises:
            RestoreError: if the image has another form, the options choose a face that is not
                there, or the network's result is not finite.
            ValueError, OSError: see `PhotoTools.load`.
        """
        tools = tools or photo.PhotoTools.load(options or PhotoOptions())
        return photo.restore_photo(image, self, self._weight(w), adain, tools)

    def restore_crops(
        self,
        crops: Sequence[Fitted],
        w: SupportsFloat | None = None,
        adain: bool | None = None,
        *,
        batch_size: int | None = None,
    ) -> list[np.ndarray]:
        """Restores fitted pictures in batches.

        Args:
            crops: any number of them.
            w, adain, batch_size: see `__call__`.

        Returns:
            The network's squares [s, s, 3].

        Raises:
            RestoreError: if w is outside [0, 1], or a result is not finite.
        """
        w, step = self._weight(w), self.batch_for(len(crops), batch_size)
        results: list[np.ndarray] = []
        for start in range(0, len(crops), step):
            batch = crops[start : start + step]
            restored = self.restore_batch(batch, w, adain, batch_size=step)
            if not restored.finite.all():
                index = start + int(np.argmin(restored.finite))
                raise RestoreError(f"image {index}: {NOT_FINITE}")
            results += list(restored.images)
        return results

    def _weight(self, w: SupportsFloat | None) -> float:
        return self.w if w is None else check_weight(w)

    def batch_for(self, count: int, batch_size: int | None = None) -> int:
        """Returns the batch size for some images.

        Args:
            count: number of images.
            batch_size: the largest; default the restorer's.

        Returns:
            The next power of two, so that few sizes are compiled, but at most `batch_size`.

        Raises:
            RestoreError: if `batch_size` is below 1.
        """
        check_batch_size(batch_size)
        size = batch_size or self.batch_size
        return min(size, 2 ** math.ceil(math.log2(max(count, 1))))

    def restore_batch(
        self,
        batch: Sequence[Fitted],
        w: SupportsFloat,
        adain: bool | None,
        *,
        batch_size: int,
        codes: bool = False,
    ) -> RestoredBatch:
        """Restores fitted pictures in one call of the compiled function.

        Args:
            batch: 1 to `batch_size` pictures.
            w, adain: see `__call__`.
            batch_size: size of the compiled batch.
            codes: return the codes as well.

        Returns:
            As many images as pictures.
        """
        images = stack_pictures(batch, batch_size)
        weights = np.full(batch_size, float(w), np.float32)
        adain = self.adain if adain is None else bool(adain)
        with products_in(self.precision):
            results = _restore(
                self.variables, images, weights, module=self.module, adain=adain, codes=codes
            )
        return RestoredBatch(*(np.asarray(result)[: len(batch)] for result in results))


def stack_pictures(
    batch: Sequence[Fitted], batch_size: int
) -> UInt8[np.ndarray, "b s s 3"] | Float[np.ndarray, "b s s 3"]:
    """Stacks fitted pictures and fills the batch up with copies of the last one.

    Args:
        batch: 1 to `batch_size` pictures.
        batch_size: length of the result.

    Returns:
        uint8 if all pictures are, else float32.
    """
    whole = all(fitted.pixels.dtype == np.uint8 for fitted in batch)
    dtype = np.dtype(np.uint8 if whole else np.float32)
    images = np.stack([as_dtype(fitted.pixels, dtype) for fitted in batch])
    missing = batch_size - len(batch)
    return np.concatenate([images, np.repeat(images[-1:], missing, axis=0)])


def to_input(
    images: UInt8[Array, "b s s 3"] | Float[Array, "b s s 3"],
) -> Float[Array, "b s s 3"]:
    """Returns uint8 0..255 or floats 0..1 as the network's input in [-1, 1]."""
    whole = images.dtype == jnp.uint8
    return images.astype(jnp.float32) / 127.5 - 1 if whole else images * 2 - 1


def to_pixels(
    restored: Float[Array, "b s s 3"], whole: bool
) -> tuple[UInt8[Array, "b s s 3"] | Float[Array, "b s s 3"], Bool[Array, "b"]]:
    """Returns the network's output as pixels.

    Args:
        restored: [b, s, s, 3] in [-1, 1].
        whole: whether pixels are uint8 0..255 or float32 0..1.

    Returns:
        Pixels [b, s, s, 3], and whether each image is finite, [b].
    """
    finite = jnp.isfinite(restored).all(axis=(1, 2, 3))
    restored = (jnp.clip(restored, -1, 1) + 1) / 2
    return (jnp.round(restored * 255).astype(jnp.uint8) if whole else restored), finite


# The variables are arguments: XLA would fold captured ones as constants.
@functools.partial(jax.jit, static_argnames=("module", "adain", "codes"))
def _restore(
    variables: Mapping[str, Any],
    images: UInt8[Array, "b s s 3"] | Float[Array, "b s s 3"],
    w: Float[Array, "b"],
    *,
    module: Any,
    adain: bool,
    codes: bool,
) -> tuple[Array, ...]:
    output = module.apply(variables, to_input(images), w=w, adain=adain)
    results = to_pixels(output.image, images.dtype == jnp.uint8)
    return (*results, output.indices) if codes else results


def _pictures(images: Any) -> list[np.ndarray]:
    if isinstance(images, Sequence):
        return [as_image(image, f"image {index}") for index, image in enumerate(images)]
    if np.ndim(images) == 4:
        images = np.asarray(images)
        if images.shape[-1] != 3:
            raise RestoreError(f"images have shape {list(images.shape)}; expected [n, h, w, 3]")
        return [as_image(image, f"image {index}") for index, image in enumerate(images)]
    return [as_image(images)]


def _load(
    path: storage.Path, which: str | int
) -> tuple[str, Any, Mapping[str, Any], dict[str, Any]]:
    """Returns network, module, variables, and the run's precision and AdaIN if there is one."""
    expected = "expected a .safetensors model file or the workdir of a training run"
    if not path.exists():
        raise RestoreError(f"no checkpoint '{path}'; {expected}")
    if path.is_dir():
        # Orbax takes seconds to import, and model files do not need it.
        from codeformer_jax.checkpoints.trained import load_trained  # noqa: PLC0415

        found = load_trained(path, which=which)
        adain = bool(found.config.get("eval", {}).get("adain", True))
        use = {"precision": found.precision, "adain": adain}
        return found.network, found.module, found.variables, use
    if path.suffix == ".safetensors":
        return *load_model(path), {}
    if path.suffix in (".pth", ".pt", ".ckpt"):
        raise RestoreError(
            f"'{path}' is a PyTorch file; convert it first: codeformer-jax convert {path} "
            f"{path.with_suffix('.safetensors')}"
        )
    raise RestoreError(f"'{path}' is not a model: {expected}")
