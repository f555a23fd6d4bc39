"""Regions of faces: sizes, dtypes, damaged weights."""

import jax
import numpy as np
import pytest
from nn.test_photo_network_parts import drawn

from codeformer_jax.convert import save_model
from codeformer_jax.faces import parse
from codeformer_jax.faces.masks import parsing_mask
from codeformer_jax.faces.models import Model
from codeformer_jax.nn import ParseNet


@pytest.fixture(scope="module")
def parser():
    """A small network with the published number of classes and random weights."""
    module = ParseNet(widths=(2, 2), res_blocks=1)
    return parse.Parser(Model(module, drawn("parsenet", module)))


def test_labels_follow_the_crop(parser):
    crop = np.random.default_rng(0).integers(0, 256, (512, 512, 3), np.uint8)
    labels = parser.labels(crop)
    assert (labels.shape, labels.dtype) == ((512, 512), np.uint8)
    assert len(np.unique(labels)) > 3
    model = parser.model
    images = crop[None].astype(np.float32) / 255 * 2 - 1
    logits = jax.jit(model.module.apply)(model.variables, images).logits
    np.testing.assert_array_equal(labels, np.argmax(logits[0], axis=-1))
    np.testing.assert_array_equal(parser.labels((crop / 255).astype(np.float32)), labels)
    np.testing.assert_array_equal(parser.mask(crop), parsing_mask(labels))


@pytest.mark.parametrize("size", [256, 1024])
def test_other_sizes_are_seen_at_512_px(parser, size):
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (256, 256, 3), np.uint8)
    crop = small.repeat(size // 256, axis=0).repeat(size // 256, axis=1)
    labels = parser.labels(crop)
    assert labels.shape == (size, size)
    if size > 512:
        # Its area mean is the picture of 512 px whose pixels are repeated twice.
        middle = parser.labels(small.repeat(2, axis=0).repeat(2, axis=1))
        np.testing.assert_array_equal(labels[::2, ::2], middle)
    mask = parser.mask(crop)
    assert (mask.shape, mask.dtype) == ((size, size), np.float32)


def test_damaged_weights_are_no_empty_mask(parser):
    damaged = jax.tree.map(lambda x: np.full_like(x, np.nan), parser.model.variables)
    broken = parse.Parser(Model(parser.model.module, damaged))
    with pytest.raises(ValueError, match="ParseNet's result has infinities or NaN"):
        broken.labels(np.zeros((512, 512, 3), np.uint8))


def test_it_loads_from_a_model_file(parser, tmp_path):
    save_model(tmp_path / "p.safetensors", "parsenet", parser.model.module, parser.model.variables)
    assert parse.Parser.load(tmp_path / "p.safetensors").model.module == parser.model.module
    other = ParseNet((2, 2), 1, classes=11)
    save_model(tmp_path / "q.safetensors", "parsenet", other, drawn("parsenet", other))
    with pytest.raises(
        ValueError, match=r"q\.safetensors has 11 classes; expected the published 1"
    ):
        parse.Parser.load(tmp_path / "q.safetensors")
    with pytest.raises(FileNotFoundError):
        parse.Parser.load(tmp_path / "none.safetensors")
