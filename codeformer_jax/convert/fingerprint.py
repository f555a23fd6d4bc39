"""Which network a file of codes or scores belongs to."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from codeformer_jax.convert.names import flatten
from codeformer_jax.convert.networks import module_fields
from codeformer_jax.nn import VQGAN, VQVAE, Autoencoder, TamingVQGAN

# Which code a site gets depends on these; the others steer training, or the generator alone.
_VQGAN = (
    "image_size",
    "nf",
    "ch_mult",
    "res_blocks",
    "attn_resolutions",
    "codebook_size",
    "emb_dim",
    "norm_groups",
    "quantizer",
)
_FIELDS = {
    VQGAN: _VQGAN,
    TamingVQGAN: _VQGAN,
    VQVAE: ("image_size", "hidden", "res_blocks", "codebook_size", "emb_dim"),
}


def code_fingerprint(module: Autoencoder, variables: Mapping[str, Any]) -> str:
    """SHA-256 in hexadecimal of what turns images into codes: encoder, codebook, hyperparameters.

    Parameters enter with name, dtype, shape and bytes. The dtype of the computation does not: it
    changes codes as little as another device does.

    Args:
        module: an autoencoder whose codebook is a parameter (`ema_decay` None).
        variables: its variables; a generator or decoder among them is left aside.

    Raises:
        ValueError: where the codebook is a moving average.
    """
    if module.ema_decay is not None:
        raise ValueError(
            f"the codebook of this network is a moving average (ema_decay={module.ema_decay}); "
            "fingerprint the network that stages II and III get of it (train.start.teacher_of)"
        )
    fields = module_fields(module)
    digest = hashlib.sha256(
        json.dumps({name: fields[name] for name in _FIELDS[type(module)]}).encode()
    )
    before = {"encoder", "quant_conv", "quantize"} & variables["params"].keys()
    _add_parameters(digest, {name: variables["params"][name] for name in before})
    return digest.hexdigest()


def parameter_fingerprint(params: Mapping[str, Any]) -> str:
    """SHA-256 in hexadecimal of parameters: name, dtype, shape and bytes of each."""
    digest = hashlib.sha256()
    _add_parameters(digest, params)
    return digest.hexdigest()


def _add_parameters(digest: Any, params: Mapping[str, Any]) -> None:
    for path, value in sorted(flatten(params).items()):
        array = np.asarray(jax.device_get(value), order="C")
        digest.update(f"\n{'/'.join(path)} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
