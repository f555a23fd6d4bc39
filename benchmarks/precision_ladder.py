"""Error of the published CodeFormer in each precision, at 512 px with seeded weights.

    python benchmarks/precision_ladder.py [--size 512] [--json FILE]

Prints the error of each block against float64 on the CPU and the table of docs/numerics.md.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import jax
from parity import support

from codeformer_jax.compare.ladder import ladder


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=512, help="pixels; default %(default)s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    args = parser.parse_args()
    fixture = support.load("codeformer")
    module, variables = support.seeded("codeformer", fixture)
    found = ladder(module, variables, support.images(args.size, 0), w=1.0)
    print(found, flush=True)
    if args.json:
        rungs = {
            rung.name: {
                "flipped": rung.flipped,
                "psnr": rung.psnr,
                "layers": {row.name: row.relative_l2 for row in rung.comparison.rows},
            }
            for rung in found.rungs
        }
        device = jax.devices()[0].device_kind
        about = {"device": device, "size": args.size, "jax": jax.__version__, "rungs": rungs}
        args.json.write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
