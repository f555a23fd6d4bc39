"""Folders of small pictures, and ways to read what was made of them."""

import dataclasses
import hashlib
import json
import os
import pathlib

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from codeformer_jax.prepare import publish
from codeformer_jax.prepare.build import prepare


def picture(seed, height=24, width=24):
    """A picture [h, w, 3] of its own for every seed."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def save(path, seed=0, **size):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(seed, **size)).save(path)
    return path


def fill(root, count, first=0):
    for index in range(first, first + count):
        save(root / f"{index:03d}.png", index)
    return root


def read_split(out, split):
    """{name: pixels} in the dataset's order, by TFDS alone."""
    source = tfds.builder_from_directory(str(out)).as_data_source(split)
    return {element["name"].decode(): element["image"] for element in source}


def splits(out):
    return set(tfds.builder_from_directory(str(out)).info.splits)


def read_all(out):
    return {name: image for split in splits(out) for name, image in read_split(out, split).items()}


def rejected(out):
    lines = (pathlib.Path(out) / "rejected.jsonl").read_text().splitlines()
    return {entry["name"]: (entry["kind"], entry["reason"]) for entry in map(json.loads, lines)}


def tree_hash(root):
    """Hash of all names below a folder and of the files' bytes."""
    digest = hashlib.sha256()
    for path in sorted(pathlib.Path(root).rglob("*")):
        digest.update(path.relative_to(root).as_posix().encode())
        digest.update(path.read_bytes() if path.is_file() else b"/")
    return digest.hexdigest()


class Killed(BaseException):
    """As if the process had ended here: nothing but `finally` runs."""


def killed(*_, **__):
    raise Killed


def killed_while_replacing(room, monkeypatch):
    """Kills `--force` after it has moved a dataset aside; returns the hash of that dataset."""
    room.prepare(size=8)
    old, os_rename = tree_hash(room.out), os.rename

    def stop(source, target):
        if str(target) == str(room.out):
            raise Killed
        os_rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(publish.os, "rename", stop)
        with pytest.raises(Killed):
            room.prepare(force=True)
    assert not room.out.exists()
    return old


def die(*_):
    """A worker process that is killed, as by the system when memory runs out."""
    os._exit(9)


@dataclasses.dataclass
class Room:
    """A folder `faces` and a place `out` for the dataset, beside each other."""

    faces: pathlib.Path
    out: pathlib.Path

    @property
    def partial(self):
        return self.out.with_name(self.out.name + ".partial")

    def prepare(self, *sources, **options):
        return prepare(sources or [self.faces], self.out, **{"size": 16, "workers": 0, **options})
