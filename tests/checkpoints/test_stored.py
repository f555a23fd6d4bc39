import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
import pytest

from codeformer_jax.checkpoints.stored import check_stored

KEPT = {"params": {"a": {"kernel": jnp.zeros((2, 3))}, "b": jnp.zeros(4)}, "collections": {}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "3" / "default"
    with ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(path, KEPT | {"step": jnp.int32(3)})
    return path


def test_the_arrays_of_the_config_are_there(folder, tmp_path):
    check_stored(folder, jax.eval_shape(lambda: KEPT), tmp_path / "config.json")


@pytest.mark.parametrize(
    ("params", "problem"),
    [
        ({"a": {"kernel": jnp.zeros((2, 4))}}, r"params/a/kernel: \[2, 3\], expected \[2, 4\]"),
        ({"c": jnp.zeros(2)}, r"params/c: missing, expected \[2\]"),
        ({"b": None}, r"params/b: \[4\], unexpected"),
    ],
)
def test_other_arrays_are_listed(folder, tmp_path, params, problem):
    params = {name: x for name, x in (KEPT["params"] | params).items() if x is not None}
    wanted = jax.eval_shape(lambda: KEPT | {"params": params})
    with pytest.raises(ValueError, match=problem) as caught:
        check_stored(folder, wanted, tmp_path / "config.json")
    assert "Put the config back" in str(caught.value)
