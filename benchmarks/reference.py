"""Networks and losses of a checkout of the published CodeFormer code, imported from where it lies.

Nothing of that code is part of this project: its licence is non-commercial, and a checkout is given
by the one who compares (`--reference DIR`). Of it only three files are executed, those with the
networks and the losses; the package around them asks for more than a comparison needs, so that
its logger, its registry and `lpips` are replaced by stand-ins before the import.
"""

import importlib
import logging
import sys
import types
from pathlib import Path

import torch
from torch import nn

SIZE = 512  # The published CodeFormer's image side; the codes' grid is a 32nd of it.
FILES = ("archs/vqgan_arch.py", "archs/codeformer_arch.py", "losses/losses.py")
# VGG16: positions of the convolutions, widths, and of the activations that LPIPS compares.
VGG = {0: 64, 2: 64, 5: 128, 7: 128, 10: 256, 12: 256, 14: 256, 17: 512, 19: 512, 21: 512}
VGG |= {24: 512, 26: 512, 28: 512}
POOLS = (4, 9, 16, 23)
TAPS = (3, 8, 15, 22, 29)


class Registry:
    """Stands in for a registry of classes: leaves them as they are."""

    def register(self):
        return lambda cls: cls


class LPIPS(nn.Module):
    """LPIPS 0.1 with VGG16 (arXiv 1801.03924), whose weights come from a state dict.

    Images are [n, 3, h, w] in [-1, 1]; the distance is [n, 1, 1, 1].
    """

    def __init__(self, net="vgg", spatial=False):
        super().__init__()
        if net != "vgg" or spatial:
            raise ValueError(f"only net='vgg' without spatial; got {net!r}, {spatial!r}")
        layers, before = {}, 3
        for index, width in VGG.items():
            layers[index] = nn.Conv2d(before, width, 3, padding=1)
            layers[index + 1] = nn.ReLU()
            before = width
        layers |= {index: nn.MaxPool2d(2) for index in POOLS}
        self.features = nn.Sequential(*(layers[index] for index in sorted(layers)))
        for head, width in enumerate((64, 128, 256, 512, 512)):
            head_layers = nn.Sequential(nn.Identity(), nn.Conv2d(width, 1, 1, bias=False))
            setattr(self, f"lin{head}", nn.ModuleDict({"model": head_layers}))
        for name, value in (("shift", (-0.030, -0.088, -0.188)), ("scale", (0.458, 0.448, 0.450))):
            buffer = torch.tensor(value).view(1, 3, 1, 1)
            self.register_buffer(name, buffer, persistent=False)

    def activations(self, x):
        """The five compared activations, each site's of unit length."""
        x, found = (x - self.shift) / self.scale, []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in TAPS:
                found.append(x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10))
        return found

    def forward(self, first, second):
        pairs = zip(self.activations(first), self.activations(second), strict=True)
        return sum(
            getattr(self, f"lin{head}")["model"]((a - b).square()).mean((2, 3), keepdim=True)
            for head, (a, b) in enumerate(pairs)
        )


def checkout(root, files, option, address):
    """Returns the absolute folder of a checkout's code.

    Raises:
        FileNotFoundError: names the first of `files` that it lacks.
    """
    root = Path(root).resolve()
    for file in files:
        if not (root / file).is_file():
            raise FileNotFoundError(
                f"{root / file} does not exist: {option} takes a checkout of {address}"
            )
    return root


def install(stand_ins):
    """Puts modules {name: {member: value}} in place of those that a comparison does not need."""
    for name, members in stand_ins.items():
        sys.modules[name] = types.ModuleType(name)
        vars(sys.modules[name]).update(members)


def load(directory):
    """Networks and losses of the checkout as a namespace: `vqgan`, `codeformer`, `losses`.

    Raises:
        FileNotFoundError: names the first file that the checkout lacks.
    """
    root = checkout(
        Path(directory) / "basicsr", FILES, "--reference", "https://github.com/sczhou/CodeFormer"
    )
    registries = {name: Registry() for name in ("ARCH_REGISTRY", "LOSS_REGISTRY")}
    stand_ins = {
        "basicsr": {"__path__": []},
        "basicsr.utils": {"get_root_logger": logging.getLogger, "__path__": []},
        "basicsr.utils.registry": registries,
        "basicsr.archs": {"__path__": [str(root / "archs")]},
        "basicsr.archs.vgg_arch": {"VGGFeatureExtractor": None},
        "basicsr.losses": {"__path__": [str(root / "losses")]},
        "lpips": {"LPIPS": LPIPS},
    }
    install(stand_ins)
    return types.SimpleNamespace(
        vqgan=importlib.import_module("basicsr.archs.vqgan_arch"),
        codeformer=importlib.import_module("basicsr.archs.codeformer_arch"),
        losses=importlib.import_module("basicsr.losses.losses"),
    )


def make_vqgan(published):
    """The published stage-I network: convolutions, so that it takes images of any size."""
    return published.vqgan.VQAutoEncoder(SIZE, 64, [1, 2, 2, 4, 4, 8])


def make_codeformer(published, size):
    """The published CodeFormer for images of `size`; frozen parts do not require gradients.

    The published class is for 512 px. For another size it has as many positions as there are
    codes, its quantizer returns that grid, and its fusion blocks are listed under the sides that
    the feature maps have then. At 512 px nothing is changed.
    """
    grid = size // 32
    network = published.codeformer.CodeFormer(latent_size=grid**2)
    if size == SIZE:
        return network
    network.fuse_convs_dict = nn.ModuleDict(
        {str(int(side) * size // SIZE): block for side, block in network.fuse_convs_dict.items()}
    )
    lookup = network.quantize.get_codebook_feat
    network.quantize.get_codebook_feat = lambda indices, shape: lookup(
        indices, [shape[0], grid, grid, shape[-1]]
    )
    return network


def make_discriminator(published):
    """The published patch discriminator."""
    return published.vqgan.VQGANDiscriminator()


def shapes(network):
    """{name: shape} of everything in the network's state dict."""
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def set_weights(network, weights):
    """Loads NumPy weights under PyTorch names; every name must match."""
    network.load_state_dict({name: torch.from_numpy(w) for name, w in weights.items()})
    return network
