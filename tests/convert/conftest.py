"""Tables {PyTorch name: array} of the parity fixtures, and hand-made `.pth` archives."""

import functools
import importlib.util
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

PARITY = Path(__file__).parents[1] / "parity"


@pytest.fixture(scope="session")
def seeded():
    """The module that draws the fixtures' weights."""
    spec = importlib.util.spec_from_file_location("convert_seeded", PARITY / "seeded.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def shapes_of():
    """Fixture name -> {PyTorch name: shape}."""

    def load(name):
        with np.load(PARITY / f"{name}.npz") as arrays:
            return {k: tuple(v) for k, v in json.loads(str(arrays["shapes"])).items()}

    return load


@pytest.fixture(scope="session")
def table_of(seeded, shapes_of):
    """Fixture name -> {PyTorch name: seeded array}; the arrays are shared, the dict is not."""

    @functools.lru_cache(maxsize=8)
    def drawn(name):
        return seeded.seeded_state_dict(shapes_of(name), 0)

    def load(name):
        large = name in ("codeformer_0", "vqgan_full_0")
        return dict(drawn.__wrapped__(name) if large else drawn(name))

    return load


@pytest.fixture
def make_pth(tmp_path):
    """Writes a zip `.pth` around a given pickle and storages; returns its path."""

    def make(pickled, storages=(), compression=zipfile.ZIP_STORED, extra=()):
        path = tmp_path / "made.pth"
        with zipfile.ZipFile(path, "w", compression) as archive:
            archive.writestr("made/data.pkl", pickled)
            for key, content in enumerate(storages):
                archive.writestr(f"made/data/{key}", content)
            for name, content in extra:
                archive.writestr(name, content)
        return path

    return make
