"""Runs every command of the README and docs/commands.md, in order, in one folder, at tiny size.

    python tools/readme_commands.py [--keep DIR] [--list]

Runs the indented and fenced blocks of `PAGES`. Checks the commands in tables against the options of
their scripts. Appends the settings in `TINY` to a command and changes nothing else. `INSTEAD`
replaces commands that cannot run here, with the reason. A command without a rule is an error. Makes
up FFHQ, FACES, PHOTOS, FACE.png and the files that the README downloads. Exits with 1 at the first
command that fails.
"""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Pages with commands, in the order in which a reader runs them.
PAGES = ("README.md", "docs/commands.md", "docs/benchmarks.md")
# Contents of the folder in which the commands run: a clone.
CLONE = ("train.py", "eval.py", "configs", "benchmarks", "codeformer_jax", "Makefile")
CLONE = (*CLONE, "pyproject.toml", "constraints.txt")

SIDE = 32
BACKBONE = {
    "image_size": SIDE,
    "nf": 32,
    "ch_mult": (1, 2),
    "res_blocks": 1,
    "attn_resolutions": (16,),
    "codebook_size": 16,
    "emb_dim": 32,
}
TRANSFORMER = {"dim_embd": 64, "n_layers": 1, "connect_list": (16, 32)}


def settings(section, values):
    return [f"--config.{section}{name}={value}" for name, value in values.items()]


_STEPS = {"steps": 2, "log_every": 1, "eval_every": 2, "checkpoint_every": 2}
_DATA = {"image_size": SIDE, "batch_size": 2, "workers": 0, "heldout_fraction": 0.25}
_TRAIN = [
    *settings("", _STEPS),
    *settings("model.", BACKBONE),
    *settings("data.", _DATA),
    *settings("eval.", {"batch_size": 2, "batches": 1}),
]
_GAN = settings("discriminator.", {"ndf": 4, "n_layers": 1})
_SET = {
    **{f"model.{name}": value for name, value in BACKBONE.items()},
    **{f"data.{name}": value for name, value in _DATA.items()},
    **{"steps": 2, "discriminator.ndf": 4, "discriminator.n_layers": 1},
}
_TAUGHT = ["--config.teacher_min_psnr=0.0"]
_CODES = [*_TRAIN, *_TAUGHT, *settings("codeformer.", TRANSFORMER)]
_GPT = settings("gpt.", {"n_layer": 1, "n_head": 2, "n_embd": 32})

# Start of a command -> words appended to it; the first match counts.
TINY = {
    "python train.py --config=configs/vqgan.py": [*_TRAIN, *_GAN],
    "python train.py --config=configs/codeformer_stage2.py": _CODES,
    "python train.py --config=configs/codeformer_stage3.py": [*_CODES, *_GAN],
    "python train.py --config=configs/gpt_faces.py": [*_TRAIN, *_TAUGHT, *_GPT],
    "python eval.py": [],
    # Made-up files with a published name.
    "codeformer-jax convert codeformer.pth": ["--no-verify"],
    "codeformer-jax convert vqgan_code1024.pth": ["--no-verify"],
    "codeformer-jax convert": [],
    "codeformer-jax restore": [],
    "codeformer-jax prepare": [],
    "codeformer-jax encode": ["--batch-size", "2"],
    "codeformer-jax export": [],
    "codeformer-jax testset": ["--size", str(SIDE)],
    "codeformer-jax gallery": ["--size", "64", "-n", "1"],
    "codeformer-jax sample": [],
    "codeformer-jax trace": [],
    "codeformer-jax compare": [],
    "codeformer-jax doctor": [
        *("--megabytes", "1", "--set", "loss.perceptual_weight=0.0", "--set", "data.cache=True"),
        *(word for name, value in _SET.items() for word in ("--set", f"{name}={value}")),
    ],
}

# benchmarks/priors.py with its own arguments, but tiny networks and few steps.
_TINY_PRIORS = f"""
import sys
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "benchmarks")!r}]
import priors
jobs = priors.jobs()
for config, _ in jobs.values():
    config.unlock().update(steps=2, log_every=1, eval_every=2, checkpoint_every=2)
    config.model.update(hidden=16, codebook_size=8, emb_dim=8)
    config.data.update(batch_size=2, heldout_length=4, workers=0)
    config.eval.update(batch_size=2, batches=1)
    if "pixelcnn" in config:
        config.teacher_min_psnr = 0.0
        config.pixelcnn.update(embed_dim=4, layers=2, features=6, head_features=6)
priors.jobs = lambda: {{name: job for name, job in jobs.items() if name.startswith("shapes")}}
priors.class_samples.recognise = lambda workdir: {{}}
priors.main()
"""

