"""`codeformer-jax encode`: the teacher's codes in both orientations, whole folders or none."""

import contextlib

import jax
import numpy as np
import pytest
from encoding import Breaking, entries, faces, run_encode
from tiny import tiny_config

from codeformer_jax import cli, convert
from codeformer_jax.checkpoints.teachers import teacher_of
from codeformer_jax.checkpoints.trained import Trained, load_trained
from codeformer_jax.convert import code_fingerprint
from codeformer_jax.data.images import write_image
from codeformer_jax.data.pipeline import batches
from codeformer_jax.data.precomputed_codes import Codes, WithCodes
from codeformer_jax.data.sources import open_source
from codeformer_jax.data.synthetic import SyntheticFaces
from codeformer_jax.nn import TamingVQGAN
from codeformer_jax.priors import encode
from codeformer_jax.system import parallel
from codeformer_jax.tasks import common
from configs import codeformer_stage2


@pytest.fixture(scope="module")
def vqgan(stages):
    """A stage-I workdir."""
    return stages[0] / "vqgan"


@pytest.fixture(scope="module")
def teacher(vqgan):
    return teacher_of(load_trained(vqgan), vqgan)


@pytest.fixture(scope="module")
def model_file(teacher, tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "vqgan.safetensors"
    convert.save_model(path, "vqgan", *teacher)
    return path


def truth(teacher, source):
    """Codes [number, 2, n] by the plain network, image by image."""
    module, variables = teacher
    run = jax.jit(lambda v, x: module.apply(v, common.from_uint8(x), method="encode").indices)
    images = np.stack([source[i]["image"] for i in range(len(source))])
    sides = [
        np.concatenate([run(variables, x[None]) for x in side])
        for side in (images, images[:, :, ::-1])
    ]
    return np.stack(sides, axis=1)


def everything(directory, source):
    codes = Codes(directory)
    return np.stack([codes[i] for i in range(len(source))])


@pytest.mark.parametrize(("mesh", "batch_size", "workers"), [("data:1", 4, 0), ("data:-1", 8, 2)])
def test_codes_are_the_teachers_of_both_orientations(tmp_path, teacher, mesh, batch_size, workers):
    source = faces(11)
    done = run_encode(
        source, tmp_path / "codes", teacher, mesh=mesh, batch_size=batch_size, workers=workers
    )
    codes = everything(tmp_path / "codes", source)
    np.testing.assert_array_equal(codes, truth(teacher, source))
    # Codes of the mirrored picture are not the mirrored codes.
    assert (codes[:, 1] != codes[:, 0].reshape(-1, 16, 16)[:, :, ::-1].reshape(-1, 256)).any()
    assert done == Codes(tmp_path / "codes").description
    assert done.fingerprint == code_fingerprint(*teacher)
    assert (done.number, done.image_size, done.grid, done.codebook_size) == (11, 32, (16, 16), 16)
    assert entries(tmp_path) == ["codes"]


def test_an_interrupted_encoding_leaves_nothing(tmp_path, teacher):
    with pytest.raises(ValueError, match="broken"):
        run_encode(Breaking(faces(12), at=9), tmp_path / "codes", teacher)
    assert not entries(tmp_path)


def test_codes_are_replaced_only_by_complete_ones_and_only_with_force(tmp_path, teacher):
    target = tmp_path / "codes"
    run_encode(faces(5), target, teacher)
    before = {path.name: path.read_bytes() for path in target.iterdir()}
    with pytest.raises(FileExistsError, match=r"codes: exists; pass --force"):
        run_encode(faces(6), target, teacher)
    with pytest.raises(ValueError, match="broken"):
        run_encode(Breaking(faces(6), at=5), target, teacher, force=True)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before
    run_encode(faces(6), target, teacher, force=True)
    assert len(Codes(target)) == 6
    assert entries(tmp_path) == ["codes"]


def test_force_does_not_replace_what_holds_no_codes(tmp_path, teacher):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"mine")
    for target in (tmp_path / "photos", tmp_path / "photos" / "a.png"):
        with pytest.raises(FileExistsError, match="exists and holds no codes"):
            run_encode(faces(5), target, teacher, force=True)
    assert (tmp_path / "photos" / "a.png").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (faces(0), {}, "no images to encode in 'faces'"),
        (SyntheticFaces("train", 33, 4), {}, "images of 33 px do not divide into codes of 2 px"),
        (faces(4), {"mesh": "data:2", "batch_size": 3}, "batch_size=3 does not divide over 2 dev"),
        (faces(4), {"batch_size": -4}, "batch_size=-4 does not divide"),
        (faces(4), {"mesh": "data:3,fsdp:-1"}, "does not fit 8 devices"),
    ],
)
def test_what_does_not_fit_writes_nothing(tmp_path, teacher, source, options, message):
    with pytest.raises(ValueError, match=message):
        run_encode(source, tmp_path / "codes", teacher, **options)
    assert not entries(tmp_path)


