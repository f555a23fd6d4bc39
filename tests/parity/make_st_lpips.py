"""Makes st_lpips_{alex,vgg}_0.npz with the modules of `stlpips-pytorch` 0.0.2 and seeded weights.

    pip download --no-deps stlpips-pytorch==0.0.2 && unzip stlpips_pytorch-*.whl -d wheel
    PYTHONPATH=tests python tests/parity/make_st_lpips.py wheel

Needs PyTorch, which computes in float64 here. The package's other imports (torchvision, IPython,
torchsummary) are not used by its network and are replaced by stand-ins.
"""

import json
import sys
import types
from pathlib import Path

import numpy as np
import torch
from parity import support

NETS = ("alex", "vgg")


def published(folder, net):
    """The package's network with seeded weights, and its state dict."""
    sys.path.insert(0, str(folder))
    for name in ("torchvision", "IPython", "torchsummary"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules["torchvision"].models = sys.modules["IPython"].embed = None
    sys.modules["torchsummary"].summary = None
    from stlpips_pytorch.stlpips import LPIPS  # noqa: PLC0415  From the wheel.

    network = LPIPS(net=net, variant="shift_tolerant", pretrained=False, verbose=False)
    buffers = {name: value.numpy() for name, value in network.named_buffers()}
    shapes = {name: tuple(value.shape) for name, value in network.named_parameters()}
    table = support.st_lpips_table(shapes, buffers)
    tensors = {name: torch.from_numpy(value) for name, value in table.items()}
    # The heads have a second list of names, which share their tensors.
    missing = network.load_state_dict(tensors, strict=False).missing_keys
    assert all(name.startswith("lins.") for name in missing)
    return network.double(), shapes, buffers


def values(network, height, width):
    """Distances, and the gradient of their sum by the first images."""
    images, others = (
        torch.from_numpy(x.astype(np.float64)).permute(0, 3, 1, 2)
        for x in support.image_pairs(height, width)
    )
    images.requires_grad_()
    distances = network(images, others)
    distances.sum().backward()
    return {
        "distances": np.float32(distances.detach().numpy().reshape(-1)),
        "gradient": np.float32(images.grad.permute(0, 2, 3, 1).numpy()[:, ::4, ::4]),
    }


def main():
    for net in NETS:
        network, shapes, buffers = published(Path(sys.argv[1]), net)
        arrays = {"shapes": json.dumps(shapes)}
        arrays |= {f"buffer:{name}": value for name, value in buffers.items()}
        for height, width in support.ST_LPIPS_SIZES:
            found = values(network, height, width)
            arrays |= {f"{name}_{height}x{width}": value for name, value in found.items()}
        np.savez_compressed(support.HERE / f"st_lpips_{net}_{support.SEED}.npz", **arrays)


if __name__ == "__main__":
    main()
