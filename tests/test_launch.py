"""The Dockerfile and the recipes of launch/: what they name exists, and their commands train."""

import fnmatch
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tomllib

import pytest
import yaml
from launching import with_devices
from signalled import signalled

from benchmarks.faults import SETTINGS
from codeformer_jax.checkpoints.workdir import saved_steps
from codeformer_jax.system.parallel import mesh_sizes

ROOT = pathlib.Path(__file__).resolve().parents[1]
LAUNCH = ROOT / "launch"
# Prints what train.py takes from its command line.
PARSE = """
import json, sys
sys.path.insert(0, {root!r})
import train
from absl import flags
assert flags.FLAGS(sys.argv) == ["train.py"]
config = flags.FLAGS.config
names = ("workdir", "initialization-timeout")
found = {{name: flags.FLAGS[name].value for name in names}}
print(json.dumps({{**found, "mesh": config.mesh, "data": config.data.path, "seed": config.seed}}))
"""


def parsed(command):
    """What train.py reads from the command, a list that starts with 'python train.py'."""
    assert command[:2] == ["python", "train.py"]
    code = PARSE.format(root=str(ROOT))
    words = [sys.executable, "-c", f"import sys; sys.argv[0] = 'train.py'\n{code}", *command[2:]]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def fake(folder, name, script):
    """Puts a program into a folder of the PATH."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/bash\n{script}\n")
    (folder / name).chmod(0o755)


def environment(folder, **values):
    """The environment with the fake programs first, and one device for each process."""
    fake(folder, "python", f'exec {shlex.quote(sys.executable)} "$@"')
    kept = {k: v for k, v in with_devices(1).items() if "SLURM" not in k}
    kept["PATH"] = f"{folder}{os.pathsep}{os.environ['PATH']}"
    kept["PYTHONPATH"] = f"{ROOT}{os.pathsep}{ROOT / 'tests'}"
    return {**kept, **{name: str(value) for name, value in values.items()}}


# The Dockerfile


def instructions():
    """The Dockerfile's instructions: [(name, text)], without comments and line breaks."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n", "\n", text.replace("\\\n", " ")).splitlines()
    return [tuple(line.split(maxsplit=1)) for line in lines if line.strip()]


def copied():
    """Files and folders that the image holds."""
    return [path for name, text in instructions() if name == "COPY" for path in text.split()[:-1]]


def test_the_image_holds_files_that_exist_and_are_not_ignored():
    rules = (ROOT / ".dockerignore").read_text().splitlines()
    for path in copied():
        assert (ROOT / path).exists()
        assert f"!{path}" in rules
    assert {rule[1:] for rule in rules if rule.startswith("!")} == set(copied())
    assert "*" in rules
    assert not fnmatch.filter(copied(), "*__pycache__*")


def test_the_image_starts_as_a_user_with_an_entry_that_passes_signals_on():
    found = dict(instructions())
    assert found["USER"] == "$RUN_AS"
    assert ("ARG", "RUN_AS=1000") in instructions()
    assert json.loads(found["ENTRYPOINT"]) == ["tini", "--"]
    assert json.loads(found["CMD"])[:2] == ["python", "train.py"]


def install(folder, **arguments):
    """Runs the image's step that installs packages, with a pip that notes its arguments."""
    (step,) = (text for name, text in instructions() if name == "RUN" and "pip" in text)
    defaults = dict(text.split("=") for name, text in instructions() if name == "ARG")
    fake(folder / "bin", "pip", 'echo "$*" >> calls')
    variables = environment(folder / "bin", **{**defaults, **arguments})
    done = subprocess.run(
        ["sh", "-c", step], cwd=folder, env=variables, capture_output=True, text=True, check=False
    )
    calls = folder / "calls"
    return done, calls.read_text().splitlines() if calls.exists() else []


@pytest.mark.parametrize("variant", ["cpu", "tpu", "cuda"])
def test_every_variant_installs_extras_that_exist_from_exact_pins(tmp_path, variant):
    done, calls = install(tmp_path, VARIANT=variant)
    assert done.returncode == 0, done.stderr
    assert all("--constraint constraints.txt" in call for call in calls)
    extras = re.search(r"\.\[(.*)\]", calls[-1])[1].split(",")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(extras) <= project["optional-dependencies"].keys()
    assert extras == ["gcs", *([] if variant == "cpu" else [variant])]


def test_an_unknown_variant_stops_the_build(tmp_path):
    done, calls = install(tmp_path, VARIANT="gpu")
    assert done.returncode == 1
    assert "VARIANT=gpu; expected cpu, tpu or cuda" in done.stderr
    assert calls == []


