"""PyTorch weights <-> variables of this package's networks, and the model files that hold them."""

import codeformer_jax.convert.face_networks
import codeformer_jax.convert.perceptual_networks  # noqa: F401  Both register their networks.
from codeformer_jax.convert.conversion import ConversionSummary, convert_file, parse_overrides
from codeformer_jax.convert.errors import (
    ChecksumError,
    ConversionError,
    ModelFileError,
    PthError,
    UnsafePickleError,
)
from codeformer_jax.convert.files import Verification, load_model, read_about, save_model, verify
from codeformer_jax.convert.fingerprint import code_fingerprint, parameter_fingerprint
from codeformer_jax.convert.networks import (
    NETWORKS,
    Network,
    image_like,
    network_of,
    networks_of_role,
    role_of,
)
from codeformer_jax.convert.pth import read_pth, select_state_dict
from codeformer_jax.convert.pth_write import write_pth
from codeformer_jax.convert.state_dicts import detect_network, from_torch, to_torch

__all__ = [
    "NETWORKS",
    "ChecksumError",
    "ConversionError",
    "ConversionSummary",
    "ModelFileError",
    "Network",
    "PthError",
    "UnsafePickleError",
    "Verification",
    "code_fingerprint",
    "convert_file",
    "detect_network",
    "from_torch",
    "image_like",
    "load_model",
    "network_of",
    "networks_of_role",
    "parameter_fingerprint",
    "parse_overrides",
    "read_about",
    "read_pth",
    "role_of",
    "save_model",
    "select_state_dict",
    "to_torch",
    "verify",
    "write_pth",
]
