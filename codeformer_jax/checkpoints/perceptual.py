"""Weights of the perceptual loss."""

from pathlib import Path

from codeformer_jax import convert
from codeformer_jax.tasks.state import PyTree

LPIPS_HELP = (
    "make one with\n"
    '  python -c "import lpips, torch; '
    "torch.save(lpips.LPIPS(net='vgg').state_dict(), 'lpips.pth')\"\n"
    "  codeformer-jax convert lpips.pth weights/lpips.safetensors\n"
    "or train without it: --config.loss.perceptual_weight=0.0"
)


def load_lpips(path: str | None) -> PyTree:
    """Loads the variables of `nn.LPIPS` from a model file.

    Raises:
        ValueError: if no path is given, or the file holds another network.
        FileNotFoundError: if the file does not exist.
    """
    if not path:
        raise ValueError(f"the perceptual loss needs converted LPIPS weights; {LPIPS_HELP}")
    if not Path(path).is_file():
        raise FileNotFoundError(f"no LPIPS weights at {path}; {LPIPS_HELP}")
    network, _, variables = convert.load_model(path)
    if network != "lpips":
        raise ValueError(f"{path} holds a {network}, not LPIPS weights")
    return variables
