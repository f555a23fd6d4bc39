"""Photographs of any size: faces are found, cut, restored by the network and pasted back.

Pictures are uint8 or uint16, gray [h, w] or RGB [h, w, 3].
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from codeformer_jax.faces.align import cut, scaled
from codeformer_jax.faces.choose import Choice, check_which, choose
from codeformer_jax.faces.detect import DETECTORS, Detector
from codeformer_jax.faces.enlarge import NetworkEnlarger, enlarge
from codeformer_jax.faces.face import (
    TEMPLATE_SIZE,
    Face,
    apply,
    invert,
    resize_points,
    template,
    to_size,
)
from codeformer_jax.faces.identity import Identity
from codeformer_jax.faces.manual import ManualDetector
from codeformer_jax.faces.masks import hull_mask, square_mask
from codeformer_jax.faces.parse import Parser
from codeformer_jax.faces.paste import Patch, paste
from codeformer_jax.faces.pixels import in_levels, to_dtype, to_rgb8
from codeformer_jax.faces.published import cut_published, gray_like, paste_published
from codeformer_jax.faces.sharpness import sharpness
from codeformer_jax.faces.texture import add_grain, grain_of, match_color
from codeformer_jax.restore.fit import NOT_PAINTED, Fitted, fit, tint_of, unfit
from codeformer_jax.restore.photo_options import PhotoOptions
from codeformer_jax.restore.provenance import FaceRecord
from codeformer_jax.restore.restore_options import RestoreError

RESTORED, KEPT = "restored", "left as it was: the network cannot improve it"
NO_FACE = "no face was restored"
# Largest mean distance of a face's points from the template, as a share of the picture's side, at
# which a square picture counts as an aligned crop.
_ALIGNED = 0.05
# Sharpness above which a face is reported as left as it was.
_SHARP = 0.5
# Share of a crop outside the picture above which a face is reported as at the border.
_OUTSIDE = 0.1
# Approximate longest side of the subsampled picture that `is_gray` examines.
_EXAMINED = 1024


@dataclasses.dataclass(frozen=True, eq=False)
class Photo:
    """A restored photograph.

    Attributes:
        pixels: the whole picture; dtype and channels are those of the input.
        faces: every face that was found, with what was done.
        notes: remarks, each a clause.
    """

    pixels: np.ndarray
    faces: tuple[FaceRecord, ...]
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class PhotoTools:
    """Detector and other models of a restoration of photographs.

    Attributes:
        options: how photographs are restored.
        detector: finds the faces.
        parser, enlarger, identity: models of these options; None without them.
    """

    options: PhotoOptions
    detector: Detector
    parser: Parser | None = None
    enlarger: NetworkEnlarger | None = None
    identity: Identity | None = None

    @classmethod
    def load(cls, options: PhotoOptions) -> "PhotoTools":
        """Loads the models that the options name.

        Raises:
            ValueError, OSError: if a package is missing, or a file is not the expected model.
        """
        check_which(options.faces)
        if options.box or options.boxes:
            detector = ManualDetector.load(options.boxes, options.box)
        else:
            load = DETECTORS[options.detector]
            detector = load(options.detector_model, options.threshold)
        return cls(
            options,
            detector,
            Parser.load(options.parsing) if options.parsing else None,
            NetworkEnlarger.load(options.background) if options.background else None,
            Identity.load() if options.identity else None,
        )

    def find(self, picture: np.ndarray, name: str = "") -> tuple[Choice, ...]:
        """Detects the faces of a picture and chooses those to restore.

        Args:
            picture: the photograph.
            name: its path, by which a file of boxes knows it.

        Returns:
            Every face, with the reason if it is not to be restored.

        Raises:
            ValueError: if the options choose a face that is not there.
        """
        options = self.options
        found = self.detector(to_rgb8(picture), name)
        return choose(
            found,
            picture.shape[:2],
            options.faces,
            min_size=options.min_size,
            max_faces=options.max_faces,
        )


def chosen_faces(choices: Sequence[Choice]) -> list[Choice]:
    """Returns the faces that are to be restored."""
    return [choice for choice in choices if choice.reason is None]


def is_aligned(picture: np.ndarray, choices: Sequence[Choice]) -> bool:
    """Returns whether a picture is square and its only face sits on the template."""
    height, width = picture.shape[:2]
    if height != width or len(choices) != 1:
        return False
    distance = np.linalg.norm(choices[0].face.points - template(height), axis=-1).mean()
    return bool(distance < _ALIGNED * height)


def check_size(restorer: Any, options: PhotoOptions) -> None:
    """Raises RestoreError for the published paste with a network of another size."""
    if options.paste == "published" and restorer.image_size != TEMPLATE_SIZE:
        raise RestoreError(
            f"--paste published needs a network of {TEMPLATE_SIZE} px; this one has "
            f"{restorer.image_size}"
        )


def cut_faces(
    picture: np.ndarray, chosen: Sequence[Choice], restorer: Any, options: PhotoOptions
) -> list[Fitted]:
    """Cuts faces out of a picture, as the network takes them.

    Args:
        picture: the photograph.
        chosen: the faces.
        restorer: the network, a `Restorer`.
        options: `paste` selects how crops are cut; with `detail` a network that neither colours
            nor fills in has the sharpness of its faces measured.

    Raises:
        RestoreError: if the network fills in white pixels and no crop has any.
    """
    size = restorer.image_size
    transforms = [choice.face.transform for choice in chosen]
    if options.paste == "published":
        published = to_rgb8(picture)
        crops = [cut_published(published, transform) for transform in transforms]
    else:
        crops = [cut(picture, to_size(transform, size), size) for transform in transforms]
    # A dark or pale face in a colour picture is not black and white.
    gray = restorer.keep_gray and is_gray(picture)
    known = restorer.keep_known
    fitted = [fit(_as_input(crop), size, keep_gray=gray, keep_known=known) for crop in crops]
    # A sharp face may still lack its colours or a part.
    restores = restorer.keep_gray and not known
    if restores and options.detail and options.paste != "published":
        fitted = [
            dataclasses.replace(crop, sharpness=sharpness(picture, transform, size))
            for crop, transform in zip(fitted, transforms, strict=True)
        ]
    if fitted and all(NOT_PAINTED in crop.notes for crop in fitted):
        raise RestoreError(NOT_PAINTED)
    return fitted


def is_gray(picture: np.ndarray) -> bool:
    """Returns whether a picture is black and white; see `fit.tint_of`."""
    if picture.ndim == 2:
        return True
    # A subsample is enough to detect colour.
    step = max(1, max(picture.shape[:2]) // _EXAMINED)
    return tint_of(_as_input(picture[::step, ::step])) is not None


def for_network(picture: np.ndarray, restorer: Any) -> np.ndarray:
    """Returns a picture with the channels of its result: RGB if the network colours gray ones."""
    if picture.ndim == 2 and not restorer.keep_gray:
        return np.repeat(picture[..., None], 3, axis=-1)
    return picture


def compose(
    picture: np.ndarray,
    chosen: Sequence[Choice],
    crops: Sequence[Fitted],
    restored: Sequence[np.ndarray],
    tools: PhotoTools,
    keep_gray: bool = True,
) -> np.ndarray:
    """Pastes restored faces into a picture.

    Args:
        picture: the photograph; it is not changed.
        chosen, crops: the faces and their crops, from `cut_faces`.
        restored: the network's results, [s, s, 3] each.
        tools: enlarges, segments and pastes by its options.
        keep_gray: False for a network that colours black-and-white pictures, whose colours are
            then not matched.

    Returns:
        The picture, enlarged by `options.scale`.
    """
    options = tools.options
    results = [unfit(*pair) for pair in zip(restored, crops, strict=True)]
    if options.paste == "published":
        labels = [tools.parser.labels(result) for result in results] if tools.parser else None
        transforms = [choice.face.transform for choice in chosen]
        results = [
            result
            if crop.tint is None
            else to_dtype(gray_like(image, crop.pixels), crop.pixels.dtype)
            for result, image, crop in zip(results, restored, crops, strict=True)
        ]
        if picture.ndim == 2:
            results = [result[..., 0] for result in results]
        return paste_published(picture, transforms, results, options.scale, labels)
    target = enlarged(picture, tools)
    match = options.match_color and (keep_gray or not is_gray(picture))
    patches = [
        _patch(choice.face, crop, result, picture.ndim == 2, tools, match)
        for choice, crop, result in zip(chosen, crops, results, strict=True)
    ]
    # The smaller of two faces is the one farther away.
    order = sorted(range(len(patches)), key=lambda i: chosen[i].face.size)
    grain = [grain_of(target, patches[i]) for i in order] if options.grain else []
    paste(target, [patches[i] for i in order], detail=options.detail)
    for i, wanted in zip(order, grain, strict=False):
        add_grain(target, patches[i], wanted, seed=chosen[i].number)
    return target


def enlarged(picture: np.ndarray, tools: PhotoTools) -> np.ndarray:
    """Returns a copy of a picture, enlarged by `options.scale`."""
    scale = tools.options.scale
    if scale == 1:
        return picture.copy()
    return tools.enlarger(picture, scale) if tools.enlarger else enlarge(picture, scale)


def describe_faces(
    choices: Sequence[Choice],
    crops: Sequence[Fitted],
    crop_size: int,
    picture: np.ndarray,
    result: np.ndarray,
    tools: PhotoTools,
) -> list[FaceRecord]:
    """Returns what was done with each face, with its identity score if that was asked for.

    Args:
        choices: every face of the picture.
        crops: those of the faces to restore, from `cut_faces`.
        crop_size: side of the network's images.
        picture, result: before and after.
        tools: its identity network is used.
    """
    records, restored = [], iter(crops)
    for choice in choices:
        if choice.reason is not None:
            records.append(FaceRecord(choice.number, choice.face, choice.reason))
            continue
        score = None
        if tools.identity:
            points = choice.face.points
            moved = resize_points(points, float(tools.options.scale))
            pair = ((picture, points), (result, moved))
            score = tools.identity.cosine(*(tools.identity.embed(*one) for one in pair))
        sharp = next(restored).sharpness
        done = KEPT if sharp == 1 else RESTORED
        records.append(FaceRecord(choice.number, choice.face, done, crop_size, score, sharp))
    return records


def remarks(
    choices: Sequence[Choice], crops: Sequence[Fitted], shape: tuple[int, ...], crop_size: int
) -> tuple[str, ...]:
    """Returns remarks on the faces of a picture; the record has the figures of each face.

    Args:
        choices: every face.
        crops: those of the faces to restore, from `cut_faces`.
        shape: of the picture.
        crop_size: side of the network's images.
    """
    chosen = chosen_faces(choices)
    sharp = [crop.sharpness is not None and crop.sharpness > _SHARP for crop in crops]
    found = {
        "some faces are beyond --max-faces and were left as they were": any(
            choice.skipped == "beyond_max" for choice in choices
        ),
        "some faces are smaller than --min-size and were left as they were": any(
            choice.skipped == "small" for choice in choices
        ),
        f"faces larger than the network's {crop_size} px were restored at less than their size": (
            any(
                choice.face.crop_scale * crop_size < TEMPLATE_SIZE and not kept
                for choice, kept in zip(chosen, sharp, strict=True)
            )
        ),
        f"large faces that the network's {crop_size} px cannot improve were left as they were, or "
        "almost; a larger network may improve them (--checkpoint)": any(sharp),
        "faces at the border were completed by reflection": any(
            _share_outside(choice.face, shape) > _OUTSIDE for choice in chosen
        ),
        NO_FACE: not chosen,
    }
    return tuple(remark for remark, holds in found.items() if holds)


def restore_photo(
    image: np.ndarray, restorer: Any, w: float, adain: bool | None, tools: PhotoTools
) -> Photo:
    """Restores a photograph; see `Restorer.restore_photo`."""
    image = np.asarray(image)
    shaped = image.ndim in (2, 3) and image.shape[2:] in ((), (3,), (4,)) and image.size > 0
    if image.dtype not in (np.uint8, np.uint16) or not shaped:
        raise RestoreError(
            f"image is {image.dtype} {list(image.shape)}; expected uint8 or uint16, gray [h, w], "
            "RGB [h, w, 3] or RGBA [h, w, 4]"
        )
    picture, alpha = (image[..., :3], image[..., 3]) if image.shape[2:] == (4,) else (image, None)
    check_size(restorer, tools.options)
    picture = for_network(picture, restorer)
    try:
        choices = tools.find(picture)
    except ValueError as error:
        raise RestoreError(str(error)) from error
    chosen = chosen_faces(choices)
    crops = cut_faces(picture, chosen, restorer, tools.options)
    restored = restorer.restore_crops(crops, w, adain)
    result = compose(picture, chosen, crops, restored, tools, restorer.keep_gray)
    size = restorer.image_size
    records = describe_faces(choices, crops, size, picture, result, tools)
    if alpha is not None:
        alpha = enlarge(alpha, tools.options.scale) if tools.options.scale > 1 else alpha
        result = np.concatenate([result, alpha[..., None]], axis=-1)
    return Photo(result, tuple(records), remarks(choices, crops, picture.shape, size))


def _as_input(crop: np.ndarray) -> np.ndarray:
    return in_levels(crop, np.dtype(np.float32)) if crop.dtype == np.uint16 else crop


def _patch(
    face: Face, crop: Fitted, result: np.ndarray, gray: bool, tools: PhotoTools, match: bool
) -> Patch:
    """Returns a restored crop with its mask, placed in the enlarged picture."""
    options, size = tools.options, result.shape[0]
    transform = to_size(face.transform, size)
    if tools.parser:
        mask = tools.parser.mask(result)
    elif options.paste == "square":
        mask = square_mask(size)
    else:
        mask = hull_mask(size, apply(transform, face.points))
    if match:
        result = match_color(result, crop.pixels, mask)
    return Patch(
        scaled(transform, options.scale),
        result[..., 0] if gray else result,
        mask,
        crop.sharpness or 0.0,
    )


def _share_outside(face: Face, shape: tuple[int, ...]) -> float:
    """Returns the share of a face's crop that lies outside the picture."""
    grid = (np.mgrid[0:16, 0:16].reshape(2, -1).T + 0.5) * (TEMPLATE_SIZE / 16) - 0.5
    x, y = apply(invert(face.transform), grid).T
    inside = (x > -0.5) & (x < shape[1] - 0.5) & (y > -0.5) & (y < shape[0] - 0.5)
    return float(1 - inside.mean())
