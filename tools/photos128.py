"""Recipe of the weights that ship with the package: from folders of faces to one model file.

    python tools/photos128.py --faces FOLDER... --portraits FOLDER --work runs/photos128

1. Portraits are cut by the embedded detector. Near duplicates are dropped, and a tenth of the
   people is held out: WORK/data/train, WORK/data/heldout.
2. The stages of configs/photos128.py are trained: WORK/vqgan, WORK/code_prediction,
   WORK/restoration, WORK/finetuning.
3. The averaged network is written in 16 bits: WORK/photos128.safetensors.

The same command resumes after an interruption. `--repeat OTHER` trains the first steps of each
stage of a finished recipe again, in OTHER, and compares the weights bit by bit.

Needs ONNX Runtime: pip install '.[identity]'.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np

from codeformer_jax.checkpoints.trained import export_trained, load_trained
from codeformer_jax.convert import parameter_fingerprint
from codeformer_jax.data.folder import image_names, in_split
from codeformer_jax.data.images import read_image, write_image
from codeformer_jax.faces.align import cut
from codeformer_jax.faces.detect import load_yunet
from codeformer_jax.faces.face import to_size
from codeformer_jax.faces.identity import Identity
from codeformer_jax.system.atomic import atomic_path

ROOT = pathlib.Path(__file__).resolve().parents[1]
SIDE = 256
HELDOUT = 0.1
# Cosines of SFace. Between different generated people 95 % lie below 0.44 and all below 0.7.
SAME_PERSON, DUPLICATE = 0.6, 0.85
STAGES = ("vqgan", "code_prediction", "restoration", "finetuning")
# Step of the weights that are compared when a stage is trained again.
COMPARED = {"full": 200, "short": 2}
FINGERPRINTS = "fingerprints.json"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--faces", nargs="+", type=pathlib.Path, help="folders of aligned faces")
    parser.add_argument("--portraits", type=pathlib.Path, help="folder of whole portraits")
    parser.add_argument("--work", type=pathlib.Path, required=True, help="folder of data and runs")
    parser.add_argument(
        "--repeat", type=pathlib.Path, metavar="OTHER", help="folder for training the start again"
    )
    parser.add_argument(
        "--short", action="store_true", help="a few steps of small networks, to try the recipe"
    )
    arguments = parser.parse_args()
    work = arguments.work.absolute()
    recipe = Recipe("short" if arguments.short else "full")
    if arguments.repeat:
        return recipe.repeat(work, arguments.repeat.absolute())
    if not (work / "data" / "data.json").exists():
        if not (arguments.faces and arguments.portraits):
            parser.error("--faces and --portraits are needed to make WORK/data")
        make_data(arguments.faces, arguments.portraits, work / "data")
    for stage in STAGES:
        recipe.train(stage, work, work)
    model = work / "photos128.safetensors"
    recipe.export(work, model)
    print(model)
    return 0


def make_data(faces: list[pathlib.Path], portraits: pathlib.Path, target: pathlib.Path) -> None:
    """Writes the faces of a training and a held-out set, each person in one of them.

    Args:
        faces: folders of pictures aligned as FFHQ.
        portraits: folder of pictures with a face somewhere.
        target: folder of the sets; `data.json` in it, written last, counts and names everything.
    """
    detect, identity = load_yunet(), Identity.load()
    names, pictures, people, dropped = [], [], [], []
    for folder, aligned in [*((folder, True) for folder in faces), (portraits, False)]:
        for name in image_names(folder):
            label = f"{folder.name}_{pathlib.PurePath(name).with_suffix('').as_posix()}"
            label = label.replace("/", "_")
            pixels = read_image(folder / name).pixels
            found = detect(pixels, name)
            if not found:
                dropped.append({"name": label, "why": "no face was found"})
                continue
            face = max(found, key=lambda face: face.size)
            names.append(label)
            side = to_size(face.transform, SIDE)
            pictures.append(pixels if aligned else cut(pixels, side, SIDE))
            people.append(identity.embed(pixels, face.points))
    if twice := {name for name in names if names.count(name) > 1}:
        raise SystemExit(f"two pictures would be {min(twice)}.png; rename a folder or a file")
    similar = np.stack(people) @ np.stack(people).T
    groups = people_of(similar)
    counts = {"train": 0, "heldout": 0}
    for i, (name, picture) in enumerate(zip(names, pictures, strict=True)):
        twins = np.flatnonzero(similar[i, :i] >= DUPLICATE)
        if twins.size:
            dropped.append({"name": name, "why": f"duplicate of {names[twins[0]]}"})
            continue
        split = "heldout" if in_split(names[groups[i]], "heldout", HELDOUT) else "train"
        write_image(target / split / f"{name}.png", picture)
        counts[split] += 1
    people_count = len(set(groups))
    if not all(counts.values()):
        raise SystemExit(f"{counts}: too few people ({people_count}) for two sets; add pictures")
    note = {"images": counts, "people": people_count, "dropped": dropped}
    write_json(target / "data.json", note)
    print(
        f"{counts['train']} faces for training, {counts['heldout']} held out; {people_count} "
        f"people; {len(dropped)} dropped"
    )


def people_of(similar: np.ndarray) -> list[int]:
    """Returns, for each face, the first face of the same person, given all cosines [n, n]."""
    first = list(range(len(similar)))
    for i, row in enumerate(similar):
        for j in np.flatnonzero(row[:i] >= SAME_PERSON):
            old, new = sorted((first[i], first[j]), reverse=True)
            first = [new if group == old else group for group in first]
    return first


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The stages in one size.

    Attributes:
        size: 'full' or 'short', as in configs/photos128.py.
    """

    size: str

    def train(
        self, stage: str, work: pathlib.Path, origin: pathlib.Path, *, stop: bool = False
    ) -> None:
        """Trains a stage, or resumes it, and notes the fingerprint of its weights.

        Args:
            stage: its name.
            work: folder of the run.
            origin: folder of data and of the stage before.
            stop: stop once the weights of the fingerprint are saved.
        """
        # Huge pages for the C library, see docs/speed.md.
        environment = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1", **os.environ}
        command = [sys.executable, *self.command(stage, work, origin)]
        work.mkdir(parents=True, exist_ok=True)
        if not (made := work / f"{stage}.commit").exists():
            made.write_text(git("describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"))
        process = subprocess.Popen(command, cwd=ROOT, env=environment)
        try:
            while process.poll() is None:
                time.sleep(1)
                if self.note(stage, work) and stop:
                    process.send_signal(signal.SIGTERM)
        finally:
            process.wait()  # Ctrl-C reached it as well; it saves before it ends.
        self.note(stage, work)
        if process.returncode and not (stop and stage in read_fingerprints(work)):
            raise SystemExit(process.returncode)

    def note(self, stage: str, work: pathlib.Path) -> bool:
        """Notes the SHA-256 of a stage's averaged weights at step `COMPARED`, once it is saved.

        Returns:
            Whether it was noted now.
        """
        fingerprints, step = read_fingerprints(work), COMPARED[self.size]
        saved = work / stage / "checkpoints" / str(step) / "digests.json"
        if stage in fingerprints or not saved.exists():
            return False
        fingerprints[stage] = parameter_fingerprint(load_trained(work / stage, step).variables)
        write_json(work / FINGERPRINTS, fingerprints)
        return True

    def command(self, stage: str, work: pathlib.Path, origin: pathlib.Path) -> list[str]:
        """Returns the command that trains a stage; see `train`."""
        command = [
            "train.py",
            f"--config=configs/photos128.py:{stage},{self.size}",
            f"--workdir={work / stage}",
            f"--config.data.path={origin / 'data' / 'train'}",
            f"--config.eval.path={origin / 'data' / 'heldout'}",
        ]
        if before := STAGES.index(stage):
            command.append(f"--config.init_from={origin / STAGES[before - 1]}")
        return command

    def export(self, work: pathlib.Path, model: pathlib.Path) -> None:
        """Writes the averaged network in 16 bits, with what made it."""
        images = json.loads((work / "data" / "data.json").read_text())["images"]
        about = {
            "commit": (work / f"{STAGES[-1]}.commit").read_text(),
            "config": f"configs/photos128.py:{STAGES[-1]},{self.size}",
            "data": f"{images['train']} generated faces, {images['heldout']} more held out",
            "licence": "Apache-2.0",
        }
        export_trained(work / STAGES[-1], model, half=True, about=about, force=True)

    def repeat(self, work: pathlib.Path, other: pathlib.Path) -> int:
        """Trains the first steps of each stage again, and returns 1 if the weights differ."""
        wanted = read_fingerprints(work)
        if missing := [stage for stage in STAGES if stage not in wanted]:
            raise SystemExit(f"--work {work} has not finished: {', '.join(missing)}")
        for stage in STAGES:
            if stage not in read_fingerprints(other):
                self.train(stage, other, work, stop=True)
        found = read_fingerprints(other)
        for stage in STAGES:
            same = "are equal" if found[stage] == wanted[stage] else "DIFFER"
            print(f"{stage}: the weights at step {COMPARED[self.size]} {same}")
        return 0 if found == wanted else 1


def git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def write_json(path: pathlib.Path, content: dict) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")


def read_fingerprints(work: pathlib.Path) -> dict[str, str]:
    notes = work / FINGERPRINTS
    return json.loads(notes.read_text()) if notes.exists() else {}


if __name__ == "__main__":
    sys.exit(main())
