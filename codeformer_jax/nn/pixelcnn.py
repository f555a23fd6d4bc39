"""Gated PixelCNN over maps of codes or pixels (arXiv 1606.05328).

Values are ordered by row, column and, at one site, channel (R, G, B). Two stacks keep the order:
the vertical one sees all rows above, the horizontal one the sites to the left. Together they see
every earlier value, which a single stack does not (the blind spot). Spatial masks are kernels
without the taps that would look ahead; channel masks are zeros between groups of features.

Parameter tree: embed, gated_{i}/*, head_hidden, head_out.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from codeformer_jax.nn.cpu.conv_gradients import convolve
from codeformer_jax.nn.layers import sum_dtype, wide_dot_general
from codeformer_jax.ops.checks import AnyArray, as_integers

# Variance of initial weights times fan-in; a gate halves its input.
_GAIN = 2.0

# One array per layer: input rows [b, r, w, c], input sites [b, s, c], or contexts.
Cache = tuple[Float[Array, "..."], ...]


class MaskedDense(nn.Module):
    """x W + b over the last axis, where a group of features sees itself and earlier groups.

    Attributes:
        wide: keeps the float32 sums as the result, whatever `dtype` is.
    """

    features: int
    groups: int
    dtype: DTypeLike = jnp.float32
    wide: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "*s c"]) -> Float[Array, "*s d"]:
        mask = channel_mask(self.groups, x.shape[-1], self.features, own=True)
        kernel = self.param("kernel", _masked_init(mask), mask.shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        product = wide_dot_general if self.wide else jax.lax.dot_general
        last = (((x.ndim - 1,), (0,)), ((), ()))
        y = product(x.astype(self.dtype), _masked(kernel, mask).astype(self.dtype), last)
        return y + _over(bias, y)


class GatedLayer(nn.Module):
    """Layer of both stacks (figure 2) in pieces, for whole maps and for single rows or sites.

    Attributes:
        inputs: input features of either stack.
        features: output features p of either stack.
        half: taps to each side of a site and above it.
        groups: channels of a site.
        classes: number of classes that condition both gates; 0 is none.
        first: uses mask A and no residual, because the input is the map itself.
    """

    inputs: int
    features: int
    half: int
    groups: int
    classes: int
    first: bool
    dtype: DTypeLike = jnp.float32

    def setup(self):
        gates, half = 2 * self.features, self.half
        rows = half if self.first else half + 1
        shape = (rows, 2 * half + 1, self.inputs, gates)
        self.vertical = self.param("vertical", _masked_init(np.ones(shape)), shape, jnp.float32)
        here = channel_mask(self.groups, self.inputs, self.features, own=not self.first)
        here = np.concatenate([here, here], axis=1)
        # Mask of one row, from `half` sites to the left up to the site itself.
        self.mask = np.stack([*[np.ones_like(here)] * half, here])
        self.horizontal = self.param(
            "horizontal", _masked_init(self.mask), self.mask.shape, jnp.float32
        )
        square = (gates, gates)
        self.link = self.param("link", _masked_init(np.ones(square)), square, jnp.float32)
        zeros = nn.initializers.zeros
        self.vertical_bias = self.param("vertical_bias", zeros, (gates,), jnp.float32)
        self.horizontal_bias = self.param("horizontal_bias", zeros, (gates,), jnp.float32)
        if self.classes:
            table = nn.initializers.normal(0.1)
            self.labels = self.param("labels", table, (2, self.classes, gates), jnp.float32)
        self.out = MaskedDense(self.features, self.groups, self.dtype)

    def vertical_map(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        """Returns the vertical gates of a map; row i sees rows up to i, or i - 1 if `first`."""
        padding = ((self.half, 0), (self.half, self.half))
        y = convolve(x.astype(self.dtype), self.vertical.astype(self.dtype), 1, padding)
        return y[:, : x.shape[1]]

    def vertical_row(self, rows: Float[Array, "b r w c"]) -> Float[Array, "b w d"]:
        """Returns the vertical gates of one row from the rows that its kernel covers."""
        padding = ((0, 0), (self.half, self.half))
        y = convolve(rows.astype(self.dtype), self.vertical.astype(self.dtype), 1, padding)
        return y[:, 0]

    def horizontal_map(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        """Returns the horizontal gates of a map from sites of the same row."""
        kernel = _masked(self.horizontal, self.mask)[None]
        padding = ((0, 0), (self.half, 0))
        return convolve(x.astype(self.dtype), kernel.astype(self.dtype), 1, padding)

    def horizontal_site(self, sites: Float[Array, "b s c"]) -> Float[Array, "b d"]:
        """Returns the horizontal gates of one site from the half + 1 sites that end with it."""
        kernel = _masked(self.horizontal, self.mask).astype(self.dtype)
        flat = sites.astype(self.dtype).reshape(sites.shape[0], -1)
        return jnp.matmul(flat, kernel.reshape(-1, kernel.shape[-1]))

    def open_vertical(
        self, gates: Float[Array, "b *s d"], labels: Int[Array, "b"] | None
    ) -> tuple[Float[Array, "b *s c"], Float[Array, "b *s d"]]:
        """Returns the vertical stack's output, and its contribution to the horizontal gates.

        Args:
            gates: vertical gates [b, ..., 2 p].
            labels: classes [b], or None.
        """
        context = jnp.matmul(gates, self.link.astype(self.dtype))
        biases = [self.vertical_bias, self.horizontal_bias]
        gates, context = gates + _over(biases[0], gates), context + _over(biases[1], context)
        if labels is not None:
            conditions = self.labels[:, labels].astype(self.dtype)
            inner = (1,) * (gates.ndim - 2)
            conditions = conditions.reshape(2, labels.shape[0], *inner, -1)
            gates, context = gates + conditions[0], context + conditions[1]
        return gate(gates), context

    def open_horizontal(
        self,
        gates: Float[Array, "b *s d"],
        context: Float[Array, "b *s d"],
        x: Float[Array, "b *s c"],
    ) -> Float[Array, "b *s e"]:
        """Returns the horizontal stack's output.

        Args:
            gates: horizontal gates [b, ..., 2 p].
            context: contribution of the vertical stack [b, ..., 2 p].
            x: input of the layer, for the residual.
        """
        y = self.out(gate(gates + context))
        return y if self.first else x + y


class PixelCNN(nn.Module):
    """Logits of every value of a map given earlier values; maps [b, h, w, c] of 0..levels - 1.

    Attributes:
        map_size: side of the training maps; other sizes work.
        channels: c, values per site: 1 for maps of codes, 3 for RGB images.
        levels: K, the codebook's size or 256.
        ordinal: values are intensities, and the network sees them instead of embeddings.
        embed_dim: features of a value's embedding.
        layers: gated layers.
        features: width p of either stack; a multiple of `channels`.
        first_kernel, kernel: odd sides of the (masked) square kernels.
        head_features: width of the hidden layer before the logits; a multiple of `channels`.
        classes: number of classes that condition every layer; 0 is none.
        dtype: dtype of the computation; parameters and logits are float32.

    Raises:
        ValueError: at construction, for sizes out of range.
    """

    map_size: int = 16
    channels: int = 1
    levels: int = 512
    ordinal: bool = False
    embed_dim: int = 64
    layers: int = 12
    features: int = 128
    first_kernel: int = 7
    kernel: int = 3
    head_features: int = 256
    classes: int = 0
    dtype: DTypeLike = jnp.float32

    def __post_init__(self):
        for name in ("map_size", "channels", "levels", "embed_dim", "layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive; got {getattr(self, name)}")
        for name in ("features", "head_features"):
            width = getattr(self, name)
            if width < 1 or width % self.channels:
                raise ValueError(
                    f"{name}={width} does not divide into groups for channels={self.channels}; "
                    "change one of them"
                )
        for name in ("first_kernel", "kernel"):
            side = getattr(self, name)
            if side < 3 or side % 2 == 0:
                raise ValueError(f"{name} must be odd and at least 3; got {side}")
        if self.classes < 0:
            raise ValueError(f"classes must not be negative; got {self.classes}")
        super().__post_init__()

    def setup(self):
        inputs = self.channels * (2 if self.ordinal else self.embed_dim)
        if not self.ordinal:
            shape = (self.channels, self.levels, self.embed_dim)
            self.embed = self.param("embed", nn.initializers.normal(1.0), shape, jnp.float32)
        layers = [self._layer(inputs, self.first_kernel, first=True)]
        layers += [self._layer(self.features, self.kernel) for _ in range(self.layers - 1)]
        self.gated = layers
        self.head_hidden = MaskedDense(self.head_features, self.channels, self.dtype)
        self.head_out = MaskedDense(
            self.channels * self.levels, self.channels, self.dtype, wide=True
        )

    def _layer(self, inputs: int, kernel: int, *, first: bool = False) -> GatedLayer:
        return GatedLayer(
            inputs, self.features, kernel // 2, self.channels, self.classes, first, self.dtype
        )

    def __call__(
        self, values: AnyArray, labels: AnyArray | None = None
    ) -> Float[Array, "b h w c k"]:
        """Returns the logits of every value.

        Args:
            values: integers [b, h, w, c].
            labels: integers [b] if the network has classes, else None.

        Raises:
            ValueError, TypeError: for arrays of another form; the message says what to pass.
        """
        values = as_integers(values, "values", ("batch", "height", "width", "channels"))
        if labels is not None:
            labels = as_integers(labels, "labels", ("batch",))
        return self.logits(self.embedded(values), labels)

    def embedded(self, values: Int[Array, "*s c"]) -> Float[Array, "*s d"]:
        """Returns the layers' input for values; outside a map the input is zero."""
        if self.ordinal:
            x = values.astype(sum_dtype(self.dtype)) * (2 / (self.levels - 1)) - 1
            x = jnp.stack([x, jnp.ones_like(x)], axis=-1)
        else:
            offsets = (jnp.arange(self.channels) * self.levels).astype(values.dtype)
            table = self.embed.reshape(-1, self.embed_dim)
            x = table[values + _over(offsets, values)]
        return x.reshape(*values.shape[:-1], -1)

    def logits(
        self, x: Float[Array, "b h w d"], labels: Int[Array, "b"] | None = None
    ) -> Float[Array, "b h w c k"]:
        """Returns the logits of a map of embedded values; `method='logits'`.

        Args:
            x: return value of `embedded`.
            labels: see `__call__`.
        """
        self.check_labels(labels)
        vertical = horizontal = x
        for layer in self.gated:
            gates = layer.vertical_map(vertical)
            vertical, context = layer.open_vertical(gates, labels)
            gates = layer.horizontal_map(horizontal)
            horizontal = layer.open_horizontal(gates, context, horizontal)
        return self.head(horizontal)

    def head(self, x: Float[Array, "*s d"]) -> Float[Array, "*s c k"]:
        """Returns logits from the horizontal stack's features."""
        x = self.head_out(nn.relu(self.head_hidden(nn.relu(x))))
        return x.reshape(*x.shape[:-1], self.channels, self.levels)

    def check_labels(self, labels: Int[Array, "b"] | None) -> None:
        """Raises ValueError if labels are missing, or given to a network without classes."""
        if (labels is None) == bool(self.classes):
            given = "none were given" if labels is None else "labels were given"
            raise ValueError(
                f"this network is conditioned on {self.classes or 'no'} classes, and {given}; "
                "expected one label per map where classes > 0, and None otherwise"
            )

    def empty_rows(self, batch: int, width: int) -> Cache:
        """Returns zeros in place of the rows above a map, for each layer's vertical stack.

        Args:
            batch: number of maps.
            width: columns of a map.
        """
        return tuple(
            jnp.zeros((batch, layer.half, width, layer.inputs), self._dtype_in(index))
            for index, layer in enumerate(self.gated)
        )

    def empty_sites(self, batch: int) -> Cache:
        """Returns zeros in place of the sites left of a row, for each layer's horizontal stack."""
        return tuple(
            jnp.zeros((batch, layer.half, layer.inputs), self._dtype_in(index))
            for index, layer in enumerate(self.gated)
        )

    def _dtype_in(self, index: int) -> DTypeLike:
        return jnp.float32 if index == 0 else self.dtype

    def next_row(self, rows: Cache, labels: Int[Array, "b"] | None) -> tuple[Cache, Cache]:
        """Computes the vertical stack for a row, before any of its values is known.

        Args:
            rows: last input rows [b, r, w, c] of each layer.
            labels: see `__call__`.

        Returns:
            Rows for the next call, where the first layer still lacks this row's values, and each
            layer's context for the horizontal gates of every site.
        """
        kept, contexts, vertical = [rows[0]], [], None
        for layer, window in zip(self.gated, rows, strict=True):
            if vertical is not None:
                window = jnp.concatenate([window, vertical[:, None]], axis=1)  # noqa: PLW2901
                kept.append(window[:, 1:])
            vertical, context = layer.open_vertical(layer.vertical_row(window), labels)
            contexts.append(context)
        return tuple(kept), tuple(contexts)

    def next_site(
        self,
        sites: Cache,
        contexts: Cache,
        values: Int[Array, "b c"],
    ) -> tuple[Cache, Float[Array, "b c k"]]:
        """Returns the logits of one site, given its values in earlier channels.

        Args:
            sites: last input sites [b, s, c] of this row, for each layer.
            contexts: contexts of this site [b, d], for each layer; see `next_row`.
            values: values of this site; those not known yet have no effect.

        Returns:
            Sites for the next call, valid once all channels but the last are known and with
            `values` in the first layer, and the logits.
        """
        x, kept = self.embedded(values), []
        for layer, left, context in zip(self.gated, sites, contexts, strict=True):
            window = jnp.concatenate([left, x[:, None]], axis=1)
            kept.append(window[:, 1:])
            x = layer.open_horizontal(layer.horizontal_site(window), context, x)
        return tuple(kept), self.head(x)


