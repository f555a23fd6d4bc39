"""Scores of a restoration network on aligned faces: the tables and the picture of its model card.

    python benchmarks/photos128.py --set generated --images DATA/heldout --model MODEL
        [--st-lpips FILE] [--output FILE] [--figure FILE]
    python benchmarks/photos128.py --page docs/model_card.md benchmarks/results/photos128_*.json

MODEL is a model file or a workdir. Each face is resized to the network's size and degraded once, by
the recipe `small` of configs/photos128.py, with a key from `SEED` and its file name. The degraded
face ("input"), its bicubic enlargement, and its restorations at three fidelity weights are compared
with the truth. "Bicubic" reduces the input to the size that its degradation had drawn, and enlarges
it again, both by Pillow's bicubic filter.

The identity is the cosine of SFace's vectors for a picture and its truth. The face's points are
detected once, in the truth at its full size; a face that is not found has those of the template.
The skin tone is the individual typology angle of the cheeks in the truth, see `skin_tone`.

Gains are differences from the input, positive if better, with 95 % intervals of their mean
(percentile bootstrap over the images). Prints the tables; `--page` writes those of earlier files
into a page, between <!-- SET --> and <!-- end of SET -->.
"""

import argparse
import dataclasses
import functools
import json
import math
import sys
from pathlib import Path
from typing import Any

import cv2
import jax
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import stats

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from codeformer_jax.checkpoints.teachers import load_lpips  # noqa: E402
from codeformer_jax.convert import parameter_fingerprint  # noqa: E402
from codeformer_jax.data.folder import image_names  # noqa: E402
from codeformer_jax.data.images import read_image, resize_image  # noqa: E402
from codeformer_jax.degrade import Recipe, describe  # noqa: E402
from codeformer_jax.evaluate.make_testset import degrade_picture, name_key  # noqa: E402
from codeformer_jax.faces.detect import load_yunet  # noqa: E402
from codeformer_jax.faces.face import resize_points, template  # noqa: E402
from codeformer_jax.faces.identity import Identity  # noqa: E402
from codeformer_jax.metrics import psnr, ssim  # noqa: E402
from codeformer_jax.nn import LPIPS, fit_lpips  # noqa: E402
from codeformer_jax.restore import Restorer  # noqa: E402
from codeformer_jax.system.compilation_cache import keep_compiled_programs  # noqa: E402
from codeformer_jax.system.hashes import file_sha256  # noqa: E402
from configs import photos128  # noqa: E402

# Widths are in pixels of the network's square. At 128 px the inputs are near 22 dB.
RECIPE = photos128.get_config("restoration").degradation.small.to_dict()
SEED = 0
WEIGHTS = (0.0, 0.5, 1.0)
BEST = "w = 1"
# Metric: heading, format, and 1 if more is better or -1.
METRICS = {
    "psnr": ("PSNR (dB)", ".2f", 1),
    "ssim": ("SSIM", ".3f", 1),
    "st_lpips": ("ST-LPIPS", ".3f", -1),
    "identity": ("identity", ".3f", 1),
}
# Classes of skin tone above their least angle in degrees (Chardon et al. 1991; Del Bino and
# Bernerd 2013).
TONES = {"very light": 55, "light": 41, "intermediate": 28, "tan": 10, "brown": -30}
DARKEST, NO_TONE = "dark", "not defined"
# Side of a cheek's square by the distance of the eyes.
CHEEK = 0.3
# Smaller groups have no interval.
SMALLEST_GROUP = 5
# Faces in the table of the worst; rows of the sheet of each kind.
WORST, ROWS = 5, 3
FIGURE = "Upper rows: faces at even steps by name. Lower rows, failures: the smallest gains."


@dataclasses.dataclass(frozen=True)
class Sample:
    """A face: pictures are uint8 [s, s, 3], `person` is the truth's vector, `tone` in degrees."""

    name: str
    truth: np.ndarray
    degraded: np.ndarray
    bicubic: np.ndarray
    points: np.ndarray
    found: bool
    person: np.ndarray
    tone: float
    parameters: Any


