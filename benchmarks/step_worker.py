"""A process that takes training steps of one stage in one framework, when it is asked to.

Each framework has its own, so that its memory is its own and the two can take turns. `Worker` is
the handle; the module itself is the process.
"""

import argparse
import contextlib
import ctypes
import gc
import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import seeded_steps

MIB = 2**20


@dataclass(frozen=True)
class Job:
    """Job of a worker.

    Attributes:
        framework: 'jax', or 'torch' in the given `variant` of `torch_variants`.
        stage: one of `seeded_steps.STAGES`.
        size, batch: of the images.
        dtype: of this project's computation.
        remat: of this project's steps; 'none', or as `model.remat`.
        folder: where `prepare` left weights and images.
        reference: the checkout of the published code.
        device: 'cpu' or 'cuda'.
    """

    framework: str
    stage: str
    size: int
    batch: int
    folder: str
    reference: str
    variant: str = "as_shipped"
    dtype: str = "float32"
    remat: str = "none"
    device: str = "cpu"


def torch_variants(device):
    """{name: mode}: PyTorch as shipped and with its means to be faster."""
    import torch  # noqa: PLC0415
    from torch_steps import Mode  # noqa: PLC0415

    if device == "cpu":
        return {
            "as_shipped": Mode(),
            "channels_last": Mode(channels_last=True, fused=True),
            "compiled": Mode(channels_last=True, fused=True, compile=True),
        }
    best = {"channels_last": True, "fused": True, "compile": True, "device": device}
    return {
        "as_shipped": Mode(device=device),
        "best": Mode(**best),
        "autocast": Mode(autocast=torch.bfloat16, device=device),
        "best_autocast": Mode(autocast=torch.bfloat16, **best),
    }


def check_variants(parser, names, device):
    """Ends a command that asks for a variant of PyTorch that there is not."""
    unknown = set(names) - set(torch_variants(device))
    if unknown:
        known = ", ".join(torch_variants(device))
        parser.error(f"--variants {' '.join(sorted(unknown))}: expected some of {known}")


def prepare(folder, reference, stage, size, batch, device="cpu"):
    """Weights and one batch of the stage in `folder`; processes of their own draw them."""
    job = Job("prepare", stage, size, batch, str(folder), reference, device=device)
    for framework in ("prepare_weights", "prepare_images"):
        worker = Worker(Job(**{**vars(job), "framework": framework}))
        worker.close()


class TorchStep:
    """Takes PyTorch's steps on the job's batch."""

    def __init__(self, job):
        import reference  # noqa: PLC0415
        import torch  # noqa: PLC0415
        import torch_steps  # noqa: PLC0415

        self.torch, self.cuda = torch, job.device == "cuda"
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        torch.backends.cudnn.benchmark = True
        self.mode = torch_variants(job.device)[job.variant]
        if self.mode.compile and self.mode.autocast is None:
            # At its best float32 is TF32 in matrix products too, as it is in convolutions anyway.
            torch.set_float32_matmul_precision("high")
        weights = seeded_steps.read_weights(Path(job.folder) / "weights.npz")
        published = reference.load(job.reference)
        self.take = torch_steps.STEPS[job.stage](published, weights, job.size, self.mode)
        batch = read_batch(job)
        self.batch = [torch.from_numpy(x).permute(0, 3, 1, 2).contiguous() for x in batch]
        self.taken = 0

    def __call__(self):
        """One step; its loss."""
        images = [self.mode.place(x) for x in self.batch]
        loss = float(self.take(*images, self.taken)[0]["loss"])
        if self.cuda:
            self.torch.cuda.synchronize()
        self.taken += 1
        return loss

    def about(self):
        name = self.torch.cuda.get_device_name() if self.cuda else "cpu"
        return {"version": self.torch.__version__, "device": name}

    def peak_mib(self):
        if self.cuda:
            return self.torch.cuda.max_memory_allocated() / MIB
        return resident_mib()