def channel_mask(groups: int, inputs: int, outputs: int, *, own: bool) -> np.ndarray:
    """Returns a mask [inputs, outputs] that is 1 where an output may see an input of its own site.

    Args:
        groups: number of equal runs of features, one for each channel.
        inputs, outputs: number of features.
        own: whether a group sees itself (mask B) or only earlier groups (mask A).
    """
    inside = np.arange(inputs)[:, None] * groups // inputs
    outside = np.arange(outputs)[None, :] * groups // outputs
    return (inside <= outside if own else inside < outside).astype(np.float32)


def gate(x: Float[Array, "*s d"]) -> Float[Array, "*s c"]:
    """Returns tanh of the first half of the features times sigmoid of the second (eq. 2)."""
    a, b = jnp.split(x, 2, axis=-1)
    return jnp.tanh(a) * jax.nn.sigmoid(b)


def _masked(kernel: jax.Array, mask: np.ndarray) -> jax.Array:
    return kernel if mask.all() else kernel * mask


def _masked_init(mask: np.ndarray):
    """Returns a normal initializer whose variance counts the unmasked inputs of each output."""
    seen = np.maximum(mask.reshape(-1, mask.shape[-1]).sum(axis=0), 1)
    scale = np.sqrt(_GAIN / seen).astype(np.float32)

    def init(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
        drawn = jax.random.normal(key, shape, dtype)
        return drawn * scale.reshape((1,) * (len(shape) - 1) + (-1,)) * mask.astype(np.float32)

    return init


def _over(vector: Float[Array, "d"] | Int[Array, "d"], x: jax.Array) -> jax.Array:
    """Reshapes a vector over the last axis of `x` to its rank and dtype."""
    return vector.astype(x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))
