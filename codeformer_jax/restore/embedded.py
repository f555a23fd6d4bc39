"""The network that ships with the package, for whoever names no other."""

import pathlib
from typing import Any

from codeformer_jax.convert import load_model
from codeformer_jax.restore.restore_options import RestoreError

FILE = pathlib.Path(__file__).parents[1] / "weights" / "photos128.safetensors"
# Default of the fidelity weight: that of its training, where it scores best.
W = 1.0
# Stands for its path in records of restored photographs.
NAME = "photos128 (embedded)"
DESCRIPTION = (
    "network: photos128, 128 px, trained by this project on generated faces (Apache-2.0). For "
    "512 px convert the published weights (non-commercial) and pass --checkpoint: see --help"
)


def load_embedded() -> tuple[str, Any, dict[str, Any]]:
    """Loads the embedded network.

    Returns:
        Network name, module and variables, as `convert.load_model` does.

    Raises:
        RestoreError: if its file is missing or damaged.
    """
    try:
        return load_model(FILE)
    except (OSError, ValueError) as error:
        raise RestoreError(
            f"the embedded network cannot be loaded ({error}); reinstall codeformer-jax, or give "
            "the path of another network (--checkpoint)"
        ) from error
