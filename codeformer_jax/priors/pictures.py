"""Maps of a prior, drawn batch by batch by one compiled program."""

from dataclasses import dataclass, replace

import jax
import numpy as np
import tqdm
from jaxtyping import Bool, Int32

from codeformer_jax.nn import GPT
from codeformer_jax.ops.random import make_key
from codeformer_jax.priors.prior import Prior, Values
from codeformer_jax.sampling import (
    Draw,
    class_tokens,
    code_tokens,
    sample_gpt,
    sample_pixelcnn,
    start_tokens,
)
from codeformer_jax.sampling.pixelcnn import check_labels


@dataclass(frozen=True)
class Order:
    """What is to be drawn; the same for all samples but for their key and class.

    Attributes:
        number: samples.
        size: rows and columns of each map.
        seed: sample i is drawn by the key fold_in(key(seed), i), whatever the batch.
        how: temperature, top-k, top-p.
        classes: of each sample; None for a prior without classes.
        condition: codes [h, w] or [n], of a prior with a condition of codes.
        given, keep: a map [1, h, w] or [1, h, w, c], and where it stands.
    """

    number: int
    size: tuple[int, int]
    seed: int
    how: Draw
    classes: tuple[int, ...] | None = None
    condition: Int32[np.ndarray, "..."] | None = None
    given: Values | None = None
    keep: Bool[np.ndarray, "h w"] | None = None


def check_order(prior: Prior, order: Order) -> None:
    """Raises ValueError for what this prior cannot draw, naming both."""
    order.how.check(prior.levels)
    if order.classes is None:
        return
    if isinstance(prior.module, GPT):
        class_tokens(prior.module, order.classes)
    else:
        check_labels(prior.module, np.asarray(order.classes), order.number)


def draw_maps(
    prior: Prior, order: Order, *, batch_size: int, progress: bool | None = None
) -> Values:
    """The maps of an order; a last batch that is not full is filled up with copies.

    Args:
        batch_size: maps at once.
        progress: a bar on stderr; None shows it on terminals only.
    """
    batch_size = min(batch_size, order.number)
    disable = None if progress is None else not progress
    maps = []
    with tqdm.tqdm(desc="sample", total=order.number, unit="map", disable=disable) as bar:
        for start in range(0, order.number, batch_size):
            rows = np.arange(start, start + batch_size, dtype=np.int32).clip(max=order.number - 1)
            maps.append(np.asarray(_draw(prior, order, rows)))
            bar.update(min(batch_size, order.number - start))
    return np.concatenate(maps)[: order.number]


def _draw(prior: Prior, order: Order, rows: Int32[np.ndarray, "b"]) -> jax.Array:
    module, batch = prior.module, len(rows)
    key = make_key(order.seed)
    keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(rows)
    given = None if order.given is None else np.repeat(order.given, batch, axis=0)
    options = {"size": order.size, "how": order.how, "keep": order.keep}
    if isinstance(module, GPT):
        options["how"] = replace(order.how, codes=prior.levels)
        condition = _tokens(module, order, rows)
        return sample_gpt(module, prior.variables, keys, condition, given=given, **options)
    labels = None if order.classes is None else np.asarray(order.classes, np.int32)[rows]
    flat = prior.stage1 is not None
    if flat and given is not None:
        given = given[..., None]
    values = sample_pixelcnn(module, prior.variables, keys, labels=labels, given=given, **options)
    return values[..., 0] if flat else values


def _tokens(module: GPT, order: Order, rows: np.ndarray) -> Int32[np.ndarray, "..."]:
    if module.condition == "start":
        return start_tokens(module, len(rows))
    if module.condition == "class":
        return class_tokens(module, [order.classes[row] for row in rows])
    return code_tokens(module, np.stack([order.condition] * len(rows)))
