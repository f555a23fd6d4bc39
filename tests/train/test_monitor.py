"""Settings of a run that are checked before it begins."""

import os

import pytest
from tiny import tiny_config

from codeformer_jax.system import process
from codeformer_jax.tasks import settings
from codeformer_jax.train.monitor import check_deterministic


def test_deterministic_programs_are_requested_once(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=nowhere")
    for _ in range(2):
        process.use_deterministic_programs()
        asked = os.environ["XLA_FLAGS"]
        assert asked == "--xla_dump_to=nowhere --xla_gpu_deterministic_ops=true"
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_deterministic_ops=false")
    process.use_deterministic_programs()
    assert os.environ["XLA_FLAGS"] == "--xla_gpu_deterministic_ops=false"


def test_a_gpu_without_the_flag_is_refused(monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    config = tiny_config("vqgan").unlock()
    check_deterministic(config, "gpu")
    config.train.deterministic = True
    check_deterministic(config, "cpu")
    with pytest.raises(ValueError, match="needs --xla_gpu_deterministic_ops=true in XLA_FLAGS"):
        check_deterministic(config, "gpu")
    process.use_deterministic_programs()
    check_deterministic(config, "gpu")


def test_unknown_random_numbers_are_refused():
    config = tiny_config("vqgan").unlock()
    config.train.prng = "mersenne"
    with pytest.raises(ValueError, match=r"train\.prng='mersenne' must be one of threefry2x32"):
        settings.check(config)
    del config.train.prng  # An older run's.
    settings.check(config)
