"""Table, JSON and report of an evaluation made by hand."""

import base64
import html.parser
import json
import re
import xml.etree.ElementTree

import numpy as np
import pytest

from codeformer_jax.evaluate import Evaluation, Pictures, plain_text, report, write_report
from codeformer_jax.evaluate.report import html_report

NAMES = ("plain.png", "a <script>alert(1)</script>.png", 'quote".png', "zoë & co/x.png", "e.png")


def _evaluation(rows=("input", "w=0", "w=1", "teacher"), names=NAMES, **changes):
    rng = np.random.default_rng(0)
    n = len(names)
    taught = "teacher" in rows
    pictures = {row: rng.integers(0, 255, (16, 16, 3), dtype=np.uint8) for row in (*rows, "truth")}
    content = {
        "names": names,
        "indices": tuple(range(n)),
        "scores": {
            row: {"psnr": rng.uniform(18, 30, n), "ssim": rng.uniform(0.4, 0.9, n)} for row in rows
        },
        "codes": {"code_accuracy": rng.random(n), "code_cross_entropy": rng.random(n)}
        if taught
        else {},
        "code_counts": {
            whose: rng.integers(0, 3, 16)
            for whose in (("teacher", "predicted") if taught else ("network",))
        },
        "settings": {"image_size": [16, 16], "network": {"class": "CodeFormer"}, "seed": 5},
        "pictures": tuple(
            Pictures(group, i, pictures) for i, group in enumerate(("worst", "first", "best"))
        ),
    }
    return Evaluation(**{**content, **changes})


class _Reader(html.parser.HTMLParser):
    """Collects visible text, attributes, and checks that tags are balanced."""

    VOID = ("meta", "img", "br")

    def __init__(self):
        super().__init__()
        self.text, self.attributes, self.open = [], [], []

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, *attr) for attr in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(tag, *attr) for attr in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.text.append(data)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    directory = tmp_path_factory.mktemp("run") / "evaluation"
    evaluation = _evaluation()
    paths = write_report(evaluation, directory)
    assert sorted(p.name for p in directory.iterdir()) == ["metrics.json", "report.html"]
    return evaluation, json.loads(paths[0].read_text("utf-8")), paths[1].read_text("utf-8")


def test_json_holds_the_printed_figures(written):
    evaluation, content, page = written
    table = plain_text(evaluation)
    labels = {"input": "degraded input", "w=0": "w = 0", "w=1": "w = 1", "teacher": "teacher's rec"}
    for row, name in labels.items():
        means = content["means"][row]
        line = next(line for line in table.splitlines() if line.startswith(name))
        assert line.split()[-2:] == [f"{means['psnr']:.2f}", f"{means['ssim']:.4f}"]
        assert f"{means['psnr']:.2f}" in page
        of_images = [image["scores"][row]["psnr"] for image in content["images"]]
        np.testing.assert_allclose(means["psnr"], np.mean(of_images))
    assert f"{content['codes']['accuracy']:.1%}" in table
    assert f"{content['codes']['commonest_accuracy']:.1%}" in table
    assert f"{content['codes']['usage']['teacher']['perplexity']:.1f}" in table
    assert f"worst {evaluation.gain.min():+.2f} dB" in table
    assert [image["name"] for image in content["images"]] == list(NAMES)
    assert content["settings"]["seed"] == 5


def test_report_is_whole_and_requests_nothing(written):
    evaluation, _, page = written
    reader = _Reader()
    reader.feed(page)
    reader.close()
    assert not reader.open
    text = "".join(reader.text)
    assert all(name in text for name in NAMES)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", page)
    sources = [value for tag, name, value in reader.attributes if name == "src"]
    pictures = [source for source in sources if source.startswith("data:image/png;base64,")]
    assert len(pictures) == 3 * 5
    assert all(source.startswith("data:image/svg+xml;base64,") for source in sources[:2])
    assert len(sources) == len(pictures) + 2
    targets = {value[1:] for _, name, value in reader.attributes if name == "href"}
    assert targets == {"image-0", "image-1", "image-2"}
    assert targets <= {value for _, name, value in reader.attributes if name == "id"}
    alts = [value for tag, name, value in reader.attributes if name == "alt"]
    assert f"{NAMES[1]}: ground truth" in alts
    assert len(alts) == len(sources)
    assert f"{evaluation.gain[3]:+.2f}" in text
    assert text.index("Worst cases") < text.index("The first images") < text.index("Best cases")


