import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
import pytest

from codeformer_jax.checkpoints.recover import check_arrays

KEPT = {"params": {"a": {"kernel": jnp.zeros((2, 3))}, "b": jnp.zeros(4)}, "collections": {}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "3" / "default"
    with ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(path, KEPT | {"step": jnp.int32(3)})
    return path


def test_the_arrays_of_the_config_pass(folder):
    check_arrays(folder, jax.eval_shape(lambda: KEPT))


@pytest.mark.parametrize(
    ("params", "problem"),
    [
        ({"a": {"kernel": jnp.zeros((2, 4))}}, r"kernel: float32\[2, 3\] .*, float32\[2, 4\] exp"),
        ({"b": jnp.zeros(4, "bfloat16")}, r"params/b: float32\[4\] .*, bfloat16\[4\] expected"),
        ({"c": jnp.zeros(2)}, r"params/c: missing in the checkpoint, float32\[2\] expected"),
        ({"b": None}, r"params/b: float32\[4\] in the checkpoint, none expected"),
    ],
)
def test_other_arrays_are_listed(folder, params, problem):
    params = {name: x for name, x in (KEPT["params"] | params).items() if x is not None}
    wanted = jax.eval_shape(lambda: KEPT | {"params": params})
    with pytest.raises(ValueError, match=problem) as caught:
        check_arrays(folder, wanted)
    assert "Put back the config" in str(caught.value)


def test_other_dtypes_pass_where_they_do_not_matter(folder):
    halves = jax.tree.map(lambda x: x.astype("bfloat16"), KEPT)
    check_arrays(folder, jax.eval_shape(lambda: halves), dtypes=False)
