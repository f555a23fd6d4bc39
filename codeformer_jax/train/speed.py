"""Speed of a run, from the host's clock and the compiler's counts of operations."""

import contextlib
import logging
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from codeformer_jax.train.goodput import COMPILE, DATA_WAIT, STEP, Clock

# Peak of one JAX device in TFLOP/s: dense bfloat16, or float16 before Ampere. Keys are beginnings
# of `device_kind`; the longest match counts. On TPU v2 and v3 a device is a core.
PEAK_TFLOPS = {
    "TPU v2": 22.5,
    "TPU v3": 61.5,
    "TPU v4": 275.0,
    "TPU v5 lite": 197.0,
    "TPU v5e": 197.0,
    "TPU v5": 459.0,
    "TPU v5p": 459.0,
    "TPU v6 lite": 918.0,
    "TPU v6e": 918.0,
    "Tesla V100": 125.0,
    "NVIDIA A100": 312.0,
    "NVIDIA H100": 989.0,
    "NVIDIA H100 PCIe": 756.0,
    "NVIDIA H100 NVL": 835.0,
    "NVIDIA H200": 989.0,
    "NVIDIA H200 NVL": 835.0,
    "NVIDIA L4": 121.0,
    "NVIDIA GeForce RTX 3090": 71.0,
    "NVIDIA GeForce RTX 4090": 165.0,
}
# Words in a `device_kind` that make it another device, or a part of one.
_OTHERWISE = {"Ti", "D", "Laptop", "MIG"}


def peak_tflops(device_kind: str, given: float | None) -> float | None:
    """Returns the peak of one device in TFLOP/s.

    Args:
        device_kind: a `jax.Device.device_kind`.
        given: the peak if the user knows it; it wins over the table.

    Returns:
        `given`, or the table's value, or None for an unknown device.
    """
    if given is not None:
        return float(given)
    if _OTHERWISE & set(device_kind.split()):
        return None
    # "NVIDIA L40S" is not an L4.
    fitting = [name for name in PEAK_TFLOPS if re.match(rf"{name}(?![A-Za-z0-9])", device_kind)]
    return PEAK_TFLOPS[max(fitting, key=len)] if fitting else None


class Speed:
    """Measurement of steps and floating-point operations between two calls of `read`.

    Only the time of steps and of waiting for data counts.

    Args:
        clock: the clock of the run.
        batch_size: images per step on all devices.
        peak: peak FLOP/s of all devices together, or None.
    """

    def __init__(self, clock: Clock, batch_size: int, peak: float | None):
        self._clock, self._batch_size, self._peak = clock, batch_size, peak
        self._before, self._flops = clock.read(), 0.0
        # The loop runs ahead of the devices: a thread sees when they finish a step.
        self._watcher = ThreadPoolExecutor(1, "step_watcher")
        self._finished: Future[float] | None = None

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts the part of the block in which the devices have no step left as `DATA_WAIT`."""
        idle_since = time.perf_counter()
        yield
        if self._finished is None or self._finished.done():
            if self._finished is not None:
                idle_since = max(idle_since, self._finished.result())
            self._clock.move(DATA_WAIT, time.perf_counter() - idle_since)

    def compiling(self, pending: Any) -> contextlib.AbstractContextManager[None]:
        """Counts the block as compilation, after waiting for `pending`."""
        return self._clock.during(COMPILE, pending)

    def stepped(self, flops: float, results: Any) -> None:
        """Adds a step.

        Args:
            flops: its number of floating-point operations; 0 if it is unknown.
            results: arrays that it returns and that are not donated.
        """
        self._flops += flops
        self._finished = self._watcher.submit(_finish, results)

    def read(self, steps: int) -> dict[str, float]:
        """Returns metrics of the `steps` steps since the last call."""
        now = self._clock.read()
        stepping, waited, compiled = (
            now.get(kind, 0.0) - self._before.get(kind, 0.0) for kind in (STEP, DATA_WAIT, COMPILE)
        )
        seconds = max(stepping + waited, 1e-9)
        shown = {
            "images_per_second": steps * self._batch_size / seconds,
            "step_seconds": seconds / steps,
            "data_wait_share": waited / seconds,
        }
        if self._flops:
            shown["tflops_per_second"] = self._flops / seconds / 1e12
            if self._peak:
                shown["peak_share"] = self._flops / seconds / self._peak
        if compiled:
            shown["compile_seconds"] = compiled
        self._before, self._flops = now, 0.0
        return shown

    def close(self) -> None:
        """Waits for the steps under way."""
        self._watcher.shutdown()


def _finish(results: Any) -> float:
    """Waits for the results of a step, and returns the time."""
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # The loop raises it.
        jax.block_until_ready(results)
    return time.perf_counter()


class TimedStep:
    """A jitted training step, compiled ahead of time so that its time and cost are known.

    Args:
        jitted: (state, frozen, inputs, key, phase) -> (state, metrics). `state`, `frozen` and `key`
            keep their shapes.
        speed: counts compilations and steps.
        devices: number of devices that the step runs on.
        slices: number of slices of a batch. The compiler counts the loop over them once.
    """

    def __init__(self, jitted: Callable, speed: Speed, devices: int, slices: int = 1):
        self._jitted, self._speed, self._devices = jitted, speed, devices
        self._slices = slices
        self._variants: dict[Any, tuple[Callable, float]] = {}

    def __call__(self, state: Any, frozen: Any, inputs: Any, key: Any, phase: Any) -> Any:
        variant = _variant((inputs, phase))
        if variant not in self._variants:
            with self._speed.compiling(state):
                self._variants[variant] = self._compile(state, frozen, inputs, key, phase)
        step, flops = self._variants[variant]
        state, metrics = step(state, frozen, inputs, key, phase)
        self._speed.stepped(flops, metrics)
        return state, metrics

    def _compile(self, *arguments: Any) -> tuple[Callable, float]:
        start = time.perf_counter()
        lowered = self._jitted.lower(*arguments)
        compiled = lowered.compile()
        seconds = time.perf_counter() - start
        flops = step_flops(lowered, compiled, self._devices) * self._slices
        logging.info("compiled the training step in %.1f s: %.4g FLOP", seconds, flops)
        return compiled, flops


def _variant(tree: Any) -> Any:
    """Returns what one compiled program depends on: structure, shapes and dtypes."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple((np.shape(x), getattr(x, "dtype", type(x))) for x in leaves)


def step_flops(lowered: jax.stages.Lowered, compiled: jax.stages.Compiled, devices: int) -> float:
    """Counts the floating-point operations of a step on all its devices.

    On GPUs the compiled program hides its matrix products in library calls that count nothing, and
    some backends count nothing before compilation, so the larger count is right.

    Args:
        lowered: the step before compilation.
        compiled: the compiled step, which counts the part of one device.
        devices: number of devices.

    Returns:
        The count, with bodies of loops counted once; 0 if unknown.
    """
    return max(_flops(lowered), _flops(compiled) * devices)


def _flops(stage: jax.stages.Lowered | jax.stages.Compiled) -> float:
    try:
        cost = stage.cost_analysis()
    except jax.errors.JaxRuntimeError:
        return 0.0
    return max(0.0, float((cost or {}).get("flops", 0.0)))
