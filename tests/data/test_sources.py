"""Sources by one string: the grammar, what each kind opens, mixtures and their pure batches."""

import contextlib
import itertools
import re
from unittest import mock

import numpy as np
import pytest
from ml_collections import config_dict
from recorded import encoded, example, noise, write_records, write_tfds

from codeformer_jax.data.examples import CachedSource, Mixture, listing_digest
from codeformer_jax.data.folder import ImageFolder
from codeformer_jax.data.images import write_image
from codeformer_jax.data.pipeline import batches, evaluation_batches
from codeformer_jax.data.records import Records
from codeformer_jax.data.sources import (
    SOURCES,
    SourceError,
    Spec,
    open_heldout,
    open_source,
    parse_source,
)


@pytest.mark.parametrize(
    ("text", "specs"),
    [
        ("/faces", [Spec("folder", "/faces")]),
        ("my faces/é 漢", [Spec("folder", "my faces/é 漢")]),
        ("folder:/a + b/c+d", [Spec("folder", "/a + b/c+d")]),
        ("/a + b", [Spec("folder", "/a + b")]),
        ("folder:tfds:x", [Spec("folder", "tfds:x")]),
        ("folder:0.5 * x", [Spec("folder", "0.5 * x")]),
        ("C:\\faces", [Spec("folder", "C:\\faces")]),
        ("tfds:/data/ffhq", [Spec("tfds", "/data/ffhq")]),
        ("tfds:ffhq[train[:90%]]", [Spec("tfds", "ffhq[train[:90%]]")]),
        ("tfds:ffhq[train+test]", [Spec("tfds", "ffhq[train+test]")]),
        ("array_record:/d/a b*/[0-9].rec", [Spec("array_record", "/d/a b*/[0-9].rec")]),
        ("synthetic:300", [Spec("synthetic", "300")]),
        (
            "0.7 * tfds:ffhq + 0.3 * folder:/my faces",
            [Spec("tfds", "ffhq", 0.7), Spec("folder", "/my faces", 0.3)],
        ),
        (
            " 2*/a + b/x y + 1e-1 *  tfds:t[train[:5%]] +  3 * synthetic:9 ",
            [
                Spec("folder", "/a + b/x y", 2.0),
                Spec("tfds", "t[train[:5%]]", 0.1),
                Spec("synthetic", "9", 3.0),
            ],
        ),
        ("1 * /a", [Spec("folder", "/a")]),
    ],
)
def test_what_strings_mean(text, specs):
    assert list(parse_source(text)) == specs


@pytest.mark.parametrize(
    ("text", "marked", "message"),
    [
        ("tdfs:ffhq", "tdfs:ffhq", "'tdfs:' is no kind of source; expected folder:, tfds:"),
        ("0.7 * tfds:a + x * /b", "x", "'x' is no weight"),
        ("0.7 * tfds:a + 0,3 * /b", "0,3", "'0,3' is no weight"),
        ("0 * /a + 1 * /b", "0", "'0' is no weight; expected a number above 0"),
        ("1 * /a + -1 * /b", "-1", "'-1' is no weight"),
        ("inf * /a + 1 * /b", "inf", "'inf' is no weight"),
        ("1 * /a + nan * /b", "nan", "'nan' is no weight"),
        ("tfds:a + 0.3 * /b", "tfds:a", "a part of a mixture needs a weight before it"),
        ("tfds:a + tfds:b", "tfds:a", "a part of a mixture needs a weight before it"),
        ("0.7 * tfds:a + tfds:b", "tfds:b", "a part of a mixture needs a weight before it"),
        ("1 * /a + 2 * tdfs:x", "tdfs:x", "'tdfs:' is no kind of source"),
        ("1 * /a + 2 * folder:", "folder:", "nothing behind 'folder:'"),
        ("1 * ", "", "no source is named"),
        ("   ", "", "no source is named"),
        ("tfds:", "tfds:", "nothing behind 'tfds:'"),
    ],
)
def test_errors_mark_the_bad_part(text, marked, message):
    with pytest.raises(SourceError, match=re.escape(message)) as caught:
        parse_source(text)
    first, shown, marks, form = str(caught.value).splitlines()
    assert first.startswith("cannot read this source: ")
    assert shown == f"  {text}"
    start, length = marks.index("^"), marks.count("^")
    assert shown[start : start + length].strip() == marked
    assert form.startswith("as in: 0.7 * tfds:")


