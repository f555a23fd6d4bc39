"""Maps of a prior, sampled batch by batch by one compiled program."""

from dataclasses import replace

import jax
import numpy as np
import tqdm

from codeformer_jax.ops.random import make_key
from codeformer_jax.priors.kinds import SamplePlan, Values
from codeformer_jax.priors.prior import Prior


def check_plan(prior: Prior, plan: SamplePlan) -> None:
    """Raises ValueError if the prior cannot sample with these settings or classes."""
    plan.sampler.check(prior.levels)
    if plan.classes is not None:
        prior.kind.check_classes(plan.classes)


def sample_maps(
    prior: Prior, plan: SamplePlan, *, batch_size: int, progress: bool | None = None
) -> Values:
    """Samples maps; a last batch that is not full is filled up with copies.

    Args:
        prior: the prior.
        plan: the maps.
        batch_size: maps per batch.
        progress: show a bar on stderr; None shows it on terminals only.

    Returns:
        Values [number, h, w], of pixels [number, h, w, c].
    """
    batch_size = min(batch_size, plan.number)
    disable = None if progress is None else not progress
    key, maps = make_key(plan.seed), []
    with tqdm.tqdm(desc="sample", total=plan.number, unit="map", disable=disable) as bar:
        for start in range(0, plan.number, batch_size):
            rows = np.arange(start, start + batch_size, dtype=np.int32).clip(max=plan.number - 1)
            keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(rows)
            part = plan
            if plan.classes is not None:
                part = replace(plan, classes=tuple(plan.classes[row] for row in rows))
            values = prior.kind.sample(prior.variables, keys, part, prior.levels)
            maps.append(np.asarray(values))
            bar.update(min(batch_size, plan.number - start))
    return np.concatenate(maps)[: plan.number]
