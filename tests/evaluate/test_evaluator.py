import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codeformer_jax.degrade import Recipe, degrade
from codeformer_jax.evaluate import evaluate, plain_text
from codeformer_jax.nn import VQGAN, CodeFormer


def _noise(images, keys, sigma):
    """A degradation that compiles fast; `TRACES` counts how often it is compiled."""
    TRACES.append(images.shape)
    noise = jax.vmap(lambda key: jax.random.normal(key, images.shape[1:]))(keys)
    return jnp.round(jnp.clip(images + sigma * noise, 0, 1) * 255) / 255


TRACES = []
OPTIONS = {"recipe": jnp.float32(0.1), "degrade_fn": _noise}


@dataclasses.dataclass(frozen=True)
class _Distance:
    """Stands in for LPIPS: a module whose `apply` compares pictures in [-1, 1]."""

    def apply(self, variables, images, targets):
        return variables["scale"] * jnp.abs(images - targets).mean(axis=(1, 2, 3))


@pytest.fixture(scope="module")
def restored(codeformer, vqgan, source):
    distances = {
        name: (_Distance(), {"scale": jnp.float32(scale)})
        for name, scale in (("lpips", 2), ("st_lpips", 3))
    }
    return evaluate(
        *codeformer, source, teacher=vqgan, **distances, **OPTIONS, batch_size=4, seed=3
    )


def test_scores_are_those_of_the_networks_output(restored, codeformer, vqgan, source):
    module, variables = codeformer
    clean = np.stack([e["image"] for e in source]).astype(np.float32) / 255
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(3), i))(jnp.arange(len(source)))
    degraded = _noise(jnp.array(clean), keys, jnp.float32(0.1))
    fixed = {"adain": True}
    apply = jax.jit(lambda w: module.apply(variables, 2 * degraded - 1, w=jnp.full(11, w), **fixed))
    taught = jax.jit(vqgan[0].apply)(vqgan[1], jnp.array(2 * clean - 1))
    pictures = {"input": degraded, "teacher": (taught.image + 1) / 2}
    pictures |= {f"w={w:g}": (apply(w).image + 1) / 2 for w in (0.0, 0.5, 1.0)}
    assert list(restored.scores) == ["input", "w=0", "w=0.5", "w=1", "teacher"]
    for row, made in pictures.items():
        picture = np.round(np.clip(np.asarray(made, np.float64), 0, 1) * 255) / 255
        mse = ((picture - clean) ** 2).mean(axis=(1, 2, 3))
        np.testing.assert_allclose(restored.scores[row]["psnr"], -10 * np.log10(mse), rtol=1e-4)
        distance = 4 * np.abs(picture - clean).mean(axis=(1, 2, 3))
        np.testing.assert_allclose(restored.scores[row]["lpips"], distance, rtol=1e-3)
        np.testing.assert_allclose(restored.scores[row]["st_lpips"], 1.5 * distance, rtol=1e-3)
    out, codes = apply(0.0), np.asarray(taught.indices)
    accuracy = (np.asarray(out.indices) == codes).mean(axis=1)
    np.testing.assert_allclose(restored.codes["code_accuracy"], accuracy, atol=1e-6)
    counts = np.bincount(codes.reshape(-1), minlength=16)
    np.testing.assert_array_equal(restored.code_counts["teacher"], counts)
    assert counts.max() < counts.sum()
    means = restored.code_means()
    assert means["commonest_accuracy"] == pytest.approx(counts.max() / counts.sum())
    p = counts[counts > 0] / counts.sum()
    assert means["frequency_cross_entropy"] == pytest.approx(-(p * np.log(p)).sum(), rel=1e-5)
    assert restored.usage()["teacher"]["dead"] == (counts == 0).sum()


def test_the_weight_changes_the_result(restored):
    assert not np.allclose(restored.scores["w=0"]["psnr"], restored.scores["w=1"]["psnr"])
    gain = restored.scores["w=1"]["psnr"] - restored.scores["input"]["psnr"]
    np.testing.assert_array_equal(restored.gain, gain)


def test_the_batch_changes_nothing_and_nothing_compiles_twice(codeformer, source):
    TRACES.clear()
    first = evaluate(*codeformer, source, **OPTIONS, batch_size=4)
    again = evaluate(*codeformer, source, **OPTIONS, batch_size=4)
    others = evaluate(*codeformer, source, **OPTIONS, batch_size=4, weights=(0.2, 2, 0.1), seed=1)
    # 11 images in batches of 4, the last one padded: one shape, whatever the weights and the seed.
    assert TRACES == [(4, 32, 32, 3)]
    assert first.to_json() == again.to_json()
    assert list(others.scores) == ["input", "w=0.1", "w=0.2", "w=2"]
    assert not np.allclose(others.scores["input"]["psnr"], first.scores["input"]["psnr"])
    whole = evaluate(*codeformer, source, **OPTIONS, batch_size=11)
    assert len(TRACES) == 2
    assert whole.names == first.names == tuple(e["name"] for e in source)
    for row, scores in first.scores.items():
        for name, values in scores.items():
            # Sums of another order may round another way to 8 bits, here and there.
            np.testing.assert_allclose(whole.scores[row][name], values, rtol=1e-3)
    np.testing.assert_array_equal(first.scores["input"]["psnr"], whole.scores["input"]["psnr"])
    few = evaluate(*codeformer, source, **OPTIONS, batch_size=4, limit=5)
    np.testing.assert_array_equal(few.scores["w=1"]["psnr"], first.scores["w=1"]["psnr"][:5])