def test_a_folder_whose_name_looks_like_a_kind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ab:c").mkdir()
    assert parse_source("ab:c") == (Spec("folder", "ab:c"),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("synthetic:many", "synthetic:many needs a number of pictures"),
        ("1 * /a + 1 * synthetic:0", "synthetic:0 needs a number of pictures"),
        ("tfds:a[train", "tfds:NAME[SPLIT], such as tfds:faces[train[:90%]]"),
        ("tfds:a[]", "tfds:NAME[SPLIT]"),
    ],
)
def test_what_follows_a_prefix_is_checked(text, message):
    with pytest.raises(SourceError, match=re.escape(message)):
        open_source(config_of(text.removeprefix("1 * /a + 1 * ")).data, "train")


class Registered:
    """Examples that tell their number and how they were opened."""

    def __init__(self, *opened):
        self.opened = opened

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return {"image": np.full((8, 8, 3), index, np.uint8), "name": f"{index}"}


@mock.patch.dict(SOURCES)
def test_a_registered_prefix_opens_a_source(faces):
    @SOURCES.register("mine")
    def _open(where, data, split):
        return Registered(where, data.image_size, split)

    assert open_source(config_of("mine:a b").data, "train").opened == ("a b", 8, "train")
    assert open_heldout(config_of("mine:x")).opened == ("x", 8, "heldout")
    assert open_heldout(config_of("mine:x", "mine:y")).opened == ("y", 8, "eval")
    mixture = open_source(config_of(f"1 * mine:x + 1 * {faces}").data, "train")
    (step,) = take(batches(mixture, batch_size=8, seed=0), 1)
    assert (step["index"] < 10).sum() == 4
    with pytest.raises(SourceError, match="a part of a mixture needs a weight before it"):
        parse_source("1 * /a + mine:x")
    SOURCES.register("hdf5")(_open)
    assert open_source(config_of("hdf5:a.h5").data, "train").opened == ("a.h5", 8, "train")
    # Two objects of the same class are the same data to a run that resumes.
    assert listing_digest(Registered()) == listing_digest(Registered())


def config_of(path=None, eval_path=None, **data):
    config = config_dict.ConfigDict()
    config.data = {"image_size": 8, "synthetic_length": 30, "heldout_length": 6} | data
    config.data.path = config_dict.placeholder(str)
    config.eval = {"path": config_dict.placeholder(str)}
    config.data.path, config.eval.path = path, eval_path
    return config


def fill(folder, seeds, size=8):
    for seed in seeds:
        write_image(folder / f"{seed:03d}.png", noise(seed, size))
    return folder


def names(source):
    return [source[index]["name"] for index in range(len(source))]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """12 training and 4 validation examples, numbered in this order."""
    return write_tfds(tmp_path_factory.mktemp("tfds"), {"train": 12, "validation": 4})


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """A folder of 10 images numbered from 100 on, with a space and a plus in its name."""
    return fill(tmp_path_factory.mktemp("my + faces"), range(100, 110))


def test_a_folder_by_its_string(faces):
    for text in (str(faces), f"folder:{faces}"):
        train = open_source(config_of(text, heldout_fraction=0.3).data, "train")
        assert isinstance(train, ImageFolder)
        assert train.names == ImageFolder(faces, 8, "train", heldout_fraction=0.3).names
    assert len(open_heldout(config_of(eval_path=f"folder:{faces}"))) == 10
    heldout = open_heldout(config_of(str(faces), heldout_fraction=0.3))
    assert set(heldout.names) == {p.name for p in faces.iterdir()} - set(train.names)


def test_a_dataset_by_its_string(dataset):
    text = f"tfds:{dataset}"
    train, heldout = open_source(config_of(text).data, "train"), open_heldout(config_of(text))
    assert isinstance(train, Records)
    assert sorted(names(train)) == [f"{seed:03d}.png" for seed in range(12)]
    assert sorted(names(heldout)) == [f"{seed:03d}.png" for seed in range(12, 16)]
    # The same as TFDS itself decodes.
    part = open_source(config_of(f"{text}[train[:25%]]").data, "train")
    assert names(part) == names(train)[:3]
    assert len(open_heldout(config_of(f"{text}[train[:25%]]"))) == 4
    assert len(open_heldout(config_of(text, eval_path=text))) == 4
    assert len(open_heldout(config_of(text, eval_path=f"{text}[train]"))) == 12


