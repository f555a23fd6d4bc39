"""RetinaFace as a detector: decoding, canvases, coordinates, damaged weights."""

import jax
import numpy as np
import pytest
from nn.test_photo_network_parts import RETINAFACES, drawn
from parity import support

from codeformer_jax.convert import save_model
from codeformer_jax.faces import retinaface
from codeformer_jax.faces.detect import DETECTORS, Detector
from codeformer_jax.faces.models import Model
from codeformer_jax.nn import ParseNet
from codeformer_jax.nn.retinaface import RetinaFaceOutput


@pytest.mark.parametrize("backbone", ["mobile0.25", "resnet50"])
def test_decoding_is_the_published_one(backbone):
    fixture = support.load(f"retinaface_{backbone}")
    anchors = retinaface.make_anchors(320, 416)
    unit = np.array([416, 320], np.float32)
    sides = np.repeat(anchors[:, 2:3], 2, axis=1)
    priors = np.concatenate([anchors[:, :2] / unit, sides / unit], axis=1)
    boxes = retinaface.decode_boxes(jax.numpy.asarray(fixture["loc"]), anchors[::8])
    points = retinaface.decode_points(jax.numpy.asarray(fixture["landmarks"]), anchors[::8])
    support.assert_arrays(
        {
            "priors": (priors[::8], fixture["priors"]),
            "boxes": (boxes, fixture["boxes_px"]),
            "points": (points.reshape(-1, 10), fixture["landmarks_px"]),
        }
    )


@pytest.mark.parametrize(
    ("height", "width", "small", "canvas"),
    [
        (640, 640, (640, 640), (640, 640)),
        (3000, 4000, (640, 853), (640, 960)),
        (4000, 3000, (853, 640), (960, 640)),
        (1080, 1920, (640, 1138), (640, 1280)),
        (100, 10_000, (19, 1920), (640, 1920)),
        (1, 1, (640, 640), (640, 640)),
    ],
)
def test_pictures_share_few_canvases(height, width, small, canvas):
    assert retinaface.fitted_size(height, width) == (small, canvas)


@pytest.fixture(scope="module")
def detector():
    """A small network with random weights, which sees faces in noise."""
    module = RETINAFACES["mobilenet"]
    return retinaface.RetinaFaceDetector(
        Model(module, drawn("retinaface", module)), threshold=0.55, short_side=64
    )


class Fake:
    """A network that sees a face at one anchor, with its first point half a side to the right."""

    def __init__(self, chosen, point=5.0):
        self.chosen, self.point = chosen, point

    def apply(self, variables, images, sizes):
        n = len(retinaface.make_anchors(*images.shape[1:3]))
        logits = np.tile(np.float32([9, 0]), (1, n, 1))
        logits[0, self.chosen] = 0, 3
        points = np.zeros((1, n, 10), np.float32)
        points[..., 0] = self.point
        boxes = np.zeros((1, n, 4), np.float32)
        return RetinaFaceOutput(*map(jax.numpy.asarray, (boxes, logits, points)))


def test_pictures_of_many_sizes_compile_seven_programs():
    detector = retinaface.RetinaFaceDetector(Model(Fake(0), {}), short_side=64)
    retinaface._detect.clear_cache()
    rng = np.random.default_rng(0)
    for _ in range(40):
        detector(np.zeros((*rng.integers(20, 200, 2), 3), np.uint8))
    detector(np.zeros((4, 900, 3), np.uint8))
    assert 3 < retinaface._detect._cache_size() <= 7


def test_faces_are_found_where_they_are():
    """The picture is twice as large as the network's."""
    anchors = retinaface.make_anchors(64, 96)
    chosen = int(np.flatnonzero((anchors[:, :3] == (36, 20, 16)).all(axis=1))[0])
    picture = np.zeros((128, 192, 3), np.uint8)
    found = retinaface.RetinaFaceDetector(Model(Fake(chosen), {}), short_side=64)(picture)
    assert len(found) == 1
    # Pixel i of the small picture covers pixels 2 i and 2 i + 1.
    assert found[0].box == (56.5, 24.5, 88.5, 56.5)
    np.testing.assert_allclose(found[0].points[:2], [[88.5, 40.5], [72.5, 40.5]])
    assert found[0].score == pytest.approx(1 / (1 + np.exp(-3)))


@pytest.mark.parametrize("point", [np.nan, np.inf])
def test_points_that_are_not_finite_are_no_face(point):
    detector = retinaface.RetinaFaceDetector(Model(Fake(100, point), {}), short_side=64)
    assert detector(np.zeros((64, 64, 3), np.uint8)) == []


def test_the_canvas_changes_no_score_and_adds_none(detector):
    picture = np.random.default_rng(0).integers(0, 256, (64, 80, 3), np.uint8)
    canvas = np.pad(picture, ((0, 0), (0, 16), (0, 0)))
    module, variables = detector.model.module, detector.model.variables
    size = np.array([64, 80], np.int32)
    scores = np.asarray(retinaface._detect(variables, canvas, size, module=module)[0])
    images = picture[None, ..., ::-1] - np.float32([104, 117, 123])
    logits = jax.jit(module.apply)(variables, images).logits[0]
    expected = np.asarray(jax.nn.softmax(logits)[:, 1])
    np.testing.assert_allclose(np.sort(scores[scores > 0]), np.sort(expected), rtol=1e-4)
    assert detector(picture)[0].score == pytest.approx(expected.max(), rel=1e-4)


def test_best_faces_come_first(detector):
    picture = np.random.default_rng(0).integers(0, 256, (64, 80, 3), np.uint8)
    found = detector(picture)
    scores = [face.score for face in found]
    assert len(found) > 2
    assert scores == sorted(scores, reverse=True)
    assert scores[-1] > detector.threshold
    strict = retinaface.RetinaFaceDetector(detector.model, scores[1], short_side=64)
    assert [face.score for face in strict(picture)] == scores[:1]


def test_damaged_weights_are_no_empty_picture(detector):
    damaged = jax.tree.map(lambda x: np.full_like(x, np.nan), detector.model.variables)
    broken = retinaface.RetinaFaceDetector(Model(detector.model.module, damaged), short_side=64)
    with pytest.raises(ValueError, match="RetinaFace's scores have infinities or NaN"):
        broken(np.zeros((64, 80, 3), np.uint8))


def test_it_loads_from_a_model_file(detector, tmp_path):
    module, variables = detector.model.module, detector.model.variables
    save_model(tmp_path / "r.safetensors", "retinaface", module, variables)
    loaded = DETECTORS["retinaface"](tmp_path / "r.safetensors", None)
    assert isinstance(loaded, Detector)
    described = loaded.describe()
    assert (described["name"], described["file"]) == ("retinaface", "r.safetensors")
    assert (described["threshold"], len(described["sha256"])) == (0.8, 64)
    other = ParseNet((4, 4), 1, 2)
    save_model(tmp_path / "p.safetensors", "parsenet", other, drawn("parsenet", other))
    with pytest.raises(ValueError, match="holds the network 'parsenet'; expected 'retinaface'"):
        DETECTORS["retinaface"](tmp_path / "p.safetensors", None)