def test_the_projects_own_degradation(codeformer, source):
    recipe = Recipe.create(
        blur_sigma=(0.5, 1.0), downsample=(1.0, 2.0), noise=(0.0, 5.0), jpeg_quality=(60.0, 90.0)
    )
    result = evaluate(*codeformer, source, recipe=recipe, limit=2, batch_size=2)
    clean = jnp.array(np.stack([e["image"] for e in source[:2]]), jnp.float32) / 255
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(0), i))(jnp.arange(2))
    shown = {p.image: p.pictures["input"] for p in result.pictures}
    expected = np.round(np.asarray(jax.jit(degrade)(clean, keys, recipe)) * 255)
    assert np.mean(np.stack([shown[0], shown[1]]) == expected) > 0.999
    assert result.settings["degradation"]["noise"] == [0.0, 5.0]
    assert result.settings["network"]["codebook_size"] == 16
    # Without a teacher there is no truth to compare codes with.
    assert result.codes == {}
    assert list(result.code_counts) == ["network"]


def test_reconstruction_by_a_vqgan(vqgan, source):
    result = evaluate(*vqgan, source, batch_size=4)
    assert list(result.scores) == ["reconstruction"]
    assert result.gain is None
    assert result.code_counts["network"].sum() == 11 * 256
    assert "seed" not in result.settings
    for shown in result.pictures:
        np.testing.assert_array_equal(shown.pictures["truth"], source[shown.image]["image"])


def test_pictures_are_the_worst_the_first_and_the_best(restored):
    groups = {
        group: [p.image for p in restored.pictures if p.group == group]
        for group in ("worst", "first", "best")
    }
    order = list(np.argsort(restored.gain))
    assert groups["worst"] == order[:8]
    assert groups["first"] == sorted(set(range(8)) - set(order[:8]))
    assert set(groups["best"]) == set(order[-4:]) - set(order[:8]) - set(range(8))


def test_stand_ins_for_unreadable_images_are_left_out(codeformer, source):
    class Replacing(list):
        def __getitem__(self, index):
            return {**source[max(index, 1)], "index": max(index, 1)}

    result = evaluate(*codeformer, Replacing(source), **OPTIONS, batch_size=4, limit=5)
    assert result.indices == (1, 2, 3, 4)
    assert result.settings["skipped"] == 1
    assert "skipped 1 unreadable" in plain_text(result)


def _sized(height, width, name="odd.png"):
    return {"image": np.zeros((height, width, 3), np.uint8), "name": name}


@pytest.mark.parametrize(
    ("elements", "message"),
    [
        ([], "no images to evaluate"),
        ([_sized(33, 32)], "'odd.png' has 33x32 px, but this network needs .* multiples of 2"),
        ([_sized(32, 32), _sized(34, 34)], "34x34 px, but the images before it 32x32"),
        ([{"image": np.zeros((32, 32), np.uint8), "name": "gray"}], r"'gray' is uint8 \(32, 32\)"),
        ([{"image": np.zeros((32, 32, 3)), "name": "a"}], "'a' is float64 .* expected uint8"),
    ],
)  # fmt: skip
def test_bad_images_are_refused(codeformer, elements, message):
    with pytest.raises(ValueError, match=message):
        evaluate(*codeformer, elements, **OPTIONS, batch_size=2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"teacher": (VQGAN(codebook_size=32), {})}, "codebook_size=32, the network 16"),
        (
            {"teacher": (VQGAN(codebook_size=16), {})},
            "downsampling=32, the network 2.* give the VQGAN",
        ),
        ({"recipe": None}, "give the recipe"),
        ({"weights": ()}, "different numbers from 0 up, got \\[\\]"),
        ({"weights": (0.5, 0.5)}, "different numbers"),
        ({"weights": (-1,)}, "different numbers"),
        ({"weights": (float("nan"),)}, "different numbers"),
    ],
)
def test_bad_options_are_refused(codeformer, source, change, message):
    with pytest.raises(ValueError, match=message):
        evaluate(*codeformer, source, **{**OPTIONS, **change})


def test_other_networks_are_refused(vqgan, source):
    with pytest.raises(ValueError, match="give it to a restorer only"):
        evaluate(*vqgan, source, teacher=vqgan)
    with pytest.raises(TypeError, match=r"a _Distance; expected one of .*codeformer"):
        evaluate(_Distance(), {}, source)


def test_output_that_is_not_finite_is_refused(vqgan, source):
    module, variables = vqgan
    broken = jax.tree.map(lambda x: x * jnp.nan, variables)
    with pytest.raises(ValueError, match=r"output for 'folder/<00> & co\.png' is not finite"):
        evaluate(module, broken, source, batch_size=4)


def test_a_network_without_fusion_is_evaluated(codeformer, source):
    module = CodeFormer(
        **{f.name: getattr(codeformer[0], f.name) for f in dataclasses.fields(CodeFormer)
           if f.name not in ("parent", "name", "connect_list")},
        connect_list=(),
    )  # fmt: skip
    params = {k: v for k, v in codeformer[1]["params"].items() if "fuse" not in k}
    result = evaluate(module, {"params": params}, source, **OPTIONS, weights=(0, 1), limit=2)
    np.testing.assert_array_equal(result.scores["w=0"]["psnr"], result.scores["w=1"]["psnr"])