def read_sample(folder, name, size, detector, identity):
    """The sample of a file below `folder`, at `size` px."""
    full = read_image(folder / name).pixels
    if full.shape[0] != full.shape[1]:
        raise ValueError(f"--images: '{name}' has {full.shape[:2]} px; expected aligned squares")
    faces = detector(full)
    points = faces[0].points if faces else template(len(full))
    truth, at_size = resize_image(full, size), resize_points(points, size / len(full))
    recipe = Recipe.from_config(RECIPE)
    degraded, parameters = degrade_picture(truth, name_key(SEED, name), recipe)
    degraded = np.asarray(degraded)
    return Sample(
        name=name,
        truth=truth,
        degraded=degraded,
        bicubic=enlarged(degraded, int(parameters.small_size)),
        points=at_size,
        found=bool(faces),
        person=identity.embed(truth, at_size),
        tone=skin_tone(full, points),
        parameters=parameters,
    )


def enlarged(picture, side):
    """The picture reduced to `side` px and enlarged again."""
    image, bicubic = Image.fromarray(picture), Image.Resampling.BICUBIC
    return np.asarray(image.resize((side, side), bicubic).resize(image.size, bicubic))


def skin_tone(picture, points):
    """Individual typology angle arctan((L* - 50) / b*) in degrees of a face; larger is lighter.

    L* and b* are medians (CIELAB, D65) over both cheeks: squares around the points halfway between
    eye and corner of the mouth. NaN for cheeks that are blue or gray, b* <= 0.
    """
    eyes, mouth = points[:2], points[3:]
    reach = round(CHEEK / 2 * float(np.linalg.norm(eyes[1] - eyes[0])))
    cheeks = [
        picture[max(y - reach, 0) : y + reach + 1, max(x - reach, 0) : x + reach + 1]
        for x, y in ((eyes + mouth) / 2).round().astype(int)
    ]
    colours = np.concatenate([cheek.reshape(-1, 3) for cheek in cheeks]).astype(np.float32) / 255
    lightness, _, yellow = np.median(cv2.cvtColor(colours[None], cv2.COLOR_RGB2LAB)[0], axis=0)
    return math.degrees(math.atan((lightness - 50) / yellow)) if yellow > 0 else math.nan


def tone_class(angle):
    """The class of an individual typology angle."""
    if math.isnan(angle):
        return NO_TONE
    return next((name for name, least in TONES.items() if angle > least), DARKEST)


def versions(samples, restorer):
    """{version: uint8 [n, s, s, 3]}: what is compared with the truth."""
    degraded = np.stack([sample.degraded for sample in samples])
    restored = {f"w = {w:g}": restorer(degraded, w=w) for w in WEIGHTS}
    return {"input": degraded, "bicubic": np.stack([s.bicubic for s in samples]), **restored}


def scores(pictures, samples, distance, identity):
    """{metric: [n]} of one version of all samples."""
    made = pictures.astype(np.float32) / 255
    truth = np.stack([sample.truth for sample in samples]).astype(np.float32) / 255
    found = {"psnr": psnr(made, truth), "ssim": ssim(made, truth)}
    if distance is not None:
        found["st_lpips"] = distance(2 * made - 1, 2 * truth - 1)
    found["identity"] = [
        identity.cosine(identity.embed(picture, sample.points), sample.person)
        for picture, sample in zip(pictures, samples, strict=True)
    ]
    return {metric: np.asarray(values, np.float64) for metric, values in found.items()}


def gain(differences):
    """Mean of the differences, its 95 % interval, and how many of them are above 0."""
    found = {"mean": float(np.mean(differences)), "better": int(np.sum(differences > 0))}
    if len(differences) >= SMALLEST_GROUP:
        interval = stats.bootstrap(
            (differences,), np.mean, n_resamples=10_000, method="percentile", rng=SEED
        ).confidence_interval
        found |= {"low": float(interval.low), "high": float(interval.high)}
    return found


