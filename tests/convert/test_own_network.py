"""A network registered from outside the package is stored, recognised and converted both ways."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codeformer_jax import convert
from codeformer_jax.cli import main
from codeformer_jax.convert import NETWORKS, ConversionError
from codeformer_jax.convert.networks import expected_variables

MODULE = """
import flax.linen as nn

from codeformer_jax.convert import NETWORKS, Network, image_like


class Scaler(nn.Module):
    width: int = 4
    sides: tuple = (3, 3)
    gain: float = 1.0

    @nn.compact
    def __call__(self, images):
        x = nn.Conv(self.width, self.sides, name="layers_0")(images)
        shift = self.param("shift", nn.initializers.zeros, (self.width,))
        return nn.Dense(3, name="head")(x + shift[None, None, None]) * self.gain


NETWORKS.register("scaler")(
    Network(
        Scaler,
        lambda module: ((image_like(8),), {}),
        marks=(("layers.0.",), ("shift",)),
        read=lambda shapes, given: {"width": shapes["layers.0.weight"][0]},
        torch_name=lambda name: name.replace("head.", "out."),
    )
)
"""


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    """Name of an importable module that registers the network 'scaler'."""
    (tmp_path / "own_networks.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield "own_networks"
    sys.modules.pop("own_networks", None)
    NETWORKS.pop("scaler", None)


def test_a_users_network_converts_both_ways_from_the_command_line(own_module, tmp_path):
    rng = np.random.default_rng(0)
    shapes = {"layers.0.weight": (5, 3, 3, 3), "layers.0.bias": (5,), "shift": (5,)}
    shapes |= {"out.weight": (3, 5), "out.bias": (3,)}
    table = {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    source, model = tmp_path / "s.pth", tmp_path / "s.safetensors"
    convert.write_pth(source, {"params_ema": table})
    with pytest.raises(ConversionError, match="cannot tell the network"):
        convert.convert_file(source, model)

    main(["convert", str(source), str(model), "--plugin", own_module, "--set", "gain=2"])
    network, module, variables = convert.load_model(model)
    assert (network, module.width, module.sides, module.gain) == ("scaler", 5, (3, 3), 2.0)
    assert convert.role_of(module) == ""
    images = jnp.ones((1, 8, 8, 3))
    assert module.apply(variables, images).shape == (1, 8, 8, 3)

    main(["convert", str(model), str(tmp_path / "back.pth"), "--to-torch"])
    back = convert.select_state_dict(convert.read_pth(tmp_path / "back.pth"))
    assert back.keys() == table.keys()
    for name, array in table.items():
        np.testing.assert_array_equal(back[name], array)


def test_a_model_file_of_a_network_that_nobody_registered_says_what_to_do(own_module, tmp_path):
    __import__(own_module)
    module = NETWORKS["scaler"].module()
    variables = expected_variables("scaler", module)
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), variables)
    convert.save_model(tmp_path / "m.safetensors", "scaler", module, zeros)
    NETWORKS.pop("scaler")
    with pytest.raises(ConversionError, match=r"unknown network 'scaler'(.|\n)*config\.plugins"):
        convert.load_model(tmp_path / "m.safetensors")
