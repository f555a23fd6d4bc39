"""The autoencoder of "Taming Transformers" against the published code's numbers (PyTorch)."""

import numpy as np
import pytest
from parity import support


@pytest.mark.parametrize(("name", "kept"), [("vqgan_small", 1), ("vqgan_f16_1024", 4)])
def test_taming_vqgan(name, kept):
    fixture = support.load(f"taming_{name}")
    config = support.table(fixture, "config")
    settings = config["ddconfig"]
    side = settings["resolution"]
    module, variables = support.seeded("taming_vqgan", fixture, image_size=side)
    read = (module.nf, module.ch_mult, module.res_blocks, module.attn_resolutions)
    expected = ("ch", "ch_mult", "num_res_blocks", "attn_resolutions")
    assert [list(v) if isinstance(v, tuple) else v for v in read] == [settings[n] for n in expected]
    assert (module.codebook_size, module.emb_dim) == (config["n_embed"], config["embed_dim"])
    output = support.jit(module.apply)(variables, support.images(side, 0))
    pixels = np.asarray(output.image)
    support.assert_arrays(
        {
            "latents": (output.latents, fixture["latents"]),
            "indices": (output.indices[0], fixture["indices"]),
            "reconstruction": (pixels[:, ::kept, ::kept], fixture["reconstruction"]),
            "reconstruction_mean": (pixels.mean((1, 2)), fixture["reconstruction_mean"]),
            "reconstruction_std": (pixels.std((1, 2)), fixture["reconstruction_std"]),
        }
    )
    # The loss's value is the same wherever beta is; its gradients are not, see test_quantizer.py.
    support.assert_scalars({"loss": output.codebook_loss}, {"loss": float(fixture["loss"])})