def test_what_trains_is_not_held_out(dataset):
    with pytest.raises(
        ValueError, match=r"'validation' or 'test' for 'heldout' \(unused splits: n"
    ):
        open_heldout(config_of(f"tfds:{dataset}[train+validation]"))
    with pytest.raises(ValueError, match=r"eval\.path"):
        open_heldout(config_of(f"tfds:{dataset}[all[:50%]]"))


def test_synthetic_faces_by_their_number():
    config = config_of("synthetic:3", image_size=16)
    assert len(open_source(config.data, "train")) == 3
    assert len(open_heldout(config)) == 6
    assert len(open_heldout(config_of("synthetic:3", "synthetic:900", image_size=16))) == 900
    with pytest.raises(ValueError, match="length is 99999999; give an integer from 0 to"):
        open_source(config_of("synthetic:99999999", image_size=16).data, "train")


def mixed(dataset, faces, **data):
    path = f"0.75 * tfds:{dataset} + 0.25 * {faces}"
    return open_source(config_of(path, heldout_fraction=0.2, **data).data, "train")


def take(stream, count=None):
    with contextlib.closing(stream):
        return list(itertools.islice(stream, count))


def test_a_mixture_holds_its_parts_in_a_row(dataset, faces):
    mixture = mixed(dataset, faces)
    assert isinstance(mixture, Mixture)
    folder = ImageFolder(faces, 8, "train", heldout_fraction=0.2)
    assert len(mixture) == 12 + len(folder)
    assert names(mixture)[12:] == list(folder.names)
    for index in (0, 11, 12, len(mixture) - 1):
        found = mixture[index]
        assert found["index"] == index
        np.testing.assert_array_equal(found["image"], noise(int(found["name"][:3])))
    for index in (-1, len(mixture)):
        with pytest.raises(IndexError, match="outside"):
            mixture[index]


