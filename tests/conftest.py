"""Strict JAX for every test: 8 virtual CPU devices, no silent promotion, shapes checked."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=8"
    # Most of the tests' time is compilation; the heavy convolutions are library calls anyway.
    + " --xla_backend_optimization_level=0"
)

import jax
from jaxtyping import install_import_hook

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# From here on every annotated function of the package checks its arguments' shapes.
install_import_hook("codeformer_jax", "beartype.beartype")
