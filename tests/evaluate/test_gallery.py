"""The gallery's picture: what is in it, which recipes it takes, what it refuses."""

import sys

import numpy as np
import pytest

from codeformer_jax import cli
from codeformer_jax.data.images import read_image, write_image
from codeformer_jax.data.synthetic import SyntheticFaces
from codeformer_jax.evaluate.gallery import find_recipe, write_gallery

SIZE, MARGIN = 160, 8


def cells(path, clean, columns):
    """The pictures of the only row, found by the clean one at its left."""
    pixels = read_image(path).pixels
    lefts = [MARGIN + i * (SIZE + MARGIN) for i in range(columns)]
    (top,) = [
        top
        for top in range(len(pixels) - SIZE)
        if np.array_equal(pixels[top : top + SIZE, lefts[0] : lefts[0] + SIZE], clean)
    ]
    return [pixels[top : top + SIZE, left : left + SIZE] for left in lefts]


def test_a_row_has_the_clean_image_and_its_draws(tmp_path, capsys):
    target = tmp_path / "a" / "gallery.png"
    options = ["--recipe", "inpainting", "-n", "3", "--size", str(SIZE), "--seed", "5"]
    assert cli.main(["gallery", str(target), *options]) == 0
    width = 4 * (SIZE + MARGIN) + MARGIN
    assert capsys.readouterr().out.startswith(f"{target}: {width} x ")
    clean = SyntheticFaces("heldout", SIZE, seed=5)[0]["image"]
    _, *draws = cells(target, clean, 4)
    for draw in draws:
        painted = np.all(draw == 255, axis=-1)
        assert 0 < painted.mean() < 1
        np.testing.assert_array_equal(draw[~painted], clean[~painted])
    assert len({draw.tobytes() for draw in draws}) == 3
    once = target.read_bytes()
    assert cli.main(["gallery", str(target), *options, "--force"]) == 0
    assert target.read_bytes() == once


def test_a_picture_that_exists_is_kept(tmp_path, capsys):
    face = tmp_path / "face.png"
    write_image(face, np.zeros((SIZE, SIZE, 3), np.uint8))
    before = face.read_bytes()
    assert cli.main(["gallery", str(face), "-n", "1", "--size", str(SIZE)]) != 0
    assert "exists; OUT comes before the images" in capsys.readouterr().err
    assert face.read_bytes() == before


def test_rows_for_every_recipe_and_image(tmp_path):
    paths = []
    for name in ("one.png", "two words é.png"):
        paths.append(str(tmp_path / name))
        write_image(
            paths[-1], np.random.RandomState(len(name)).randint(0, 255, (40, 60, 3), np.uint8)
        )
    one = write_gallery(tmp_path / "1.png", paths[:1], recipes=["inpainting"], draws=1, size=SIZE)
    both = write_gallery(tmp_path / "2.png", paths, recipes=["inpainting"], draws=1, size=SIZE)
    assert both == (2 * one[0], one[1])
    small = write_gallery(
        tmp_path / "3.png", paths[:1], recipes=["inpainting"], draws=1, size=SIZE, cell=24
    )
    assert small[1] == 2 * (24 + MARGIN) + MARGIN


def test_recipes_of_configs():
    before = list(sys.path)
    named = {
        "configs/codeformer_stage3.py": "small",
        "configs/codeformer_stage3.py@large": "large",
        "configs/codeformer_inpainting.py": "inpainting",
    }
    for name, expected in named.items():
        ours, theirs = find_recipe(name), find_recipe(expected)
        assert str(ours) == str(theirs)
    demo = find_recipe("configs/demo.py:restoration,short@large")
    np.testing.assert_allclose(demo.downsample, (2, 6))
    assert sys.path == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"recipes": ["huge"]}, "no recipe is named 'huge'; expected one of large, .*or a config"),
        ({"recipes": ["configs/none.py"]}, "no config 'configs/none.py'"),
        ({"recipes": ["configs/vqgan.py"]}, r"has no degradation 'small'; it has \[\]"),
        ({"recipes": ["configs/codeformer_stage2.py@big"]}, r"'big'; it has \['large', 'small'\]"),
        ({"draws": 0}, "draws is 0: expected at least 1"),
        ({"size": 20}, "size is 20: expected at least 21"),
        ({"cell": 8}, "cell is 8"),
        ({"target": "gallery.gif"}, "cannot write .*gallery.gif'"),
        ({"target": "gallery"}, "cannot write"),
        ({"inputs": ["missing.png"]}, "cannot read image 'missing.png': no such file"),
        ({"inputs": [__file__]}, "cannot read image .*not an image"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(tmp_path, options, message):
    given = {"target": "gallery.png", "size": SIZE, "recipes": ["inpainting"]} | options
    target = tmp_path / given.pop("target")
    with pytest.raises((ValueError, OSError), match=message):
        write_gallery(target, given.pop("inputs", ()), **given)
    assert not list(tmp_path.iterdir())
