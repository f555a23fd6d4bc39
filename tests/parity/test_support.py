"""A failing comparison must fail, and must name the first layer that differs."""

import numpy as np
import pytest
from parity import support


def test_first_layer_is_first_in_network_order():
    norms = {"fuse_convs_dict.32.scale.0.weight": 1.0, "position_emb": 1.0}
    norms |= {f"encoder.blocks.{i}.weight": 1.0 for i in (10, 9, 2)}
    gradients = {name: np.full(1, 1.0) for name in norms}
    support.assert_gradient_norms(gradients, norms)
    for name in ("fuse_convs_dict.32.scale.0.weight", "encoder.blocks.10.weight"):
        gradients[name] = np.full(1, 1.01)
    with pytest.raises(AssertionError, match=r"first layer that differs: encoder\.blocks\.10"):
        support.assert_gradient_norms(gradients, norms)
    gradients["encoder.blocks.9.weight"] = np.full(1, np.nan)
    with pytest.raises(AssertionError, match=r"first layer that differs: encoder\.blocks\.9\."):
        support.assert_gradient_norms(gradients, norms)


def test_missing_gradients_are_named():
    with pytest.raises(AssertionError, match=r"no number for \['main\.0\.bias'\]"):
        support.assert_gradient_norms({}, {"main.0.bias": 0.0})


def test_arrays_and_scalars_beyond_the_bound_fail():
    ones = np.ones(100)
    support.assert_arrays({"latents": (ones * (1 + 9e-5), ones)})
    with pytest.raises(AssertionError, match="first layer that differs: latents"):
        support.assert_arrays({"latents": (ones * (1 + 2e-4), ones), "image": (-ones, ones)})
    with pytest.raises(AssertionError, match="indices, 1 of 3 codes differ"):
        support.assert_arrays({"indices": (np.array([1, 2, 3]), np.array([1, 2, 4]))})
    with pytest.raises(AssertionError, match="shape"):
        support.assert_arrays({"latents": (ones[:1], ones)})
    with pytest.raises(AssertionError, match=r"l1: 0\.5, expected 0\.6"):
        support.assert_scalars({"l1": 0.5}, {"l1": 0.6})