def test_codes_that_appear_meanwhile_are_not_replaced(tmp_path, teacher):
    class Slow(Breaking):
        def __getitem__(self, index):
            if index == 4:
                (tmp_path / "codes").mkdir(exist_ok=True)
                (tmp_path / "codes/mine").write_text("mine")
            return super().__getitem__(index)

    with pytest.raises(FileExistsError, match="exists"):
        run_encode(Slow(faces(5)), tmp_path / "codes", teacher)
    assert entries(tmp_path / "codes") == ["mine"]
    assert entries(tmp_path) == ["codes"]


def test_fingerprint(teacher):
    module, variables = teacher
    own = code_fingerprint(module, variables)
    assert len(own) == 64
    without = {"params": {n: variables["params"][n] for n in ("encoder", "quantize")}}
    assert code_fingerprint(module.clone(beta=1.0, dtype="bfloat16"), without) == own
    for field in ({"norm_groups": 2}, {"image_size": 16}, {"attn_resolutions": ()}):
        assert code_fingerprint(module.clone(**field), variables) != own
    for name in ("encoder", "quantize"):
        changed = jax.tree.map(np.array, variables)
        leaf = jax.tree.leaves(changed["params"][name])[-1]
        leaf.reshape(-1)[0] = np.nextafter(leaf.reshape(-1)[0], np.float32(9))
        assert code_fingerprint(module, changed) != own
    with pytest.raises(ValueError, match=r"moving average \(ema_decay=0\.9\)"):
        code_fingerprint(module.clone(ema_decay=0.9), variables)


def test_model_file_workdir_and_a_codeformers_teacher_are_one_network(
    tmp_path, stages, vqgan, model_file, capsys
):
    stage2, config = stages[0] / "code_prediction", tiny_config("code_prediction").unlock()
    for i in range(12):
        write_image(tmp_path / f"faces/{i}.png", faces(12)[i]["image"])
    data = str(tmp_path / "faces")
    given = {"data": data, "heldout_fraction": 0.25, "mesh": "data:1"}
    written = {}
    for name, checkpoint in {"a": vqgan, "b": stage2, "c": model_file}.items():
        encode.encode_dataset(checkpoint, tmp_path / name, **given)
        written[name] = {p.name: p.read_bytes() for p in (tmp_path / name).iterdir()}
    assert written["a"] == written["b"] == written["c"]
    config.data.update(path=data, heldout_fraction=0.25)
    source = open_source(config.data, "train")
    assert 0 < len(source) < 12
    assert everything(tmp_path / "a", source).shape == (len(source), 2, 256)
    assert Codes(tmp_path / "a").description.source == f"{data}, heldout_fraction=0.25"
    assert f"{len(source)}/{len(source)}" in capsys.readouterr().err


