"""SHA-256 of networks: which one a file of codes or scores belongs to."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from codeformer_jax.convert.names import flatten
from codeformer_jax.convert.networks import lookup, module_fields, network_of
from codeformer_jax.nn import Autoencoder

# Modules of this package's autoencoders that turn images into codes.
ENCODING = ("encoder", "quant_conv", "quantize")


def code_fingerprint(module: Autoencoder, variables: Mapping[str, Any]) -> str:
    """Returns the SHA-256, in hexadecimal, of the part of an autoencoder that makes codes.

    Encoder, codebook and hyperparameters enter; parameters with name, dtype, shape and bytes. The
    dtype of the computation does not: it changes codes as little as another device does.

    Args:
        module: an autoencoder whose codebook is a parameter (`ema_decay` None).
        variables: its variables; the decoder's are ignored.

    Raises:
        ValueError: the codebook is a moving average.
    """
    if getattr(module, "ema_decay", None) is not None:
        raise ValueError(
            f"the codebook of this network is a moving average (ema_decay={module.ema_decay}); "
            "fingerprint the teacher made from it (checkpoints.teachers.teacher_of)"
        )
    fields, params = module_fields(module), variables["params"]
    if names := lookup(network_of(module)).code_fields:
        fields = {name: fields[name] for name in names}
        params = {name: params[name] for name in ENCODING if name in params}
    digest = hashlib.sha256(json.dumps(fields).encode())
    _add_parameters(digest, params)
    return digest.hexdigest()


def parameter_fingerprint(params: Mapping[str, Any]) -> str:
    """Returns the SHA-256, in hexadecimal, of parameters: name, dtype, shape and bytes of each."""
    digest = hashlib.sha256()
    _add_parameters(digest, params)
    return digest.hexdigest()


def _add_parameters(digest: Any, params: Mapping[str, Any]) -> None:
    for path, value in sorted(flatten(params).items()):
        array = np.asarray(jax.device_get(value), order="C")
        digest.update(f"\n{'/'.join(path)} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
