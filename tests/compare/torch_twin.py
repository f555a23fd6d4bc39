"""PyTorch twins of our networks, small, and their traces."""

import torch
from parity.seeded import seeded_image, seeded_state_dict
from torch import nn

from benchmarks.torch_codeformer import CodeFormer
from codeformer_jax.compare import load, trace_torch

SIZE, HEADS = 32, 4
WIDTHS = {"ndf": 8, "n_layers": 2}
# Threads that wait for each other on a busy machine take fifty times as long for so small arrays.
torch.set_num_threads(1)


def codeformer():
    """CodeFormer for 32 px with attention in its second level."""
    return CodeFormer(
        SIZE, 32, (1, 2), codes=64, emb_dim=32, dim=64, heads=HEADS, layers=2,
        connect_list=(16, 32),
    )  # fmt: skip


def discriminator():
    """Patch discriminator whose modules have the published numbers."""
    width = WIDTHS["ndf"]
    layers = [nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
    for stride in (2, 1):
        layers += [
            nn.Conv2d(width, 2 * width, 4, stride, 1, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.LeakyReLU(0.2, inplace=True),
        ]
        width *= 2
    module = nn.Module()
    module.main = nn.Sequential(*layers, nn.Conv2d(width, 1, 4, 1, 1))
    module.forward = module.main.forward
    return module


def state_dict(module, seed=0):
    """Seeded weights of a twin, {name: array}."""
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    return seeded_state_dict(shapes, seed)


def set_weights(module, weights):
    """Loads {name: array} and returns the module, in evaluation mode."""
    module.load_state_dict({name: torch.as_tensor(w) for name, w in weights.items()})
    return module.eval()


def image():
    """Seeded image [1, h, w, 3] in [-1, 1]."""
    return 2 * seeded_image(SIZE, SIZE, 0)[None] - 1


def recorded(module, path, **options):
    """Trace that `trace_torch` writes of a module and the seeded image."""
    images = torch.from_numpy(image()).permute(0, 3, 1, 2)
    trace_torch.record(module, images, path, **options)
    return load(path)
