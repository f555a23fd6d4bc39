"""Equal results of the CPU's own code and the code of accelerators."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codeformer_jax.ops import fusion


@pytest.mark.parametrize("platform", ["cpu", "accelerator"])
@pytest.mark.parametrize("condition", [True, False])
def test_an_update_where_a_condition_holds(monkeypatch, platform, condition):
    if platform == "accelerator":
        monkeypatch.setattr(
            jax.lax, "platform_dependent", lambda *args, cpu, default: default(*args)
        )
    tree = {"a": jnp.arange(3.0), "b": (jnp.int32(4),)}
    update = jax.jit(
        lambda tree, condition: fusion.update_where(
            condition, lambda tree: {"a": tree["a"] / 0.0, "b": (tree["b"][0] + 1,)}, tree
        )
    )
    after = update(tree, jnp.bool_(condition))
    expected = [np.nan, np.inf, np.inf] if condition else [0, 1, 2]
    np.testing.assert_array_equal(after["a"], expected)
    assert int(after["b"][0]) == 4 + condition


def test_what_is_materialized_is_itself():
    x = jnp.linspace(-1, 1, 7)
    np.testing.assert_array_equal(jax.jit(fusion.materialized)(x), x)
