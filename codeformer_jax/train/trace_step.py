"""The next training step of a run, recorded."""

from typing import Any

import jax
import numpy as np

from codeformer_jax.checkpoints.recover import read_newest
from codeformer_jax.checkpoints.workdir import abstract_state, read_config
from codeformer_jax.compare.trace import Trace
from codeformer_jax.system import storage
from codeformer_jax.system.keys import make_key
from codeformer_jax.system.storage import Path
from codeformer_jax.tasks import make_task
from codeformer_jax.train.recorded_step import step_recorder
from codeformer_jax.train.start import prepare
from codeformer_jax.train.step import step_key


def trace_next_step(workdir: str | Path, images: Any, degraded: Any = None) -> Trace:
    """Records the step that follows the newest checkpoint of a run; changes no file.

    Args:
        workdir: the run's folder.
        images: clean images [b, h, w, 3], uint8 or floats in [-1, 1].
        degraded: degraded images in [-1, 1]; default the task's own degradation.

    Returns:
        The trace, see `recorded_step.step_recorder`.

    Raises:
        FileNotFoundError: no run in `workdir`.
        ValueError: no checkpoint, or a damaged one.
    """
    workdir = storage.to_path(workdir)
    config = read_config(workdir)
    task = make_task(config)
    start = prepare(task, config, workdir)
    if not start.resuming:
        raise ValueError(f"{workdir} has no checkpoint yet, so there is no step to record")
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device),
        abstract_state(task, config),
    )
    state, _ = read_newest(workdir, abstract)
    key = step_key(make_key(config.seed), state.step)
    return step_recorder(task)(state, start.frozen, np.asarray(images), degraded, key)[2]
