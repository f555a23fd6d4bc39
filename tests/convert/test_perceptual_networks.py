"""ST-LPIPS in the names of its package; `test_from_torch.py` has LPIPS."""

import jax
import numpy as np
import pytest
from parity import support

from codeformer_jax.convert import ConversionError, detect_network, from_torch, to_torch
from codeformer_jax.nn import STLPIPS


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_st_lpips_in_the_names_of_its_package(net):
    fixture = support.load(f"st_lpips_{net}")
    buffers = {k.partition(":")[2]: v for k, v in fixture.items() if k.startswith("buffer:")}
    table = support.st_lpips_table(support.table(fixture, "shapes"), buffers)
    assert detect_network(table) == "st_lpips"
    module, variables = from_torch("st_lpips", table)
    assert module == STLPIPS(net=net)
    # PyTorch lists the heads twice.
    heads = {f"lins.{name[3:]}": table[name] for name in table if name.startswith("lin")}
    made = to_torch("st_lpips", variables)
    assert made.keys() == {**table, **heads}.keys()
    for name, array in {**table, **heads}.items():
        np.testing.assert_allclose(made[name], array, atol=1e-7, err_msg=name)
    again = from_torch("st_lpips", made)[1]
    jax.tree.map(np.testing.assert_array_equal, again, variables)
    name = next(name for name in table if name.endswith(".filt"))
    for other in (table[name] * 1.01, table[name][:1], None):
        changed = {n: other if n == name else a for n, a in table.items()}
        if other is None:
            del changed[name]
        with pytest.raises(ConversionError, match=rf"^{name}: missing, or not the constants of"):
            from_torch("st_lpips", changed)
    del table["lin3.model.1.weight"]
    with pytest.raises(ConversionError, match=r"missing \(1\):\n    lin3\.model\.1\.weight"):
        from_torch("st_lpips", table)
