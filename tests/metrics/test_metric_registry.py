"""Metrics of a user's own: what an evaluation does with them, and what it refuses."""

from unittest import mock

import jax.numpy as jnp
import numpy as np
import pytest

from codeformer_jax.evaluate import Evaluation, plain_text
from codeformer_jax.evaluate.collect import Collector
from codeformer_jax.evaluate.measure import _scores
from codeformer_jax.evaluate.report import html_report
from codeformer_jax.metrics import METRICS, Metric, choose


@pytest.fixture
def own():
    """Registers a metric per image and one of the set, for one test."""

    def error(pictures, truth):
        return jnp.mean(jnp.abs(pictures - truth), axis=(1, 2, 3))

    def colours(pictures):
        return jnp.mean(pictures, axis=(1, 2))

    with mock.patch.dict(METRICS):
        METRICS.register("mae")(Metric(error, "MAE", unit="levels", higher_is_better=False))
        METRICS.register("colour")(
            Metric(colours, "colour", format=".1%", needs=("pictures",), reduce=np.mean)
        )
        yield ("mae", "colour")


@pytest.fixture
def evaluation(own) -> Evaluation:
    """Two images, of which the restoration halves the error."""
    truth = np.full((2, 4, 4, 3), 100, np.uint8)
    pictures = np.stack([truth + 51, truth + np.uint8(25)])
    collector = Collector(["input", "w=1"], own, codebook_size=4)
    measured = {
        "pictures": np.concatenate([pictures, truth[None]]),
        "finite": np.ones(2, bool),
        "codes": np.zeros((2, 3), int),
        **_scores(own, {}, jnp.asarray(pictures), jnp.asarray(truth)),
    }
    collector.add(["a", "b"], np.arange(2), measured)
    return collector.finish({"image_size": [4, 4], "network": {"class": "CodeFormer"}})


def test_a_users_metrics_are_in_every_output(evaluation):
    assert evaluation.means()["input"]["mae"] == pytest.approx(0.2)
    assert evaluation.means()["w=1"]["colour"] == pytest.approx(125 / 255)
    # The first metric per image ranks; a smaller error is a gain.
    np.testing.assert_allclose(evaluation.gain, (51 - 25) / 255, rtol=1e-5)
    assert '"mae": 0.19' in evaluation.to_json()
    text, page = plain_text(evaluation), html_report(evaluation)
    assert "MAE (levels)" in text
    assert "49.0%" in text
    assert "gain at w = 1: +0.1020 levels; 2 of 2 images gain" in text
    assert "MAE (levels) ↓" in page
    assert "MAE gain of every image" in page


def test_a_metric_of_a_set_has_no_value_per_image(evaluation):
    assert np.ndim(evaluation.scores["input"]["colour"]) == 0
    assert '"colour"' not in evaluation.to_json().partition('"images": [')[2]


def test_metrics_are_chosen_by_what_is_given():
    always = ("pictures", "truth", "codes")
    assert choose(None, always) == ("psnr", "ssim")
    assert choose(None, (*always, "lpips")) == ("psnr", "ssim", "lpips")
    assert choose(("ssim", "psnr", "ssim"), always) == ("ssim", "psnr")
    with pytest.raises(ValueError, match=r"'lpips' needs 'lpips', .*it is there with eval\.lpips"):
        choose(("lpips",), always)
    with pytest.raises(ValueError, match="'fid' is unknown; expected one of psnr, ssim"):
        choose(("fid",), always)
    with pytest.raises(ValueError, match="metric 'M' needs masks; expected names of pictures"):
        Metric(lambda masks: masks, "M", needs=("masks",))
