"""Traffic between devices and work of each device, in every task's step and evaluation.

    python benchmarks/sharding.py [--only NAME ...] [--without-degrade]

Compiles the program of accelerators for eight virtual CPU devices, runs nothing, and prints two
Markdown tables: every task's step and evaluation at 160 px (tiny networks, arrays of 64 elements
are sharded, 7 images on each device) on each mesh, and the degradation `large` at 512 px with two
images on each of 1, 2, 4 and 8 devices. A collective's size is that of the array it gives a device.
"""

import argparse
import os
import sys
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
)
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import collectives
import jax
import jax.numpy as jnp
from linear import NAMES, make_linear

from codeformer_jax import degrade
from codeformer_jax.system import parallel
from codeformer_jax.train import traffic

MESHES = ("data:1", "data:8", "data:4,fsdp:2", "fsdp:8", "slice:2,data:2,fsdp:2")


def row(*cells) -> None:
    """Prints a row of a table."""
    print("|", " | ".join(map(str, cells)), "|", flush=True)


def tasks(names) -> None:
    """Prints the table of steps and evaluations."""
    row("program", "mesh", "GFLOP a device", "temporaries, MiB", "largest collective", "of images")
    row(*["---"] * 6)
    for name in names:
        for what in ("step", "evaluation"):
            compiled = getattr(collectives, f"compiled_{what}")
            for mesh in MESHES:
                program = compiled(name, mesh)
                size, shape = program.largest
                largest = f"{list(shape)}, {size / 1024:.1f} KiB" if size else "none"
                figures = f"{program.flops / 1e9:.2f}", f"{program.temporaries / 2**20:.1f}"
                row(f"{name}, {what}", f"`{mesh}`", *figures, largest, len(program.activations))


def degradation() -> None:
    """Prints the table of the degradation, with the mesh in use and without."""
    recipe, key = degrade.Recipe.named("large"), jax.eval_shape(lambda: jax.random.key(0))
    row("devices", "mesh in use", "GFLOP a device", "temporaries, MiB", "collectives, MiB")
    row(*["---"] * 5)
    for devices in (1, 2, 4, 8):
        mesh = parallel.make_mesh(f"data:{devices}")
        rows, whole = parallel.batch_sharding(mesh), parallel.replicated(mesh)
        images = jax.ShapeDtypeStruct((2 * devices, 512, 512, 3), jnp.float32)
        for in_use in (False, True):

            def program(images, key, recipe, mesh=mesh, in_use=in_use):
                keys = jax.random.split(key, images.shape[0])
                if not in_use:
                    return degrade.degrade(images, keys, recipe)
                with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
                    return degrade.degrade(images, keys, recipe)

            jitted = jax.jit(program, in_shardings=(rows, whole, whole), out_shardings=rows)
            compiled = jitted.lower(images, key, recipe).compile()
            flops = compiled.cost_analysis()["flops"] / 1e9
            temporaries = compiled.memory_analysis().temp_size_in_bytes / 2**20
            found = traffic.collectives(compiled.as_text(), mesh.shape)
            sent = sum(collective.bytes for collective in found) / 2**20
            row(
                devices,
                "yes" if in_use else "no",
                *(f"{x:.1f}" for x in (flops, temporaries, sent)),
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", default=NAMES, choices=NAMES, metavar="NAME")
    parser.add_argument("--without-degrade", action="store_true")
    arguments = parser.parse_args()
    make_linear()
    jax.lax.platform_dependent = collectives.take_accelerators_branch
    tasks(arguments.only)
    if not arguments.without_degrade:
        print()
        degradation()


if __name__ == "__main__":
    main()
