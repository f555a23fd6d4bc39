"""Mistakes that ports make, as changes of one layer: (name, detail, output of the layer)."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from codeformer_jax.compare.layer import Layer

Variation = tuple[str, str, Callable[[], jax.Array]]

ACTIVATIONS = {
    "no activation": lambda x: x,
    "SiLU": jax.nn.silu,
    "ReLU": jax.nn.relu,
    "GELU (erf)": functools.partial(jax.nn.gelu, approximate=False),
    "GELU (tanh)": functools.partial(jax.nn.gelu, approximate=True),
    "LeakyReLU 0.2": functools.partial(jax.nn.leaky_relu, negative_slope=0.2),
    "LeakyReLU 0.01": jax.nn.leaky_relu,
    "tanh": jnp.tanh,
}
_EPSILONS = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-12)
_GROUPS = (1, 2, 4, 8, 16, 32, 64)
_HEADS = (1, 2, 4, 8, 12, 16, 32)


def variations(layer: Layer) -> Iterator[Variation]:
    """Yields every change that a layer can have.

    Args:
        layer: the layer.
    """
    for kind in (_fields, _kernel, _other_weights, _input, _padding, _activation, _resize, _around):
        yield from kind(layer)


def _with(layer: Layer, **params: Any) -> Callable[[], jax.Array]:
    return lambda: layer.apply(params={**layer.params, **params})


def _kernel(layer: Layer) -> Iterator[Variation]:
    kernel, bias = layer.params.get("kernel"), layer.params.get("bias")
    if kernel is not None and kernel.ndim >= 2:
        *space, i, o = range(kernel.ndim)
        if kernel.shape[i] == kernel.shape[o]:
            yield (
                "transposed kernel",
                "input and output features are exchanged",
                _with(layer, kernel=kernel.swapaxes(i, o)),
            )
        if len(space) == 2 and kernel.shape[0] > 1:
            yield (
                "transposed kernel",
                "rows and columns",
                _with(layer, kernel=kernel.swapaxes(0, 1)),
            )
            yield (
                "flipped kernel",
                "convolution and not cross-correlation",
                _with(layer, kernel=kernel[::-1, ::-1]),
            )
        if kernel.shape[i] == 3:
            yield (
                "swapped channels (RGB/BGR)",
                "of the input",
                _with(layer, kernel=kernel[..., ::-1, :]),
            )
        if kernel.shape[o] == 3:
            yield (
                "swapped channels (RGB/BGR)",
                "of the output",
                lambda: layer.apply()[..., ::-1],
            )
    if bias is not None and np.any(np.asarray(bias)):
        yield "missing bias", "the other side adds none", _with(layer, bias=jnp.zeros_like(bias))
    if "scale" in layer.params:
        plain = {"scale": jnp.ones_like(layer.params["scale"])}
        if bias is not None:
            plain["bias"] = jnp.zeros_like(bias)
        yield "missing scale and bias of a norm", "affine=False", _with(layer, **plain)


def _other_weights(layer: Layer) -> Iterator[Variation]:
    for name, variables in layer.others.items():
        if "params" in variables:
            yield (
                "stale weights",
                f"the other side has the weights '{name}' of the file",
                lambda v=variables: layer.apply(params=v["params"]),
            )
    for dtype in (jnp.float16, jnp.bfloat16):
        yield (
            "rounded weights",
            f"stored as {jnp.dtype(dtype).name}",
            lambda d=dtype: layer.apply(
                params=jax.tree.map(lambda p: p.astype(d).astype(p.dtype), layer.params)
            ),
        )


def _input(layer: Layer) -> Iterator[Variation]:
    if not layer.reads_input or not jnp.issubdtype(layer.x.dtype, jnp.floating):
        return
    ranges = {
        "[0, 1] there, [-1, 1] here": lambda x: (x + 1) / 2,
        "[-1, 1] there, [0, 1] here": lambda x: 2 * x - 1,
        "0..255 there, [-1, 1] here": lambda x: (x + 1) * 127.5,
        "0..255 there, [0, 1] here": lambda x: x * 255,
    }
    for detail, change in ranges.items():
        yield "range of the input", detail, lambda c=change: layer.apply(x=c(layer.x))


def _fields(layer: Layer) -> Iterator[Variation]:
    def change(**fields):
        return lambda: layer.apply(module=layer.module.clone(**fields))

    dtype = getattr(layer.module, "dtype", None) or jnp.float32
    for other in (jnp.float32, jnp.bfloat16, jnp.float16):
        if hasattr(layer.module, "dtype") and other != dtype:
            names = f"{jnp.dtype(other).name} there, {jnp.dtype(dtype).name} here"
            yield "dtype of the computation", names, change(dtype=other)
    width = layer.x.shape[-1] if layer.x is not None and layer.x.ndim else 0
    for field in ("epsilon", "eps"):
        for value in _EPSILONS if hasattr(layer.module, field) else ():
            if value != getattr(layer.module, field):
                yield "epsilon of a norm", f"{value:g}", change(**{field: value})
    for field in ("groups", "num_groups", "norm_groups"):
        for value in _GROUPS if isinstance(getattr(layer.module, field, None), int) else ():
            if value != getattr(layer.module, field) and width % value == 0:
                yield "number of groups of a norm", str(value), change(**{field: value})
    for field in ("n_head", "num_heads"):
        for value in _HEADS if hasattr(layer.module, field) else ():
            if value != getattr(layer.module, field) and width % value == 0:
                yield "number of heads", str(value), change(**{field: value})
    if (running := getattr(layer.module, "use_running_average", None)) is not None:
        there = "running" if not running else "the batch's"
        yield (
            "mode of BatchNorm",
            f"{there} statistics there",
            change(use_running_average=not running),
        )


def _padding(layer: Layer) -> Iterator[Variation]:
    kernel = layer.params.get("kernel")
    if kernel is None or kernel.ndim != 4 or kernel.shape[0] == 1 or _doubles(layer):
        return
    size = kernel.shape[0] - 1
    stride = _stride(layer)
    amounts = {(before, size - before) for before in range(size + 1)} | {(0, 0)}
    if stride > 1:
        amounts |= {(0, 1), (1, 0), (1, 1)}
    # With a stride several may give the same output: The symmetric padding, PyTorch's, comes first.
    for amount in sorted(amounts, key=lambda a: (a[0] != a[1], a)):
        yield (
            "padding side",
            "{} before and {} after".format(*amount),
            lambda a=amount: _convolved(layer, layer.x, a, "constant"),
        )
    half = (size // 2, size - size // 2)
    for mode in ("reflect", "edge", "wrap"):
        yield "padding mode", mode, lambda m=mode: _convolved(layer, layer.x, half, m)


def _stride(layer: Layer) -> int:
    stride = getattr(layer.module, "stride", getattr(layer.module, "strides", None)) or 1
    return stride if isinstance(stride, int) else stride[0]


def _convolved(layer: Layer, x: jax.Array, amount: tuple[int, int], mode: str) -> jax.Array:
    """Returns the layer's convolution with another padding."""
    dtype = getattr(layer.module, "dtype", None) or x.dtype
    x, kernel = x.astype(dtype), layer.params["kernel"].astype(dtype)
    padded = jnp.pad(x, ((0, 0), amount, amount, (0, 0)), mode)
    y = jax.lax.conv_general_dilated(
        padded, kernel, (_stride(layer),) * 2, "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return y + layer.params["bias"].astype(y.dtype) if "bias" in layer.params else y


def _activation(layer: Layer) -> Iterator[Variation]:
    """Yields other activations, if the input is a known activation of an earlier output."""
    for source in layer.sources if layer.x is not None else ():
        for here, function in ACTIVATIONS.items():
            if here == "no activation" or not _close(function(source), layer.x):
                continue
            for there, other in ACTIVATIONS.items():
                if there != here:
                    both_gelu = "GELU" in here and "GELU" in there
                    yield (
                        "tanh or erf in GELU" if both_gelu else "activation before the layer",
                        f"{there} there, {here} here",
                        lambda f=other, s=source: layer.apply(x=f(s)),
                    )
            return


def _close(a: jax.Array, b: jax.Array) -> bool:
    scale = float(jnp.linalg.norm(b.reshape(-1).astype(jnp.float32)))
    difference = jnp.linalg.norm((a.astype(jnp.float32) - b.astype(jnp.float32)).reshape(-1))
    return float(difference) <= 1e-5 * scale


def _doubles(layer: Layer) -> bool:
    return "Doubling" in type(layer.module).__name__


def _resize(layer: Layer) -> Iterator[Variation]:
    """Yields other interpolations where a layer enlarges its input before it convolves."""
    if not _doubles(layer):
        return
    x = layer.x
    b, h, w, c = x.shape
    half = ((layer.params["kernel"].shape[0] - 1) // 2,) * 2
    resized = {
        "bilinear, align_corners=False": lambda: jax.image.resize(
            x, (b, 2 * h, 2 * w, c), "linear"
        ),
        "bilinear, align_corners=True": lambda: _align_corners(x),
        "bicubic": lambda: jax.image.resize(x, (b, 2 * h, 2 * w, c), "cubic"),
    }
    for detail, resize in resized.items():
        name = "align_corners of a resize" if "align" in detail else "interpolation of a resize"
        yield name, detail, lambda r=resize: _convolved(layer, r(), half, "constant")


def _align_corners(x: jax.Array) -> jax.Array:
    """Returns images [b, h, w, c] doubled bilinearly, with the corner pixels kept in place."""

    def weights(size):
        at = np.linspace(0, size - 1, 2 * size)
        return jnp.asarray(np.maximum(0, 1 - np.abs(at[:, None] - np.arange(size))), x.dtype)

    rows, columns = (weights(size) for size in x.shape[1:3])
    return jnp.einsum("ih,jw,bhwc->bijc", rows, columns, x)


def _around(layer: Layer) -> Iterator[Variation]:
    """Yields changes of what comes out: a missing residual, an activation too many."""
    if layer.x is not None:
        yield (
            "missing residual",
            "the other side does not add its input",
            lambda: layer.apply() - layer.x,
        )
        yield "residual added", "the other side adds its input", lambda: layer.apply() + layer.x
    for there, function in ACTIVATIONS.items():
        if there != "no activation":
            yield (
                "activation after the layer",
                f"{there} there",
                lambda f=function: f(layer.apply()),
            )
