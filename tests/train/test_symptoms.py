"""Warnings about metrics: when, how often and with what advice."""

import logging

import pytest

from codeformer_jax.train.symptoms import WINDOW, Symptoms

HEALTHY = {
    "loss": 0.3,
    "d_real": 0.8,
    "d_fake": 0.9,
    "d_logit_real": 0.2,
    "d_logit_fake": -0.2,
    "adaptive_weight": 0.6,
    "adaptive_ratio": 0.6,
    "perplexity": 100.0,
    "dead_codes": 3.0,
}


@pytest.fixture
def follow(caplog):
    """Feeds stretches of (steps, changed metrics), `every` steps at a time; the warnings' texts."""
    caplog.set_level(logging.WARNING)

    def run(*stretches, maximum=1.0, codes=256, every=10):
        caplog.clear()
        symptoms = Symptoms(maximum, codes)
        step = 0
        for steps, changed in stretches:
            for _ in range(steps // every):
                step += every
                symptoms.read(step, [HEALTHY | changed] * every)
        return [record.getMessage() for record in caplog.records]

    return run


CASES = [
    ({"d_real": 0.01, "d_fake": 0.02}, "the discriminator has won", "loss.gan_start"),
    ({"d_logit_real": 45.0}, "the discriminator has won", "loss.gan_weight"),
    ({"adaptive_weight": 1.0, "adaptive_ratio": 80.0}, "is 80", "loss.adaptive_maximum"),
    ({"dead_codes": 140.0}, "the codebook is dying", "model.restart_below=0.1"),
    ({"perplexity": 30.0}, r"the codebook is dying", "codebook_init=latents"),
]


@pytest.mark.parametrize(("wrong", "symptom", "advice"), CASES)
def test_each_symptom_is_reported_once_with_advice(follow, wrong, symptom, advice):
    texts = follow((WINDOW, {}), (5 * WINDOW, wrong))
    assert len(texts) == 1
    assert symptom in texts[0]
    assert advice in texts[0]


def test_healthy_curves_and_short_troubles_give_no_warning(follow):
    assert follow((3 * WINDOW, {})) == []
    for wrong in ({"d_real": 0.0, "d_fake": 0.0}, {"dead_codes": 200.0}, {"perplexity": 30.0}):
        assert follow((WINDOW, {}), (WINDOW // 10, wrong), (WINDOW, {})) == []
        assert follow((WINDOW - 10, wrong)) == []


def test_skipped_steps_do_not_count(follow):
    bad = {"skipped": 1.0, "d_real": float("nan"), "dead_codes": float("nan")}
    texts = follow((WINDOW, {}), (WINDOW, bad), (WINDOW, {"dead_codes": 200.0}))
    assert len(texts) == 1
    assert "200 of 256" in follow((2 * WINDOW, {"dead_codes": 200.0}), (WINDOW, bad))[0]


def test_values_that_waver_around_a_limit_give_one_warning(follow):
    mild, none = (WINDOW // 2, {"dead_codes": 250.0}), (WINDOW // 2, {})
    assert len(follow((WINDOW, {"dead_codes": 250.0}), none, mild, none, mild, none, mild)) == 1


def test_metrics_fetched_rarely_give_one_warning(follow):
    dying = (8 * WINDOW, {"dead_codes": 250.0})
    assert len(follow(dying, (4 * WINDOW, {}), dying, every=2 * WINDOW)) == 1


def test_a_task_without_gan_or_trained_codebook_has_no_such_symptoms(follow):
    wrong = {"dead_codes": 256.0, "perplexity": 1.0, "adaptive_weight": 1.0}
    assert follow((2 * WINDOW, {}), (3 * WINDOW, wrong), maximum=None, codes=None) == []
