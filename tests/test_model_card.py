"""Scores of the model card: skin tones, intervals, groups, the baseline, and the tables."""

import json
import math

import cv2
import numpy as np
import pytest

from benchmarks import photos128
from benchmarks.photos128 import Sample
from codeformer_jax.convert import load_model, parameter_fingerprint
from codeformer_jax.degrade import Parameters
from codeformer_jax.faces.face import template
from codeformer_jax.restore import embedded
from codeformer_jax.system.hashes import file_sha256
from tools.readme_commands import ROOT


def face(lightness, yellow, size=128):
    """A face whose cheeks have a colour of CIELAB, on black."""
    colour = cv2.cvtColor(np.float32([[[lightness, 10, yellow]]]), cv2.COLOR_LAB2RGB)
    picture = np.zeros((size, size, 3), np.uint8)
    centre = template(size)
    left, right = (centre[:2] + centre[3:]).round().astype(int) // 2
    for x, y in (left, right):
        picture[y - 8 : y + 9, x - 8 : x + 9] = (colour[0, 0] * 255).round()
    return picture


@pytest.mark.parametrize(
    ("lightness", "yellow", "tone"),
    [
        (80, 15, "very light"),
        (70, 20, "light"),
        (65, 20, "intermediate"),
        (60, 25, "tan"),
        (45, 20, "brown"),
        (25, 10, "dark"),
        (60, -10, "not defined"),
    ],
)
def test_the_skin_tone_is_the_angle_of_the_cheeks(lightness, yellow, tone):
    angle = photos128.skin_tone(face(lightness, yellow), template(128))
    if yellow > 0:
        expected = math.degrees(math.atan((lightness - 50) / yellow))
        assert angle == pytest.approx(expected, abs=1.5)
    assert photos128.tone_class(angle) == tone


def test_the_skin_tone_of_cheeks_beyond_the_edge_is_that_of_what_is_there():
    points = template(128) - [template(128)[0, 0], 0]
    assert math.isfinite(
        photos128.skin_tone(np.full((128, 128, 3), [200, 150, 120], np.uint8), points)
    )


def test_most_intervals_cover_the_mean():
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(60):
        found = photos128.gain(rng.normal(0.3, 1.0, 60))
        covered += found["low"] < 0.3 < found["high"]
    assert covered >= 54
    assert found["low"] < found["mean"] < found["high"]


def test_a_gain_counts_the_better_images_and_small_groups_have_no_interval():
    assert photos128.gain(np.array([1.0, 0.0, -1.0, 2.0])) == {"mean": 0.5, "better": 2}
    same = photos128.gain(np.full(9, 0.5))
    assert same == {"mean": 0.5, "better": 9, "low": 0.5, "high": 0.5}


def test_bicubic_keeps_only_what_the_small_picture_has():
    flat = np.full((32, 32, 3), 90, np.uint8)
    checks = (np.indices((32, 32)).sum(0) % 2 * 255).astype(np.uint8)[..., None].repeat(3, 2)
    np.testing.assert_array_equal(photos128.enlarged(flat, 5), flat)
    assert np.ptp(photos128.enlarged(checks, 8)[8:-8, 8:-8].astype(int)) < 8


def sample(number, tone):
    picture = np.full((32, 32, 3), 10 * number, np.uint8)
    drawn = Parameters(1.0, 1.0, 0.0, 8, 0.0, 50)
    return Sample(
        f"{number}.png", picture, picture, picture, template(32), True, np.zeros(128), tone, drawn
    )


def made_report():
    samples = [sample(i, tone) for i, tone in enumerate([60.0, 45.0, 60.0, -50.0, math.nan, 20.0])]
    start = np.arange(20.0, 26.0)
    scored = {
        "input": {"psnr": start, "st_lpips": start / 100},
        "w = 1": {"psnr": start + np.array([2, 1, -1, 3, 1, 1]), "st_lpips": start / 100 - 0.1},
    }
    return samples, {"set": "made", "model_sha256": "ab", "adain": True} | photos128.report(
        samples, scored
    )


def test_a_report_has_gains_groups_and_the_worst_images():
    _, report = made_report()
    assert report["gains"]["w = 1"]["psnr"]["better"] == 5
    assert report["gains"]["w = 1"]["st_lpips"]["mean"] == pytest.approx(0.1)  # Lower is better.
    tones = {tone: row["images"] for tone, row in report["groups"]["skin tone"].items()}
    assert tones["very light"] == 2
    assert sum(tones.values()) == 6
    assert [row["images"] for row in report["groups"]["thirds by input"].values()] == [2, 2, 2]
    assert [row["name"] for row in report["worst"]][:2] == ["2.png", "1.png"]
    assert len(report["worst"]) == 5
    text = photos128.markdown(json.loads(json.dumps(report, allow_nan=False)))
    assert "| w = 1 | +1.17 [" in text
    assert "| very light | 2 | +0.50, 1 of 2 | +0.100, 2 of 2 |" in text
    assert "| intermediate | 0 |  |  |" in text
    assert "](" not in text
    assert "](a.jpg)" in photos128.markdown(report | {"figure": "a.jpg"})


def test_the_sheet_has_faces_at_even_steps_and_the_worst(tmp_path):
    samples, _ = made_report()
    made = {"w = 1": np.stack([s.truth for s in samples])}
    photos128.draw(tmp_path / "sheet.png", samples, made, [5, 4, 3, 2, 1, 0])
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    assert sheet.shape == (20 + 6 * 36, 20 + 2 * 36, 3)
    assert [int(sheet[20 + 36 * row + 16, 36, 0]) for row in range(6)] == [0, 20, 40, 50, 40, 30]


def test_the_tables_replace_those_between_the_marks_of_a_page():
    _, report = made_report()
    page = "# A\n<!-- made -->\nold\n<!-- end of made -->\nrest\n"
    new = photos128.fill(page, report)
    assert new == page.replace("old", photos128.markdown(report))
    assert photos128.fill(new, report) == new
    with pytest.raises(ValueError, match="end of made"):
        photos128.fill("# A\n<!-- made -->\n", report)


@pytest.mark.parametrize("name", ["generated", "real"])
def test_the_model_card_shows_the_tables_of_the_weights_that_ship(name):
    found = json.loads((ROOT / f"benchmarks/results/photos128_{name}.json").read_text())
    card = (ROOT / "docs" / "model_card.md").read_text(encoding="utf-8")
    assert photos128.markdown(found) in card
    assert found["model_sha256"] == file_sha256(embedded.FILE)
    assert parameter_fingerprint(load_model(embedded.FILE)[2]["params"]) in card
    gains = found["gains"]["w = 1"]
    assert gains["psnr"]["mean"] >= 1.0
    assert gains["ssim"]["mean"] >= 0.05
    assert all(gains[metric]["low"] > 0 for metric in ("psnr", "ssim", "st_lpips"))
