"""Photographs in files: read, restored and written with a record of what was done."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

from codeformer_jax import __version__
from codeformer_jax.convert import parameter_fingerprint
from codeformer_jax.data.images import write_image
from codeformer_jax.data.photos import PhotoFile, read_photo, write_photo
from codeformer_jax.faces.choose import Choice
from codeformer_jax.faces.enlarge import enlarge
from codeformer_jax.faces.identity import SAME_PERSON
from codeformer_jax.faces.preview import draw_preview
from codeformer_jax.restore.fit import NOT_PAINTED, Fitted
from codeformer_jax.restore.jobs import Job
from codeformer_jax.restore.photo import (
    RESTORED,
    PhotoTools,
    check_size,
    chosen_faces,
    compose,
    cut_faces,
    describe_faces,
    for_network,
    is_aligned,
    remarks,
)
from codeformer_jax.restore.photo_options import MAX_MEGAPIXELS
from codeformer_jax.restore.provenance import FaceRecord, photo_record, write_record
from codeformer_jax.restore.restore_options import RestoreError, RestoreOptions
from codeformer_jax.restore.restorer import Restorer
from codeformer_jax.restore.stream import Reading, Results, writing
from codeformer_jax.system.storage import Path

ALIGNED_CROP = "restored as the crop of an aligned face"
OTHER_PERSON = (
    f"a restored face may show another person: its identity is below {SAME_PERSON} (see the record)"
)


class Photographs:
    """Reader of photographs.

    Args:
        tools: detector and other models.
        restorer: the network; None if only previews are made.
        options: only file and network options are read.
        kept: existing files that are not written again.
        aligned: reader of pictures that turn out to be aligned crops.
    """

    def __init__(
        self,
        tools: PhotoTools,
        restorer: Restorer | None,
        options: RestoreOptions,
        kept: Sequence[Path],
        aligned: Callable[[Job], Reading],
    ):
        if restorer:
            check_size(restorer, tools.options)
        self._tools, self._restorer, self._options = tools, restorer, options
        self._kept, self._aligned = frozenset(kept), aligned

    def __call__(self, job: Job) -> Reading:
        """Reads a photograph and cuts its faces; raises ValueError, such as UnreadableImage."""
        tools = self._tools
        photo = read_photo(job.source, self._options.max_megapixels or MAX_MEGAPIXELS)
        if self._restorer:
            pixels = for_network(photo.pixels, self._restorer)
            # A profile of gray has no colours.
            profile = photo.icc_profile if pixels.ndim == photo.pixels.ndim else None
            photo = dataclasses.replace(photo, pixels=pixels, icc_profile=profile)
        choices = tools.find(photo.pixels, job.source.as_posix())
        if tools.options.dry_run:
            write = functools.partial(self._preview, job, photo, choices)
            return Reading(crops=(), write=write, notes=photo.notes)
        # The result of a crop has the network's size: a larger picture is a photograph.
        fits = tools.options.scale == 1 and max(photo.pixels.shape[:2]) <= self._restorer.image_size
        if tools.options.aligned == "auto" and fits and is_aligned(photo.pixels, choices):
            return self._as_aligned(job, choices)
        chosen = chosen_faces(choices)
        if not chosen:
            raise RestoreError(_no_face(choices, tools))
        crops = cut_faces(photo.pixels, chosen, self._restorer, tools.options)
        return Reading(
            crops=tuple(crops),
            write=functools.partial(self._write, job, photo, choices, crops),
            numbers=tuple(choice.number for choice in chosen),
            notes=photo.notes,
        )

    def _as_aligned(self, job: Job, choices: Sequence[Choice]) -> Reading:
        """Reads a picture that is the crop of an aligned face."""
        reading, size = self._aligned(job), self._restorer.image_size

        def write(results: Results) -> list[str]:
            notes = [*reading.write(results)]
            face = FaceRecord(1, choices[0].face, ALIGNED_CROP, size)
            for path in job.results:
                self._record(job, path, [face], reading.notes)
            return notes

        notes = (*reading.notes, f"{ALIGNED_CROP} (--aligned no treats it as a photograph)")
        return dataclasses.replace(reading, write=write, notes=notes)

    @functools.cached_property
    def _weights(self) -> str:
        return parameter_fingerprint(self._restorer.variables["params"])

    def _write(
        self,
        job: Job,
        photo: PhotoFile,
        choices: Sequence[Choice],
        crops: Sequence[Fitted],
        results: Results,
    ) -> list[str]:
        """Writes the picture of each sample, and returns remarks for the summary."""
        scale, size = self._tools.options.scale, self._restorer.image_size
        notes = [*remarks(choices, crops, photo.pixels.shape, size)]
        notes += [NOT_PAINTED] if any(NOT_PAINTED in crop.notes for crop in crops) else []
        added: list[str] = []
        alpha = photo.alpha
        if alpha is not None and scale > 1:
            alpha = enlarge(alpha, scale)
        for path, restored in zip(job.results, results, strict=True):
            if path in self._kept:
                continue
            pixels = [face.pixels for face in restored]
            chosen, gray = chosen_faces(choices), self._restorer.keep_gray
            result = compose(photo.pixels, chosen, crops, pixels, self._tools, gray)
            records = describe_faces(choices, crops, size, photo.pixels, result, self._tools)
            scores = [record.identity for record in records if record.identity is not None]
            changed = [OTHER_PERSON] if any(score < SAME_PERSON for score in scores) else []
            file = dataclasses.replace(photo, pixels=result, alpha=alpha)
            with writing(path, self._options.force):
                lost = write_photo(path, file, self._comment(records))
            self._record(job, path, records, [*photo.notes, *notes, *changed, *lost])
            added += [*changed, *lost]
        return list(dict.fromkeys(notes + added))

    def _comment(self, records: Sequence[FaceRecord]) -> str:
        faces = sum(record.done == RESTORED for record in records)
        if not faces:
            return ""
        return (
            f"Restored by codeformer-jax {__version__} (w={self._options.w:g}): the detail of "
            f"{faces} {'face' if faces == 1 else 'faces'} is a neural network's estimate."
        )

    def _record(self, job: Job, path: Path, records: Sequence, notes: Sequence) -> None:
        tools, restorer = self._tools, self._restorer
        settings = {
            "version": __version__,
            "weights_sha256": self._weights if restorer else None,
            "parsing_sha256": tools.parser.model.sha256 if tools.parser else None,
            "background_sha256": tools.enlarger.model.sha256 if tools.enlarger else None,
            **dataclasses.asdict(self._options),
            **dataclasses.asdict(tools.options),
        }
        if restorer:
            settings |= {name: getattr(restorer, name) for name in ("keep_gray", "keep_known")}
            settings["adain"] = restorer.adain if settings["adain"] is None else settings["adain"]
        record = photo_record(
            source=job.source,
            result=path,
            settings=settings,
            detector=tools.detector.describe(),
            faces=records,
            notes=notes,
        )
        target = path.with_suffix(".json")
        with writing(target, force=True):
            write_record(target, record)

    def _preview(
        self, job: Job, photo: PhotoFile, choices: Sequence[Choice], results: Results
    ) -> list[str]:
        path = job.results[0]
        with writing(path, self._options.force):
            write_image(path, draw_preview(photo.pixels, choices))
        records = [
            FaceRecord(choice.number, choice.face, choice.reason or "previewed")
            for choice in choices
        ]
        self._record(job, path, records, photo.notes)
        return [] if choices else [_no_face(choices, self._tools)]


def _no_face(choices: Sequence[Choice], tools: PhotoTools) -> str:
    """Returns why a picture has no face to restore, and what to do."""
    if choices:
        reasons = "; ".join(f"face {choice.number}: {choice.reason}" for choice in choices[:5])
        reasons += f"; and {len(choices) - 5} more" if len(choices) > 5 else ""
        return f"none of the {len(choices)} detected faces was chosen ({reasons})"
    if tools.detector.name == "manual":
        return "the given boxes list no face for this picture"
    return (
        f"no face was found with a score of {tools.detector.threshold:g} or more; lower "
        "--threshold, give --box, or pass --aligned if it is the crop of an aligned face"
    )
