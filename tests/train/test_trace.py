"""Profiles of a few steps, and the cache of compiled programs."""

import logging

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache
from tiny import tiny_config

from codeformer_jax.system import compilation_cache as cache
from codeformer_jax.system.compilation_cache import keep_compiled_programs
from codeformer_jax.train import loop
from codeformer_jax.train.monitor import Trace


@pytest.fixture
def calls(monkeypatch):
    """Records the calls of the profiler."""
    told = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: told.append("start"))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: told.append("stop"))
    return told


@pytest.mark.parametrize(
    ("begin", "end", "expected"),
    [
        (0, 9, {3: ["start"], 5: ["stop"]}),
        (4, 9, {4: ["start"], 5: ["stop"]}),
        (5, 9, {}),
        (0, 3, {3: ["start"], "close": ["stop"]}),
    ],
)
def test_the_steps_that_are_traced(tmp_path, calls, begin, end, expected):
    trace, seen = Trace("3:5", tmp_path), {}
    for step in range(begin, end + 1):
        trace.at(step, jnp.zeros(()))
        if calls:
            seen[step] = calls.copy()
            calls.clear()
    trace.close()
    assert seen | ({"close": calls} if calls else {}) == expected


def test_a_trace_is_written_where_it_can_be_opened(tmp_path):
    trace = Trace("1:2", tmp_path)
    for step in range(3):
        trace.at(step, jnp.ones(3) + 1)
    assert list(tmp_path.glob("profile/**/*.xplane.pb"))
    Trace(None, tmp_path / "none").at(0, None)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("text", ["5", "5:", "5:5", "7:5", "-1:3", "a:b"])
def test_steps_that_cannot_be_read_are_refused_before_anything_is_written(tmp_path, text):
    config = tiny_config("vqgan").unlock()
    config.train.profile = text
    with pytest.raises(ValueError, match=r"expected 'START:STOP'.* such as '100:110'"):
        loop.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.fixture
def cache_setting(monkeypatch):
    names = ("jax_compilation_cache_dir", "jax_compilation_cache_max_size")
    names += ("jax_persistent_cache_min_compile_time_secs",)
    before = {name: getattr(jax.config, name) for name in names}
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.mark.usefixtures("cache_setting")
def test_programs_are_kept_in_the_users_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = keep_compiled_programs()
    assert folder == tmp_path / "codeformer_jax" / "jax"
    assert jax.config.jax_compilation_cache_dir == str(folder)
    jax.config.update("jax_compilation_cache_dir", "elsewhere")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "elsewhere")
    assert keep_compiled_programs() is None
    assert jax.config.jax_compilation_cache_dir == "elsewhere"


@pytest.mark.usefixtures("cache_setting")
@pytest.mark.parametrize("given", [None, "-1"])
def test_programs_that_were_not_used_for_longest_are_removed(tmp_path, monkeypatch, given):
    folder = tmp_path / "codeformer_jax" / "jax"
    folder.mkdir(parents=True)
    (folder / "old-cache").write_bytes(bytes(20_000))  # Without a time of use.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(cache, "MAX_BYTES", 30_000)
    if given:
        monkeypatch.setenv("JAX_COMPILATION_CACHE_MAX_SIZE", given)
    keep_compiled_programs()
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    compilation_cache.reset_cache()
    for number in range(6):
        jax.jit(lambda x, n=number: jnp.sin(x) + float(n))(1.0)
    sizes = {path.name: path.stat().st_size for path in folder.glob("*-cache")}
    assert any(name.startswith("jit") for name in sizes)
    assert ("old-cache" in sizes) == bool(given)
    assert (sum(sizes.values()) <= 30_000) != bool(given)


@pytest.mark.usefixtures("cache_setting")
def test_a_cache_that_cannot_be_written_is_left_alone(tmp_path, monkeypatch, caplog):
    (tmp_path / "codeformer_jax").write_text("a file where the folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    before = jax.config.jax_compilation_cache_dir
    with caplog.at_level(logging.WARNING):
        assert keep_compiled_programs() is None
    assert jax.config.jax_compilation_cache_dir == before
    assert "compiled programs are not kept between runs" in caplog.text
