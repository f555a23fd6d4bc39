"""Dense layers with transposed kernels against the layers themselves."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codeformer_jax.nn import transpose_kernels, with_transposed_kernels
from codeformer_jax.nn.layers import wide_dot_general


@pytest.mark.parametrize(
    ("use_bias", "dot_general"), [(True, None), (False, None), (False, wide_dot_general)]
)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("rows", [1, 3, 5, 9, 16])
def test_transposed_layers_equal_the_layers(rows, dtype, use_bias, dot_general):
    given = {"use_bias": use_bias, "dtype": dtype, "dot_general": dot_general}
    dense = nn.Dense(7, bias_init=nn.initializers.normal(1.0), **given)
    x = jax.random.normal(jax.random.key(0), (rows, 1, 12))
    variables = dense.init(jax.random.key(1), x)
    with with_transposed_kernels():
        transposed = jax.jit(dense.apply)(transpose_kernels(variables, dtype), x)
    plain = dense.apply(variables, x)
    assert (transposed.shape, transposed.dtype) == (plain.shape, plain.dtype)
    wide = jnp.float32 in (dtype, plain.dtype)
    assert wide == (dtype == jnp.float32 or dot_general is wide_dot_general)
    tolerance = 1e-6 if wide else 2e-2
    np.testing.assert_allclose(
        np.asarray(transposed, np.float32),
        np.asarray(plain, np.float32),
        atol=3 * tolerance,
        rtol=0,
    )