class JaxStep:
    """Takes this project's steps on the job's batch."""

    def __init__(self, job):
        import jax  # noqa: PLC0415

        from codeformer_jax.train import speed  # noqa: PLC0415

        self.jax = jax
        remat = None if job.remat == "none" else job.remat
        config = seeded_steps.stage_config(job.stage, job.size, job.batch, job.dtype, remat=remat)
        weights = seeded_steps.read_weights(Path(job.folder) / "weights.npz")
        task, self.state, self.frozen = seeded_steps.start(job.stage, weights, config)
        del weights
        self.batch = read_batch(job)
        lowered = seeded_steps.make_step(task).lower(self.state, self.frozen, *self.batch)
        self.step = lowered.compile()
        self.flops = speed.step_flops(lowered, self.step, devices=1)
        self.peak = speed.peak_tflops(jax.devices()[0].device_kind, None)

    def __call__(self):
        """One step; its loss."""
        self.state, metrics = self.step(self.state, self.frozen, *self.batch)
        self.jax.block_until_ready(self.state)
        return float(metrics["loss"])

    def about(self):
        memory = self.step.memory_analysis()
        names = ("argument", "output", "alias", "temp")
        arguments, outputs, aliases, temporaries = (
            getattr(memory, f"{name}_size_in_bytes") / MIB for name in names
        )
        return {
            "version": self.jax.__version__,
            "device": self.jax.devices()[0].device_kind,
            "flops": self.flops,
            "peak_tflops": self.peak,
            "compiler_peak_mib": arguments + outputs - aliases + temporaries,
        }

    def peak_mib(self):
        statistics = self.jax.devices()[0].memory_stats()
        if statistics:
            return statistics["peak_bytes_in_use"] / MIB
        return resident_mib()


def resident_mib():
    """Peak resident memory of this process since `forget_peak`."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def forget_peak():
    """Begins the peak anew, so that compilation and the reading of weights are not in it."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # glibc keeps what was freed.
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def read_batch(job):
    with np.load(Path(job.folder) / "images.npz") as file:
        return [file[name] for name in ("clean", "degraded")]


def serve(job):
    """Takes a step per line of standard input and answers with the seconds that it took."""
    if job.framework == "prepare_weights":
        path = Path(job.folder) / "weights.npz"
        seeded_steps.write_weights(job.reference, job.stage, job.size, path)
        return
    if job.framework == "prepare_images":
        clean = seeded_steps.clean_images(job.size, job.batch)
        degraded = seeded_steps.degraded_images(job.stage, clean, job.batch)
        np.savez(Path(job.folder) / "images.npz", clean=clean, degraded=degraded)
        return
    start = time.perf_counter()
    step = {"jax": JaxStep, "torch": TorchStep}[job.framework](job)
    loss = step()
    answer = {"loss": loss, "first_seconds": time.perf_counter() - start}
    answer["peak_without_start"] = forget_peak()
    print(json.dumps(answer | step.about()), flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        step()
        print(json.dumps({"seconds": time.perf_counter() - start}), flush=True)
    print(json.dumps({"peak_mib": step.peak_mib()}), flush=True)


class Worker:
    """A process at work on `job`; `about` is what it said after its first step."""

    def __init__(self, job):
        command = [sys.executable, __file__, json.dumps(vars(job))]
        environment = {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        if job.device == "cpu":
            environment["JAX_PLATFORMS"] = "cpu"
        if job.framework == "jax":
            environment.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.about = {} if job.framework.startswith("prepare") else self._answer()

    def _answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a worker ended early with exit code {self.process.wait()}")
        return json.loads(line)

    def seconds(self):
        """Seconds of one more step."""
        self.process.stdin.write("again\n")
        self.process.stdin.flush()
        return self._answer()["seconds"]

    def close(self):
        """Ends the process; its peak memory in MiB where it took steps."""
        self.process.stdin.close()
        peak = self._answer()["peak_mib"] if self.about else None
        if self.process.wait():
            raise RuntimeError(f"a worker failed with exit code {self.process.returncode}")
        return peak


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("job", type=json.loads)
    job = Job(**parser.parse_args().job)
    serve(job)