def test_codes_of_a_mixture_of_sources(tmp_path, vqgan, teacher):
    """Drawn by weight as without codes, each picture with its own codes."""
    for i in range(12):
        write_image(tmp_path / f"faces/{i}.png", SyntheticFaces("heldout", 32, 12)[i]["image"])
    config = tiny_config("vqgan").unlock()
    config.data.path = f"0.8 * synthetic:10 + 0.2 * folder:{tmp_path}/faces"
    config.data.heldout_fraction = 0.25
    given = {"data": config.data.path, "heldout_fraction": 0.25, "mesh": "data:1"}
    encode.encode_dataset(vqgan, tmp_path / "codes", **given)
    plain = open_source(config.data, "train")
    expected = truth(teacher, plain)
    coded = WithCodes(plain, Codes(tmp_path / "codes"))
    steps, indices = 10, []
    with (
        contextlib.closing(batches(plain, batch_size=8, seed=0)) as without,
        contextlib.closing(batches(coded, batch_size=8, seed=0)) as with_codes,
    ):
        for _ in range(steps):
            one, other = next(without), next(with_codes)
            np.testing.assert_array_equal(one["image"], other["image"])
            for image, index, codes in zip(
                *map(other.get, ("image", "index", "codes")), strict=True
            ):
                mirrored = not np.array_equal(image, plain[int(index)]["image"])
                np.testing.assert_array_equal(codes, expected[int(index), int(mirrored)])
            indices.append(other["index"])
    assert np.mean(np.concatenate(indices) < 10) > 0.7


def test_the_command_encodes_what_the_checkpoint_was_trained_on(tmp_path, vqgan, capsys):
    target = tmp_path / "codes"
    assert cli.main(["encode", str(vqgan), str(target), "--mesh", "data:1"]) == 0
    out = capsys.readouterr().out
    assert "codes of 32 images in both orientations (synthetic faces, 32 px, 16x16 codes" in out
    assert f"--config.data.codes={target}" in out
    source = open_source(tiny_config("vqgan").data, "train")
    assert everything(target, source).shape == (32, 2, 256)
    assert cli.main(["encode", str(vqgan), str(target)]) == 2
    assert "exists; pass --force" in capsys.readouterr().err


def test_a_model_file_needs_to_be_told_the_images(tmp_path, model_file):
    with pytest.raises(ValueError, match="give --data SOURCE"):
        encode.encode_dataset(model_file, tmp_path / "codes")
    with pytest.raises(FileNotFoundError, match="no image folder"):
        encode.encode_dataset(model_file, tmp_path / "codes", data=str(tmp_path / "none"))
    with pytest.raises(FileNotFoundError, match="expected a model file or a workdir"):
        encode.encode_dataset(tmp_path / "none", tmp_path / "codes")
    assert not entries(tmp_path)


def test_a_network_without_a_codebook_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds a discriminator without the stage-I network"):
        teacher_of(Trained("discriminator", None, {}), tmp_path)


def test_defaults_for_a_model_file_are_those_of_the_configs():
    data = codeformer_stage2.get_config().data
    for name in ("heldout_fraction", "max_unreadable"):
        assert encode.DATA_DEFAULTS[name] == data[name]


def test_a_taming_vqgan_encodes_with_its_first_convolution():
    module = TamingVQGAN(
        image_size=16,
        nf=4,
        ch_mult=(1, 2),
        res_blocks=1,
        norm_groups=4,
        attn_resolutions=(),
        codebook_size=8,
        emb_dim=4,
        z_channels=4,
    )
    images = jax.numpy.asarray(np.random.default_rng(0).integers(0, 256, (1, 16, 16, 3), np.uint8))
    variables = jax.jit(module.init)(jax.random.key(0), common.from_uint8(images))
    mesh = parallel.make_mesh("data:1")
    found = encode.make_encode(module, variables, mesh)(images)
    apply = jax.jit(module.apply, static_argnames="method")
    expected = apply(variables, common.from_uint8(images), method="encode").indices
    np.testing.assert_array_equal(found[:, 0], expected)