# Start of a command -> (function of its words that returns the replacement, the reason).
INSTEAD = {
    "make demo": (lambda w: ["make", "-n", *w[1:]], "CI runs the demo itself"),
    "make test": (lambda w: ["make", "-n", *w[1:]], "CI runs the tests themselves"),
    "pip install .": (
        lambda w: ["test", "-f", "pyproject.toml"],
        "needs the network; `make env` has installed the same",
    ),
    "curl -L -o codeformer.pth": (
        lambda w: ["cp", f"downloads/{w[-1].rpartition('/')[2]}", w[w.index("-o") + 1]],
        "needs the network",
    ),
    "python -c import lpips, torch; torch.save(lpips.LPIPS(net='vgg').state_dict(), 'lpips.pth')": (
        lambda w: ["cp", "downloads/lpips.pth", "."],
        "needs the network, and packages that are not of this project",
    ),
    "python benchmarks/priors.py": (
        lambda w: ["python", "-c", _TINY_PRIORS, *w[2:]],
        "takes half an hour",
    ),
}
# Placeholders that are no file names.
WORDS = {"FACES...": ["FACES"], "PHOTOS...": ["PHOTOS"]}
# Names that the Python blocks assume.
NAMES = """
import numpy as np
from pathlib import Path
from codeformer_jax.convert import read_pth, select_state_dict
images = np.zeros((2, 32, 32, 3), np.{dtype})
state_dict = select_state_dict(read_pth("codeformer.pth"))
"""


@dataclass(frozen=True)
class Command:
    """One command of a page.

    Attributes:
        line: line number, from 1.
        kind: 'shell', 'python' or 'table'.
        text: the command on one line, or the Python block.
    """

    line: int
    kind: str
    text: str


def commands(markdown: str) -> list[Command]:
    """Returns the commands of a Markdown text, in order."""
    found, lines, i = [], markdown.splitlines(), 0
    while i < len(lines):
        start, line = i, lines[i]
        if line.startswith("```"):
            end = next(j for j in range(i + 1, len(lines)) if lines[j].startswith("```"))
            body = lines[i + 1 : end]
            if line[3:] == "python":
                found.append(Command(start + 1, "python", "\n".join(body) + "\n"))
            else:
                found += _shell(body, start + 2)
            i = end + 1
        elif line.startswith("    ") and (i == 0 or not lines[i - 1].strip()):
            while i < len(lines) and lines[i].startswith("    "):
                i += 1
            found += _shell(lines[start:i], start + 1)
        else:
            if line.startswith("|"):
                found += [
                    Command(start + 1, "table", text)
                    for text in re.findall(r"`((?:python|make|codeformer-jax) [^`]+)`", line)
                ]
            i += 1
    return found


def commands_of_pages() -> list[tuple[str, Command]]:
    """Returns (page, command) of every command in `PAGES`, in order."""
    texts = {page: (ROOT / page).read_text(encoding="utf-8") for page in PAGES}
    return [(page, command) for page, text in texts.items() for command in commands(text)]


def _shell(lines, number):
    found, parts = [], []
    for i, line in enumerate(lines):
        parts.append(line.strip().removesuffix("\\").strip())
        if not line.rstrip().endswith("\\"):
            if text := " ".join(filter(None, parts)):
                found.append(Command(number + i + 1 - len(parts), "shell", text))
            parts = []
    return found


def words_of(command: Command) -> list[str]:
    """Returns the words of a shell command, without its comment and placeholders."""
    words = shlex.split(command.text, comments=True)
    return [part for word in words for part in WORDS.get(word, [word])]


def to_run(command: Command) -> list[str]:
    """Returns the words to run for a shell command.

    Raises:
        ValueError: the command has no rule in `TINY` or `INSTEAD`, or needs a shell.
    """
    words = words_of(command)
    if shell := [word for word in words if re.search(r"[|&<>`$]|^\w+=", word)]:
        raise ValueError(f"{shell} needs a shell")
    plain = " ".join(words)
    for start, (instead, _) in INSTEAD.items():
        if f"{plain} ".startswith(f"{start} "):
            return instead(words)
    for start, more in TINY.items():
        if f"{plain} ".startswith(f"{start} "):
            return [*words, *more]
    raise ValueError("no rule: add one to TINY or, with the reason, to INSTEAD")


