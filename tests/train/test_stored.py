import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
import pytest

from codeformer_jax.train.stored import check_stored

KEPT = {"params": {"a": {"kernel": jnp.zeros((2, 3))}, "b": jnp.zeros(4)}, "collections": {}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "3" / "default"
    with ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(path, KEPT | {"step": jnp.int32(3)})
    return path


def test_the_arrays_of_the_config_are_there(folder):
    check_stored(folder, jax.eval_shape(lambda: KEPT), "config.json")


@pytest.mark.parametrize(
    ("params", "problem"),
    [
        (
            {"a": {"kernel": jnp.zeros((2, 4))}},
            r"params/a/kernel: float32\[2, 3\] in the checkpoint, float32\[2, 4\] by config.json",
        ),
        (
            {"b": jnp.zeros(4, jnp.bfloat16)},
            r"params/b: float32\[4\] in the checkpoint, bfloat16\[4\] by config.json",
        ),
        ({"c": jnp.zeros(2)}, r"params/c: not in the checkpoint"),
        ({"b": None}, r"params/b: only in the checkpoint"),
    ],
)
def test_other_arrays_are_listed(folder, params, problem):
    params = {name: x for name, x in (KEPT["params"] | params).items() if x is not None}
    wanted = jax.eval_shape(lambda: KEPT | {"params": params})
    with pytest.raises(ValueError, match=problem) as caught:
        check_stored(folder, wanted, "config.json")
    assert "Put the settings back" in str(caught.value)
