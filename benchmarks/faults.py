"""Compares a run that is killed at random moments with one that is not, bit for bit.

    python benchmarks/faults.py [--kills 20] [--saves 8] [--seed 0] [--steps 240] [--bucket]

Trains a small stage I on synthetic faces twice. The first run has no fault and compiles its
programs. The second reads them from the compilation cache and gets SIGKILL at moments drawn from
the seed: some while it starts, the others while it trains, `--saves` of these during a save. Every
start draws its number of data workers. Prints one JSON object: kills survived, kills that left an
unfinished save, steps taken again, and the bytes that differ between the final states (parameters,
averages, both optimizers, batch statistics, codebook). About eight minutes on two cores.

With `--bucket` the killed run's workdir is in gs://, on an object store that this program serves on
loopback (extra `gcs-test`); the other run's is a local folder. Steps taken again then count only if
their metrics had been uploaded.
"""

import argparse
import collections
import contextlib
import dataclasses
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np
import orbax.checkpoint as ocp

from codeformer_jax.checkpoints.workdir import saved_steps, unfinished_saves
from codeformer_jax.system import storage

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))  # For the object store.
WORKERS = (0, 0, 0, 1, 2)
SETTINGS = {
    **{"log_every": 1, "eval_every": 50, "checkpoint_every": 5, "mesh": "data:1"},
    **{"model.image_size": 32, "model.nf": 8, "model.ch_mult": "(1,2)", "model.norm_groups": 4},
    **{"model.codebook_size": 16, "model.emb_dim": 8},
    **{"discriminator.ndf": 4, "discriminator.n_layers": 1, "loss.gan_start": 20},
    **{"data.image_size": 32, "data.batch_size": 4, "data.synthetic_length": 64},
    **{"data.heldout_length": 8, "eval.batch_size": 8, "eval.batches": 1},
}

Moment = collections.namedtuple("Moment", "seconds step delay in_save")


