"""VQ-VAE, VQGAN and CodeFormer blind face restoration in JAX and Flax.

`import codeformer_jax` is instant: each name below is imported when it is first used.

    import codeformer_jax as cj

    module, variables = cj.from_torch("codeformer", state_dict)
    degraded = cj.degrade.degrade(images, keys, cj.Recipe.named("published"))
    restorer = cj.Restorer.load()
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_MODULES = (
    "checkpoints",
    "compare",
    "convert",
    "data",
    "degrade",
    "evaluate",
    "losses",
    "metrics",
    "nn",
    "ops",
    "priors",
    "restore",
    "sampling",
    "tasks",
    "train",
)
# Name -> module that defines it.
_OBJECTS = {
    "GPT": "nn",
    "LPIPS": "nn",
    "VQGAN": "nn",
    "VQVAE": "nn",
    "CodeFormer": "nn",
    "GumbelQuantizer": "nn",
    "PatchDiscriminator": "nn",
    "PixelCNN": "nn",
    "Recipe": "degrade",
    "Restorer": "restore",
    "STLPIPS": "nn",
    "TamingVQGAN": "nn",
    "VectorQuantizer": "nn",
    "export_trained": "checkpoints.trained",
    "from_torch": "convert",
    "load_model": "convert",
    "load_prior": "priors.prior",
    "load_trained": "checkpoints.trained",
    "make_task": "tasks",
    "read_pth": "convert",
    "save_model": "convert",
    "to_torch": "convert",
}
__all__ = ["__version__", *_MODULES, *_OBJECTS]  # noqa: PLE0604

if TYPE_CHECKING:  # For editors and type checkers.
    from codeformer_jax import (
        checkpoints,
        compare,
        convert,
        data,
        degrade,
        evaluate,
        losses,
        metrics,
        nn,
        ops,
        priors,
        restore,
        sampling,
        tasks,
        train,
    )
    from codeformer_jax.checkpoints.trained import export_trained, load_trained
    from codeformer_jax.convert import from_torch, load_model, read_pth, save_model, to_torch
    from codeformer_jax.degrade import Recipe
    from codeformer_jax.nn import (
        GPT,
        LPIPS,
        STLPIPS,
        VQGAN,
        VQVAE,
        CodeFormer,
        GumbelQuantizer,
        PatchDiscriminator,
        PixelCNN,
        TamingVQGAN,
        VectorQuantizer,
    )
    from codeformer_jax.priors.prior import load_prior
    from codeformer_jax.restore import Restorer
    from codeformer_jax.tasks import make_task


def __getattr__(name: str) -> Any:
    """Imports a public name on first use."""
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _OBJECTS:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    value = getattr(importlib.import_module(f"{__name__}.{_OBJECTS[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
