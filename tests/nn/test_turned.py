"""Dense layers with turned kernels against the layers themselves."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codeformer_jax.nn import turn_kernels, with_turned_kernels


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("rows", [1, 3, 5, 9, 16])
def test_turned_layers_give_what_the_layers_give(rows, dtype, use_bias):
    dense = nn.Dense(7, use_bias=use_bias, dtype=dtype, bias_init=nn.initializers.normal(1.0))
    x = jax.random.normal(jax.random.key(0), (rows, 1, 12))
    variables = dense.init(jax.random.key(1), x)
    with with_turned_kernels():
        turned = jax.jit(dense.apply)(turn_kernels(variables, dtype), x)
    plain = dense.apply(variables, x)
    assert (turned.shape, turned.dtype) == (plain.shape, plain.dtype)
    tolerance = 1e-6 if dtype == jnp.float32 else 2e-2
    np.testing.assert_allclose(
        np.asarray(turned, np.float32), np.asarray(plain, np.float32), atol=3 * tolerance, rtol=0
    )
