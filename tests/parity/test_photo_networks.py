"""Detector, parser and enlarger of photographs against PyTorch's numbers."""

import numpy as np
import pytest
from parity import support
from parity.seeded import seeded_image


@pytest.mark.parametrize(
    "backbone", ["mobile0.25", pytest.param("resnet50", marks=pytest.mark.slow)]
)
def test_retinaface(backbone):
    fixture = support.load(f"retinaface_{backbone}")
    module, variables = support.seeded("retinaface", fixture)
    levels = np.round(255 * seeded_image(320, 416, support.SEED)).astype(np.float32)
    images = levels[None, ..., ::-1] - np.array([104, 117, 123], np.float32)
    output = support.jit(module.apply)(variables, images)
    support.assert_arrays(
        {
            "BboxHead": (output.boxes[0, ::8], fixture["loc"]),
            "ClassHead": (output.logits[0, ::8], fixture["conf_logits"]),
            "LandmarkHead": (output.points[0, ::8], fixture["landmarks"]),
        }
    )


@pytest.mark.slow  # 10 s on two cores
def test_parsenet():
    fixture = support.load("parsenet")
    module, variables = support.seeded("parsenet", fixture)
    output = support.jit(module.apply)(variables, support.images(512, support.SEED))
    logits = np.asarray(output.logits)
    support.assert_arrays(
        {
            "out_mask_conv": (logits[:, ::32, ::32], fixture["logits"]),
            "out_img_conv": (output.image[:, ::16, ::16], fixture["image_out"]),
        }
    )
    labels = logits[0].argmax(axis=-1)[::4, ::4]
    assert (labels == fixture["labels"]).mean() >= 0.999


@pytest.mark.slow  # 6 s, most of it compilation
def test_rrdbnet():
    fixture = support.load("rrdbnet_x2")
    module, variables = support.seeded("rrdbnet", fixture)
    images = seeded_image(96, 128, support.SEED)[None]
    enlarged = np.asarray(support.jit(module.apply)(variables, images))
    assert enlarged.shape == (1, 192, 256, 3)
    support.assert_arrays(
        {
            "output": (enlarged[:, ::4, ::4], fixture["output"]),
            "output_mean": (enlarged.mean((1, 2)), fixture["output_mean"]),
            "output_std": (enlarged.std((1, 2)), fixture["output_std"]),
        }
    )