def check_table(command: Command) -> None:
    """Checks a command in a table.

    Raises:
        ValueError: its script, an option, or a path does not exist.
    """
    words = shlex.split(command.text)
    if words[0] == "make":
        source = (ROOT / "Makefile").read_text()
        wanted = [f"\n{words[1]}:", *(f"$({w.partition('=')[0]})" for w in words[2:])]
        paths = [f for w in words[2:] for f in w.partition("=")[2].split()]
    else:
        source = (ROOT / words[1]).read_text() if (ROOT / words[1]).is_file() else ""
        wanted = [f'"{word}"' for word in words[2:] if word.startswith("--")]
        paths = [words[1]]
    missing = [path for path in paths if not (ROOT / path).exists()]
    missing += [w.strip() for w in wanted if w not in source]
    if missing:
        raise ValueError(f"not there: {', '.join(missing)}")


def make_inputs(folder: Path) -> None:
    """Makes the pictures and the downloaded files that the pages assume."""
    import jax  # noqa: PLC0415  Late, so that --list is quick.
    import numpy as np  # noqa: PLC0415

    from codeformer_jax import convert, nn  # noqa: PLC0415
    from codeformer_jax.convert.networks import expected_variables  # noqa: PLC0415
    from codeformer_jax.data.images import write_image  # noqa: PLC0415
    from codeformer_jax.data.synthetic import SyntheticFaces, draw_group  # noqa: PLC0415

    for name, number, size in (("FFHQ", 12, 256), ("FACES", 3, 64)):
        faces = SyntheticFaces("train", size, number)
        for i in range(number):
            write_image(folder / name / f"{i}.png", faces[i]["image"])
    shutil.copy(folder / "FACES" / "0.png", folder / "FACE.png")
    write_image(folder / "PHOTOS" / "0.png", draw_group(0, 240, 400).image)
    rng = np.random.default_rng(0)
    networks = {
        "codeformer": nn.CodeFormer(**BACKBONE, **TRANSFORMER),
        "vqgan_code1024": nn.VQGAN(**BACKBONE),
        "lpips": nn.LPIPS(),
    }
    (folder / "downloads").mkdir()
    for name, module in networks.items():
        network = convert.network_of(module)
        variables = jax.tree.map(
            lambda x: rng.normal(0, 0.05, x.shape).astype(np.float32),
            expected_variables(network, module),
        )
        file = folder / "downloads" / f"{name}.safetensors"
        convert.save_model(file, network, module, variables)
        convert.convert_file(file, file.with_suffix(".pth"), to_torch=True)
    shutil.copy(folder / "downloads" / "vqgan_code1024.pth", folder)


def run(command: Command, folder: Path) -> None:
    """Runs a command in `folder`.

    Raises:
        ValueError: the command fails.
    """
    if command.kind == "table":
        check_table(command)
        return
    if command.kind == "shell":
        words = to_run(command)
    else:
        names = NAMES.format(dtype="uint8" if "Restorer" in command.text else "float32")
        words = ["python", "-c", names + command.text]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    done = subprocess.run(
        words,
        cwd=folder,
        env={**os.environ, "PATH": path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        raise ValueError(
            f"exit code {done.returncode} of {shlex.join(words)}\n"
            + "\n".join(done.stdout.splitlines()[-30:])
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", type=Path, metavar="DIR", help="run in this new folder, keep it")
    parser.add_argument("--list", action="store_true", help="only print the commands")
    args = parser.parse_args()
    todo = commands_of_pages()
    if args.list:
        for page, command in todo:
            print(f"{page}:{command.line} ({command.kind}): {command.text.strip()}")
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=args.keep is None)
        for name in CLONE:
            (folder / name).symlink_to(ROOT / name)
        make_inputs(folder.absolute())
        for page, command in todo:
            start = time.perf_counter()
            print(f"{page}:{command.line}: {command.text.strip()}", flush=True)
            try:
                run(command, folder)
            except ValueError as error:
                print(f"error: {error}", file=sys.stderr)
                return 1
            print(f"    {time.perf_counter() - start:.1f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