@pytest.mark.slow
def test_the_files_of_the_image_suffice_to_train(tmp_path):
    for path in copied():
        copy = shutil.copytree if (ROOT / path).is_dir() else shutil.copy
        copy(ROOT / path, tmp_path / path)
    words = [sys.executable, "train.py", "--config=configs/demo.py:vqgan,short", "--workdir=run"]
    words += [f"--config.{name}={value}" for name, value in {**SETTINGS, "steps": 1}.items()]
    kept = {k: v for k, v in with_devices(1).items() if k != "PYTHONPATH"}
    done = subprocess.run(
        words,
        cwd=tmp_path,
        env=kept,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert saved_steps(tmp_path / "run")[-1] == 1


# Kubernetes


def pods():
    """The replicated job of the JobSet, and the specification of its pods."""
    jobset = yaml.safe_load((LAUNCH / "jobset.yaml").read_text())
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    (job,) = jobset["spec"]["replicatedJobs"]
    return jobset, job, job["template"]["spec"]["template"]["spec"]


def test_the_job_set_restarts_as_a_whole():
    jobset, job, pod = pods()
    policy, spec = jobset["spec"]["failurePolicy"], job["template"]["spec"]
    assert policy["maxRestarts"] > 0
    (rule,) = policy["rules"]
    assert rule["action"] == "RestartJobSetAndIgnoreMaxRestarts"
    assert spec["backoffLimit"] == 0
    assert pod["restartPolicy"] == "Never"  # Both of them, and podFailurePolicy, need it.
    codes = [rule["onExitCodes"]["values"] for rule in spec["podFailurePolicy"]["rules"][1:]]
    assert codes == [[128 + signal.SIGTERM]]


def test_the_job_set_describes_slices_of_tpus():
    jobset, job, pod = pods()
    (container,) = pod["containers"]
    annotations = jobset["metadata"]["annotations"]
    assert annotations["alpha.jobset.sigs.k8s.io/exclusive-topology"].endswith("gke-nodepool")
    spec, chips = job["template"]["spec"], container["resources"]["limits"]["google.com/tpu"]
    assert spec["parallelism"] == spec["completions"]
    rows, columns = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")
    assert spec["parallelism"] * chips == int(rows) * int(columns)
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
    assert mounts["/dev/shm"]["emptyDir"]["medium"] == "Memory"
    found = parsed(container["args"])
    assert found["workdir"].startswith("gs://BUCKET/")
    assert found["data"].startswith(tuple(mounts))
    assert mesh_sizes(found["mesh"]) == {"slice": job["replicas"], "data": -1, "fsdp": 1}
    assert "command" not in container


# XPK


def xpk(folder, *arguments, **values):
    """The options of `xpk workload create` that the script gives, and its command for pods."""
    fake(folder / "bin", "xpk", f'printf "%s\\0" "$@" > {folder}/given')
    script = ["bash", LAUNCH / "xpk.sh", *arguments]
    subprocess.run(script, env=environment(folder / "bin", **values), check=True)
    words = (folder / "given").read_text().split("\0")[:-1]
    assert words[:2] == ["workload", "create"]
    return dict(word.removeprefix("--").split("=", 1) for word in words[2:])


def test_the_xpk_command_is_one_of_train(tmp_path):
    options = xpk(tmp_path, "--config.seed=7", SLICES=4)
    assert int(options["max-restarts"]) > 0
    assert options["restart-on-exit-codes"] == "1"
    assert options["num-slices"] == "4"
    first, *command = shlex.split(options["command"])
    assert first == "exec"
    found = parsed(command)
    assert found["workdir"].startswith("gs://BUCKET/")
    assert mesh_sizes(found["mesh"]) == {"slice": 4, "data": -1, "fsdp": 1}
    assert (found["initialization-timeout"], found["seed"]) == (900, 7)


ENDLESS = """
from tiny import tiny_vqvae

def get_config():
    config = tiny_vqvae().unlock()
    config.steps = config.eval_every = config.checkpoint_every = 100_000
    config.data.path = ""
    return config.lock()
"""
# XPK 1.16 wraps the command in this.
WRAPPED = """
_sigterm() (kill -SIGTERM $! 2>/dev/null;);
trap _sigterm SIGTERM;
({command}) & PID=$!;
while kill -0 $PID 2>/dev/null;
    do sleep 1;
done;
wait $PID;
exit $?
"""


@pytest.mark.slow
def test_sigterm_reaches_a_run_in_the_shell_of_xpk(tmp_path):
    config, workdir = tmp_path / "config.py", tmp_path / "run"
    config.write_text(ENDLESS)
    options = xpk(
        tmp_path, CONFIG=config, WORKDIR=workdir, LPIPS="", DATA="synthetic:32", MESH="data:1"
    )
    child = subprocess.Popen(
        ["bash", "-c", WRAPPED.format(command=options["command"])],
        cwd=ROOT,
        env=environment(tmp_path / "bin"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    metrics = workdir / "metrics.jsonl"

    def stepped():
        return metrics.exists() and '"train/loss"' in metrics.read_text()

    output = signalled(child, stepped, signal.SIGTERM, 143, within=60)
    assert "interrupted and saved" in output
    assert saved_steps(workdir)[-1] > 0


# SLURM

# Starts two tasks on this machine and, like --kill-on-bad-exit, kills the other one if one fails.
SRUN = """
[ "$1" = --kill-on-bad-exit=1 ] && shift
export SLURM_STEP_NODELIST=127.0.0.1 SLURM_STEP_NUM_NODES=1 SLURM_NTASKS=2
for i in 0 1; do SLURM_PROCID=$i SLURM_LOCALID=$i "$@" & done
for i in 0 1; do
    wait -n; status=$?
    if [ $status -ne 0 ]; then code=${code:-$status}; kill -KILL $(jobs -p) 2>/dev/null; fi
done
exit ${code:-0}
"""
# The second task gets SIGKILL in the first start and SIGTERM in the second one.
STOPPED = """
import os, signal, time
from tiny import tiny_vqvae
from codeformer_jax.checkpoints.workdir import saved_steps
from codeformer_jax.train.run import Run

def get_config():
    number = {"0": signal.SIGKILL, "1": signal.SIGTERM}.get(os.environ["SLURM_RESTART_COUNT"])
    log = Run.log

    def stopped(self, step, *arguments):
        log(self, step, *arguments)
        if step == 3 and os.environ["SLURM_PROCID"] == "1" and number:
            while saved_steps(self.workdir)[-1] < 2:  # Saved in the background.
                time.sleep(0.1)
            os.kill(os.getpid(), number)

    Run.log = stopped
    config = tiny_vqvae(8).unlock()
    config.data.path = ""
    return config.lock()
"""


def job(folder, restarts, **values):
    """Runs the batch script as SLURM does: its exit code, output, and whether it is requeued."""
    fake(folder / "bin", "scontrol", f'echo "$*" >> {folder}/requeued')
    (folder / "requeued").unlink(missing_ok=True)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        number = (listener.getsockname()[1] - 61440) % 4096  # JAX makes a port of it.
    values = {"SLURM_JOB_ID": number, "SLURM_RESTART_COUNT": restarts, **values}
    done = subprocess.run(
        ["bash", LAUNCH / "slurm.sh", "--config.seed=3"],
        cwd=ROOT,
        env=environment(folder / "bin", **values),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    requeued = folder / "requeued"
    calls = requeued.read_text().splitlines() if requeued.exists() else []
    assert calls in ([], [f"requeue {number}"])
    return done.returncode, done.stdout + done.stderr, bool(calls)


@pytest.mark.parametrize(
    ("code", "restarts", "requeue"), [(0, 0, False), (1, 0, True), (143, 4, True), (1, 5, False)]
)
def test_the_slurm_script_requeues_a_run_that_has_not_finished(tmp_path, code, restarts, requeue):
    note = f'printf "%s\\0" "$SRUN_CPUS_PER_TASK" "$@" > {tmp_path}/given; exit {code}'
    fake(tmp_path / "bin", "srun", note)
    found = job(tmp_path, restarts, MAX_RESTARTS=5, SLURM_CPUS_PER_TASK=12)
    assert (found[0], found[2]) == (code, requeue)
    cores, first, *command = (tmp_path / "given").read_text().split("\0")[:-1]
    assert (cores, first) == ("12", "--kill-on-bad-exit=1")
    read = parsed(command)
    assert (read["mesh"], read["seed"], read["initialization-timeout"]) == ("data:-1", 3, 600)
    assert read["workdir"].startswith("gs://BUCKET/")


def test_the_slurm_script_asks_for_a_signal_and_a_requeue():
    options = re.findall(r"^#SBATCH (.*)$", (LAUNCH / "slurm.sh").read_text(), re.MULTILINE)
    given = " ".join(options).split()
    assert {"--requeue", "--open-mode=append", "--signal=TERM@300"} <= set(given)


@pytest.mark.slow
def test_a_slurm_job_that_is_killed_and_stopped_finishes_after_two_requeues(tmp_path):
    config, workdir = tmp_path / "config.py", tmp_path / "run"
    config.write_text(STOPPED)
    fake(tmp_path / "bin", "srun", SRUN)
    values = {"CONFIG": config, "WORKDIR": workdir, "LPIPS": "", "DATA": "synthetic:32"}
    found = []
    for restarts in range(3):
        code, output, requeue = job(tmp_path, restarts, **values)
        found.append((code, requeue, saved_steps(workdir)[-1]))
        assert code in (0, 137, 143), output
        assert ("interrupted and saved" in output) == (code == 143)
    (killed, stopped, finished) = found
    assert killed == (137, True, 2)
    assert stopped[:2] == (143, True)
    assert 3 <= stopped[2] < 8
    assert finished == (0, False, 8)