def groups(samples, inputs):
    """{division: {group: indices}}: by skin tone, and in thirds by the input's PSNR."""
    tones = [tone_class(sample.tone) for sample in samples]
    thirds = np.array_split(np.argsort(inputs), 3)
    return {
        "skin tone": {
            tone: [i for i, other in enumerate(tones) if other == tone]
            for tone in (*TONES, DARKEST, NO_TONE)
        },
        "thirds by input": {
            f"{inputs[third].min():.1f} to {inputs[third].max():.1f} dB": third.tolist()
            for third in thirds
        },
    }


def report(samples, scored):
    """Everything that the tables show, as JSON values."""
    gains = {
        version: {
            metric: METRICS[metric][2] * (values - scored["input"][metric])
            for metric, values in metrics.items()
        }
        for version, metrics in scored.items()
        if version != "input"
    }
    inputs, restored = (scored[version]["psnr"] for version in ("input", BEST))
    best = gains[BEST]
    return {
        "images": len(samples),
        "size": len(samples[0].truth),
        "recipe": RECIPE,
        "seed": SEED,
        "faces_not_found": sum(not sample.found for sample in samples),
        "means": {
            version: {metric: float(values.mean()) for metric, values in metrics.items()}
            for version, metrics in scored.items()
        },
        "gains": {
            version: {metric: gain(values) for metric, values in metrics.items()}
            for version, metrics in gains.items()
        },
        "groups": {
            division: {
                group: {
                    "images": len(members),
                    **{metric: gain(best[metric][members]) for metric in best if members},
                }
                for group, members in found.items()
            }
            for division, found in groups(samples, inputs).items()
        },
        "worst": [
            {
                "name": samples[i].name,
                "input": float(inputs[i]),
                "restored": float(restored[i]),
                "skin_tone": tone_class(samples[i].tone),
                "degradation": describe(samples[i].parameters, len(samples[i].truth)),
            }
            for i in worst_first(best["psnr"])[:WORST]
        ],
    }


def worst_first(gains):
    """Indices of the images from the smallest gain up."""
    return np.argsort(gains, kind="stable").tolist()


def table(head, rows):
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def gain_cell(metric, found, images):
    """A gain as text: mean, interval, and how many images are better."""
    form = METRICS[metric][1]
    interval = f" [{found['low']:+{form}}, {found['high']:+{form}}]" if "low" in found else ""
    return f"{found['mean']:+{form}}{interval}, {found['better']} of {images}"


def markdown(found):
    """A report as text: scores, gains, gains of each group, and the worst images."""
    about = (
        f"Weights {found['model_sha256']}, AdaIN {'on' if found['adain'] else 'off'}. "
        f"{found['images']} faces at {found['size']} px, {found['faces_not_found']} of them not "
        f"found by the detector; seed {found['seed']}."
    )
    metrics = list(found["means"]["input"])
    headings = [METRICS[metric][0] for metric in metrics]
    means = [
        [version, *(f"{row[metric]:{METRICS[metric][1]}}" for metric in metrics)]
        for version, row in found["means"].items()
    ]
    gains = [
        [version, *(gain_cell(metric, row[metric], found["images"]) for metric in metrics)]
        for version, row in found["gains"].items()
    ]
    parts = [
        about,
        table(["mean score", *headings], means),
        table(["gain over the input", *headings], gains),
    ]
    for division, members in found["groups"].items():
        rows = [
            [name, n, *(gain_cell(metric, row[metric], n) if n else "" for metric in metrics)]
            for name, row in members.items()
            for n in [row["images"]]
        ]
        parts.append(table([division, "faces", *(f"{BEST}: {name}" for name in headings)], rows))
    worst = [
        [
            f"`{row['name']}`",
            f"{row['input']:.2f}",
            f"{row['restored']:.2f}",
            row["skin_tone"],
            "; ".join(row["degradation"]),
        ]
        for row in found["worst"]
    ]
    head = ["smallest gains", "input (dB)", f"{BEST} (dB)", "skin tone", "degradation"]
    figure = [f"![{FIGURE}]({found['figure']})", FIGURE] if found.get("figure") else []
    return "\n\n".join([*parts, table(head, worst), *figure])


