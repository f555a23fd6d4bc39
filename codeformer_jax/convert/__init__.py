"""PyTorch weights <-> variables of this package's networks, and the model files that hold them."""

from codeformer_jax.convert.checksums import Verification, verify
from codeformer_jax.convert.convert_file import ConversionSummary, convert_file, parse_overrides
from codeformer_jax.convert.errors import (
    ChecksumError,
    ConversionError,
    ModelFileError,
    PthError,
    UnsafePickleError,
)
from codeformer_jax.convert.files import load_model, save_model
from codeformer_jax.convert.fingerprint import code_fingerprint, parameter_fingerprint
from codeformer_jax.convert.networks import (
    NETWORKS,
    detect_network,
    from_torch,
    network_of,
    to_torch,
)
from codeformer_jax.convert.pth import read_pth, select_state_dict
from codeformer_jax.convert.pth_write import write_pth

__all__ = [
    "NETWORKS",
    "ChecksumError",
    "ConversionError",
    "ConversionSummary",
    "ModelFileError",
    "PthError",
    "UnsafePickleError",
    "Verification",
    "code_fingerprint",
    "convert_file",
    "detect_network",
    "from_torch",
    "load_model",
    "network_of",
    "parameter_fingerprint",
    "parse_overrides",
    "read_pth",
    "save_model",
    "select_state_dict",
    "to_torch",
    "verify",
    "write_pth",
]
