"""Default of `eval.py --config`: the config that a run wrote into its workdir."""

from collections.abc import Mapping
from typing import Any

import ml_collections
from ml_collections import config_dict

from codeformer_jax.checkpoints.workdir import read_config
from codeformer_jax.system import storage
from codeformer_jax.system.storage import Path


def own_config(
    workdir: str | Path, base: ml_collections.ConfigDict | None = None
) -> ml_collections.ConfigDict:
    """Returns the config of a run, ready for overrides on the command line.

    Overrides need tuples and the types of unset values, which JSON does not have.

    Args:
        workdir: folder of a training run.
        base: config of this version, for the types of unset values and for settings of `eval` that
            the run's version did not have.

    Raises:
        FileNotFoundError: `workdir` does not exist, is a model file, or is not a workdir.
        ValueError: the run's config is damaged.
    """
    workdir = storage.to_path(workdir, "workdir")
    if workdir.is_file():
        raise FileNotFoundError(
            f"--config is required for {workdir}: a model file has no config of its own; give the "
            "config of its training, such as --config=configs/codeformer_stage3.py"
        )
    if not workdir.exists():
        raise FileNotFoundError(f"{workdir} does not exist: expected a model file or a workdir")
    base = ml_collections.ConfigDict() if base is None else base
    config = _typed(read_config(workdir).to_dict(), base)
    missing = {k: base.eval.get_ref(k) for k in base.get("eval", ()) if k not in config.eval}
    config.eval.update(missing)
    if "plugins" in base and "plugins" not in config:
        config.plugins = base.plugins
    return config.lock()


def _typed(stored: Mapping[str, Any], base: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    for name, value in stored.items():
        if isinstance(value, Mapping):
            known = base.get(name)
            known = known if isinstance(known, ml_collections.ConfigDict) else type(config)()
            config[name] = _typed(value, known)
        elif value is None:
            config[name] = config_dict.placeholder(base.get_type(name) if name in base else object)
        else:
            config[name] = tuple(value) if isinstance(value, list) else value
    return config