def fill(page, found):
    """The page with the tables of a report between the marks of its set."""
    start, end = f"<!-- {found['set']} -->\n", f"\n<!-- end of {found['set']} -->"
    before, mark, rest = page.partition(start)
    _, closing, after = rest.partition(end)
    if not (mark and closing):
        raise ValueError(f"--page: it has no lines {start.strip()!r} and {end.strip()!r}")
    return before + start + markdown(found) + end + after


def draw(path, samples, made, order):
    """Faces at even steps by name and those with the smallest gains as a sheet, a row for each."""
    size, margin, head = len(samples[0].truth), 4, 20
    columns = {"truth": np.stack([s.truth for s in samples]), **made}
    rows = [("even steps by name", len(samples) * i // ROWS) for i in range(ROWS)]
    rows += [("smallest gain", i) for i in order[:ROWS]]
    step = size + margin
    sheet = Image.new("RGB", (head + step * len(columns), head + step * len(rows)), "white")
    pen = ImageDraw.Draw(sheet)
    pen.font = ImageFont.load_default(13)
    for column, (title, pictures) in enumerate(columns.items()):
        left = head + column * step
        pen.text((left + size / 2, head / 2), title, "black", anchor="mm")
        for row, (_, i) in enumerate(rows):
            sheet.paste(Image.fromarray(pictures[i]), (left, head + row * step))
    for start in range(0, len(rows), ROWS):
        label = Image.new("RGB", (ROWS * step, head), "white")
        text = ImageDraw.Draw(label)
        text.text((label.width / 2, head / 2), rows[start][0], "black", pen.font, anchor="mm")
        sheet.paste(label.rotate(90, expand=True), (0, head + start * step))
    sheet.save(path, quality=90)


def measure(arguments):
    """Measures, writes the files and prints the tables."""
    keep_compiled_programs()
    restorer = Restorer.load(arguments.model, batch_size=8)
    detector, identity = load_yunet(), Identity.load()
    names = image_names(arguments.images)
    size = restorer.image_size
    samples = [read_sample(arguments.images, name, size, detector, identity) for name in names]
    distance = None
    if arguments.st_lpips:
        variables = load_lpips(arguments.st_lpips, ("st_lpips",))
        distance = functools.partial(jax.jit(fit_lpips(LPIPS(), variables).apply), variables)

    made = versions(samples, restorer)
    scored = {name: scores(p, samples, distance, identity) for name, p in made.items()}
    found = {
        "set": arguments.set,
        "model_sha256": (
            file_sha256(arguments.model)
            if arguments.model.is_file()
            else parameter_fingerprint(restorer.variables["params"])
        ),
        "adain": restorer.adain,
        "figure": arguments.figure and arguments.figure.name,
        **report(samples, scored),
    }
    output = arguments.output or ROOT / f"benchmarks/results/photos128_{arguments.set}.json"
    output.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n")
    print(markdown(found))
    if arguments.figure:
        order = worst_first(scored[BEST]["psnr"] - scored["input"]["psnr"])
        draw(arguments.figure, samples, made, order)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--set", help="name of the set of faces in files and tables")
    parser.add_argument("--images", type=Path, help="folder of aligned faces")
    parser.add_argument("--model", type=Path, help="model file or workdir")
    parser.add_argument("--st-lpips", metavar="FILE", help="converted weights of ST-LPIPS")
    parser.add_argument("--output", type=Path, help="JSON; default benchmarks/results/...SET.json")
    parser.add_argument("--figure", type=Path, help="picture to write, of generated faces only")
    parser.add_argument("--page", type=Path, help="page to write the tables of RESULTS into")
    parser.add_argument("results", type=Path, nargs="*", help="JSON that this script has written")
    arguments = parser.parse_args()
    if arguments.page and arguments.results:
        page = arguments.page.read_text(encoding="utf-8")
        for file in arguments.results:
            page = fill(page, json.loads(file.read_text()))
        arguments.page.write_text(page, encoding="utf-8")
    elif arguments.set and arguments.images and arguments.model:
        measure(arguments)
    else:
        parser.error("give --set, --images and --model, or --page and RESULTS")


if __name__ == "__main__":
    main()