def test_names_cannot_become_markup(written):
    page = written[2]
    assert "<script>alert" not in page
    assert 'quote".png' not in page.replace("quote&quot;.png", "")


def test_the_gain_chart_has_a_bar_for_each_image(written):
    gain = written[0].gain
    bars = report.gain_chart(gain, "PSNR gain (dB)").axes[0].patches
    np.testing.assert_allclose([bar.get_height() for bar in bars], np.sort(gain))
    assert len({bar.get_facecolor() for bar in bars}) == 2
    assert 'alt="PSNR gain (dB) of 5 images from ' in written[2]


def test_the_usage_chart_is_in_the_order_of_the_teachers_codes():
    counts = {"predicted": np.array([1, 1, 2]), "teacher": np.array([0, 3, 1])}
    teacher, predicted = (
        patch.get_data().values for patch in report.usage_chart(counts).axes[0].patches
    )
    np.testing.assert_allclose(teacher, [75, 25, 0])
    np.testing.assert_allclose(predicted, [25, 50, 25])


def test_a_chart_is_a_picture_within_the_page():
    url = report.data_url(report.gain_chart(np.array([1.0, -2.0]), "gain"))
    assert url == report.data_url(report.gain_chart(np.array([1.0, -2.0]), "gain"))
    picture = base64.b64decode(url.removeprefix("data:image/svg+xml;base64,"))
    assert xml.etree.ElementTree.fromstring(picture).tag.endswith("svg")


@pytest.mark.parametrize("gain", [0.0, 3.0, -3.0, 1e-12])
def test_a_single_image_makes_a_report(gain, tmp_path):
    scores = {
        row: {"psnr": np.array([20.0 + delta]), "ssim": np.array([0.5])}
        for row, delta in (("input", 0.0), ("w=1", gain))
    }
    evaluation = _evaluation(rows=("input", "w=1"), names=("one",), scores=scores, pictures=())
    assert plain_text(evaluation).startswith("1 image of 16x16 px, degraded with seed 5")
    assert "nan" not in write_report(evaluation, tmp_path)[1].read_text("utf-8").lower()


def test_reconstruction_has_no_gain(tmp_path):
    evaluation = _evaluation(rows=("reconstruction",))
    assert "gain" not in plain_text(evaluation)
    assert len(re.findall("svg.xml", write_report(evaluation, tmp_path)[1].read_text("utf-8"))) == 1


def test_large_pictures_are_reduced():
    wide = {"input": np.zeros((300, 1024, 3), np.uint8)}
    shown = (Pictures("worst", 0, wide),)
    page = html_report(_evaluation(pictures=shown))
    data = re.search(r"png;base64,([^\"]+)", page)[1]
    assert base64.b64decode(data)[16:24] == bytes([0, 0, 1, 0, 0, 0, 0, 75])


def test_nothing_is_lost_where_writing_fails(tmp_path):
    for name in ("metrics.json", "report.html"):
        (tmp_path / name).write_text("earlier")
    broken = _evaluation(codes={"code_accuracy": np.full(5, np.nan)})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_report(broken, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.json", "report.html"]
    assert all(path.read_text() == "earlier" for path in tmp_path.iterdir())


def test_names_that_are_not_text_are_written(tmp_path):
    names = ("bad\udcff.png", "line\x1b[2Jbreak\n.png", *NAMES[2:])
    evaluation = _evaluation(names=names)
    json.loads(write_report(evaluation, tmp_path)[0].read_text("utf-8"))
    plain_text(evaluation).encode("utf-8")
    assert "\x1b" not in plain_text(evaluation)