def test_a_mixture_keeps_its_weights_and_shuffles_each_part_alone(dataset, faces):
    mixture = mixed(dataset, faces)
    steps = take(batches(mixture, batch_size=16, seed=3), 30)
    from_folder = np.stack([step["index"] >= 12 for step in steps])
    assert (np.abs(from_folder.sum(1) - 4) <= 1).all()
    indices = np.stack([step["index"] for step in steps]).ravel()
    for part, length in ((indices < 12, 12), (indices >= 12, len(mixture) - 12)):
        own = indices[part]
        epochs = own[: len(own) // length * length].reshape(-1, length)
        assert len(epochs) > 10
        assert (np.sort(epochs, 1) == np.sort(epochs[0])).all()  # Every example in every epoch.
        assert (epochs[0] != epochs[1]).any()


def test_parts_of_equal_length_have_orders_of_their_own(faces):
    text = f"1 * {faces} + 1 * folder:{faces}"
    source = open_source(config_of(text, heldout_fraction=0.0).data, "train")
    indices = np.concatenate(
        [step["index"] for step in take(batches(source, batch_size=20, seed=0), 1)]
    )
    first, second = indices[indices < 10], indices[indices >= 10] - 10
    assert sorted(first) == sorted(second) == list(range(10))
    assert first.tolist() != second.tolist()


def test_a_mixture_is_evaluated_whole_and_evenly(dataset, faces):
    mixture = open_source(
        config_of(f"9 * tfds:{dataset} + 1 * {faces}", heldout_fraction=0.0).data, "train"
    )
    steps = take(evaluation_batches(mixture, batch_size=4))
    valid = np.concatenate([step["valid"] for step in steps])
    seen = np.concatenate([step["index"] for step in steps])
    assert sorted(seen[valid]) == list(range(22))
    for end in range(4, 24, 4):
        assert abs((seen[:end] < 12).sum() - end * 12 / 22) <= 1


def test_a_cached_mixture_is_the_same_mixture(dataset, faces):
    cached = mixed(dataset, faces, cache=True)
    assert isinstance(cached, CachedSource)
    pairs = zip(
        take(batches(mixed(dataset, faces), batch_size=8, seed=1), 5),
        take(batches(cached, batch_size=8, seed=1), 5),
        strict=True,
    )
    for plain, kept in pairs:
        np.testing.assert_array_equal(plain["image"], kept["image"])


BATCH = 8


@pytest.fixture(scope="module")
def pure(tmp_path_factory, dataset, faces):
    """{kind: source and its stream of 20 steps read by one host without workers}."""
    root = tmp_path_factory.mktemp("records")
    write_records(root / "a.array_record", [example(encoded(noise(i)), f"{i}") for i in range(7)])
    write_records(root / "b.array_record", [encoded(noise(i)) for i in range(7, 12)])
    texts = {
        "folder": str(faces),
        "array_record": f"array_record:{root}/*.array_record",
        "tfds": f"tfds:{dataset}",
        "mixture": f"0.6 * tfds:{dataset} + 0.3 * {faces} + 0.1 * array_record:{root}/a*",
    }
    sources = {
        kind: open_source(config_of(text, heldout_fraction=0.2).data, "train")
        for kind, text in texts.items()
    }
    return {
        kind: (source, take(batches(source, batch_size=BATCH, seed=5), 20))
        for kind, source in sources.items()
    }


def equal(one, other, hosts, host):
    for key in ("image", "index", "name"):
        np.testing.assert_array_equal(np.split(one[key], hosts)[host], other[key])


@pytest.mark.parametrize(
    ("kind", "workers", "hosts", "start"),
    [
        *itertools.product(["folder", "array_record", "mixture"], [0], [1, 2, 4], [0, 17]),
        # Processes take seconds to start; a mixture has every kind in it.
        pytest.param("mixture", 2, 4, 17, marks=pytest.mark.slow),
    ],
)
def test_batches_are_a_pure_function_of_seed_and_step(pure, kind, workers, hosts, start):
    source, whole = pure[kind]
    for host in range(hosts) if workers == 0 else [hosts - 1]:
        options = {"workers": workers, "hosts": hosts, "host": host, "start_step": start}
        steps = take(batches(source, batch_size=BATCH, seed=5, **options), 3)
        for one, other in zip(whole[start : start + 3], steps, strict=True):
            equal(one, other, hosts, host)


@pytest.mark.parametrize("kind", ["folder", "array_record", "tfds", "mixture"])
def test_hosts_draw_different_flips(pure, kind):
    source, _ = pure[kind]
    steps = [
        take(batches(source, batch_size=BATCH, seed=5, hosts=4, host=host), 20) for host in range(4)
    ]
    flips = np.stack(
        [
            [
                not np.array_equal(image, source[int(index)]["image"])
                for step in part
                for image, index in zip(step["image"], step["index"], strict=True)
            ]
            for part in steps
        ]
    )
    assert flips.shape == (4, 40)
    assert 0.35 < flips.mean() < 0.65
    for one, other in itertools.combinations(flips, 2):
        assert 0.2 < (one != other).mean() < 0.8


def test_a_folder_with_one_image(tmp_path):
    fill(tmp_path, [1])
    config = config_of(str(tmp_path), heldout_fraction=0.0)
    step = take(batches(open_source(config.data, "train"), batch_size=4, seed=0), 3)[-1]
    assert step["name"].tolist() == ["001.png"] * 4
    with pytest.raises(ValueError, match=r"split 'heldout' of .* is empty: none of its 1 images"):
        open_heldout(config)


def test_empty_and_missing_parts_are_named(tmp_path, dataset):
    (tmp_path / "empty").mkdir()
    text = f"1 * tfds:{dataset} + 1 * {tmp_path}/empty"
    with pytest.raises(ValueError, match=r"no images in .*empty.*found no files at all"):
        open_source(config_of(text).data, "train")
    with pytest.raises(FileNotFoundError, match=r"no image folder .*nowhere"):
        open_source(config_of(f"1 * tfds:{dataset} + 1 * {tmp_path}/nowhere").data, "train")


def test_equal_names_in_the_folders_of_a_mixture(tmp_path):
    for number, folder in enumerate(["a b", "é"]):
        write_image(tmp_path / folder / "x" / "1.png", np.full((8, 8, 3), number, np.uint8))
    text = f"1 * {tmp_path}/a b + 1 * {tmp_path}/é"
    source = open_source(config_of(text, heldout_fraction=0.0).data, "train")
    (step,) = take(batches(source, batch_size=8, seed=0), 1)
    assert step["name"].tolist() == ["x/1.png"] * 8
    np.testing.assert_array_equal(step["image"][:, 0, 0, 0], step["index"])
    assert sorted(step["index"].tolist()) == [0] * 4 + [1] * 4