@dataclasses.dataclass
class Run:
    """A run that may start several times.

    Attributes:
        workdir: its folder, on disk or in a bucket.
        log: the file with what its processes print.
    """

    workdir: storage.Path
    log: pathlib.Path

    def start(self, steps, workers, cache):
        """Starts the training process as a user does."""
        settings = SETTINGS | {"steps": steps, "data.workers": workers}
        command = [sys.executable, "train.py", "--config=configs/demo.py:vqgan,short"]
        command += [f"--workdir={self.workdir}"]
        command += [f"--config.{name}={value}" for name, value in settings.items()]
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        with open(self.log, "ab") as log:
            return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)

    def finish(self, process):
        """Waits for the end of a process, which must succeed."""
        if code := process.wait():
            sys.exit(f"a run ended with exit code {code}:\n{self.log.read_text()[-3000:]}")

    def trained(self):
        """Returns the steps of the training lines in metrics.jsonl.

        A half-written last line does not count. In a bucket lines appear before each checkpoint.
        """
        path = self.workdir / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.is_file() else []
        entries = (json.loads(line) for line in lines if line.endswith("}"))
        return [entry["step"] for entry in entries if "train/loss" in entry]

    def state(self):
        """Returns (step, leaves by name) of the newest checkpoint."""
        step = saved_steps(self.workdir)[-1]
        with ocp.StandardCheckpointer() as checkpointer:
            tree = checkpointer.restore(self.workdir / "checkpoints" / str(step) / "default")
        leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
        return step, {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def starts_killed(kills):
    """Returns how many of the kills are at the start of a process."""
    return min(3, kills // 3)


def moments(arguments, start_seconds, generator):
    """Draws the moments of the kills: a few at the start of a process, the rest along the run."""
    in_start = starts_killed(arguments.kills)
    # The run continues while a moment is awaited, so none is near the end.
    end = arguments.steps * 3 // 4
    steps = sorted(generator.sample(range(1, end), arguments.kills - in_start))
    in_save = set(generator.sample(range(len(steps)), arguments.saves))
    save = 0.3 if arguments.bucket else 0.03  # About as long as one takes, in seconds.
    drawn = [
        Moment(None, step, generator.uniform(0, save if i in in_save else 0.5), i in in_save)
        for i, step in enumerate(steps)
    ]
    for _ in range(in_start):
        seconds = generator.uniform(0, start_seconds)
        drawn.insert(generator.randrange(len(drawn)), Moment(seconds, 0, 0, False))
    return drawn


def wait_for(moment, process, run):
    """Waits for the moment, or the end of the process."""
    began, before = time.perf_counter(), run.trained()
    while process.poll() is None:
        if moment.seconds is not None:
            # With cached programs it may start sooner.
            if time.perf_counter() - began >= moment.seconds or run.trained() != before:
                return
        elif max(run.trained(), default=0) >= moment.step:
            break
        time.sleep(0.02)
    while moment.in_save and process.poll() is None and not unfinished_saves(run.workdir):
        time.sleep(0.001)
    time.sleep(moment.delay)


def difference(one, other):
    """Returns the number of bytes that differ, and of all bytes."""
    if one.keys() != other.keys():
        sys.exit(f"the states have other leaves: {sorted(one.keys() ^ other.keys())}")
    differing = 0
    for name, leaf in one.items():
        pair = [np.frombuffer(x.tobytes(), np.uint8) for x in (leaf, other[name])]
        same_length = pair[0].size == pair[1].size
        differing += int(np.sum(pair[0] != pair[1])) if same_length else leaf.nbytes
    return differing, sum(leaf.nbytes for leaf in one.values())


def with_faults(arguments, run, cache, start_seconds):
    """Runs to the end through all kills and returns counts of what happened."""
    generator = random.Random(arguments.seed)
    found = {"kills": 0, "in_saves": 0, "in_start": 0, "steps_repeated": 0, "workers": []}
    for moment in moments(arguments, start_seconds, generator):
        workers = generator.choice(WORKERS)
        before = run.trained()
        process = run.start(arguments.steps, workers, cache)
        wait_for(moment, process, run)
        if process.poll() is not None:
            run.finish(process)
            sys.exit("the run was over before all kills; give it more --steps")
        process.send_signal(signal.SIGKILL)
        process.wait()
        found["kills"] += 1
        found["in_start"] += moment.seconds is not None
        found["in_saves"] += bool(unfinished_saves(run.workdir))
        saved = saved_steps(run.workdir)
        if (taken := run.trained()) != before:  # Else it was killed before its first step.
            found["steps_repeated"] += max(0, max(taken, default=0) - max(saved, default=0))
        found["workers"].append(workers)
        print(f"kill {found['kills']}: {moment}, checkpoints {saved}", file=sys.stderr)
    run.finish(run.start(arguments.steps, 0, cache))
    return found


def serve(stack):
    """Serves a bucket until `stack` is closed and returns the URL of a folder in it."""
    import emulator  # noqa: PLC0415  Its packages are optional.

    stack.enter_context(emulator.serve())
    return f"gs://{emulator.BUCKET}/killed"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--saves", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--bucket", action="store_true")
    arguments = parser.parse_args()
    if arguments.saves > arguments.kills - starts_killed(arguments.kills):
        parser.error(f"--kills={arguments.kills} are too few for --saves={arguments.saves}")
    began = time.perf_counter()
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        cache = folder / "cache"
        whole = Run(folder / "whole", folder / "whole.log")
        place = serve(stack) if arguments.bucket else folder / "killed"
        killed = Run(storage.to_path(place), folder / "killed.log")
        process = whole.start(arguments.steps, 0, cache)
        wait_for(Moment(None, 1, 0, False), process, whole)
        start_seconds = time.perf_counter() - began
        whole.finish(process)
        found = with_faults(arguments, killed, cache, start_seconds)
        (step, one), (other_step, other) = whole.state(), killed.state()
        if not step == other_step == arguments.steps:
            sys.exit(f"the runs ended at steps {step} and {other_step}")
        differing, size = difference(one, other)
        found |= {
            "kills_survived": found["kills"],
            "killed_workdir": str(killed.workdir) if arguments.bucket else "local",
            "steps": step,
            "metrics_of_every_step_once": killed.trained() == list(range(1, step + 1)),
            "state_bytes": size,
            "state_bytes_that_differ": differing,
            "seconds": round(time.perf_counter() - began),
            "cores": os.cpu_count(),
            "jax": jax.__version__,
        }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
