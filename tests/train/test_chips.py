"""The reader of TPU programs in benchmarks/chips.py, on lines as libtpu writes them."""

import json
import re
from pathlib import Path

import pytest

from benchmarks import chips
from codeformer_jax.tasks import make_task
from codeformer_jax.train.speed import PEAK_TFLOPS
from codeformer_jax.train.step import step_options
from configs import demo

ROOT = Path(__file__).parents[2]
PROGRAM = """
%fused_computation (param_0: bf16[2,8,8,64], param_1: bf16[3,3,64,128]) -> bf16[2,8,8,128] {
  %param_0 = bf16[2,8,8,64]{3,0,2,1:T(2,128)(2,1)} parameter(0)
  %param_1 = bf16[3,3,64,128]{3,2,1,0:T(8,128)(2,1)} parameter(1)
  ROOT %convolution.1 = bf16[2,8,8,128]{3,0,2,1:T(2,128)(2,1)} convolution(%param_0, %param_1), \
window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_01io->b01f
}

%padded (param_0.1: bf16[2,8,8,128]) -> bf16[2,9,8,128] {
  %param_0.1 = bf16[2,8,8,128]{3,0,2,1:T(2,128)(2,1)} parameter(0)
  %constant = bf16[]{:T(256)} constant(0)
  ROOT %pad = bf16[2,9,8,128]{3,0,2,1:T(2,128)(2,1)} pad(%param_0.1, %constant), \
padding=0_0x0_1x0_0x0_0
}

%body (p: (s32[], f32[8,16])) -> (s32[], f32[8,16]) {
  %p = (s32[], f32[8,16]{1,0:T(8,128)}) parameter(0)
  %part = f32[8,16]{1,0:T(8,128)} get-tuple-element(%p), index=1
  %dot.1 = f32[8,8]{1,0:T(8,128)} dot(%part, %part), lhs_contracting_dims={1}, \
rhs_contracting_dims={1}
}

%condition (p.1: (s32[], f32[8,16])) -> pred[] {
  %p.1 = (s32[], f32[8,16]{1,0:T(8,128)}) parameter(0)
}

ENTRY %main.1 (x: bf16[2,8,8,64], k: bf16[3,3,64,128]) -> bf16[2,9,8,128] {
  %x = bf16[2,8,8,64]{3,0,2,1:T(2,128)(2,1)} parameter(0)
  %k = bf16[3,3,64,128]{3,2,1,0:T(8,128)(2,1)} parameter(1)
  %copy-start = (bf16[3,3,64,128]{3,2,1,0:T(8,128)(2,1)S(1)}, \
bf16[3,3,64,128]{3,2,1,0:T(8,128)(2,1)}, u32[]{:S(2)}) copy-start(%k)
  %copy-done = bf16[3,3,64,128]{3,2,1,0:T(8,128)(2,1)S(1)} copy-done(%copy-start)
  %fusion.1 = bf16[2,8,8,128]{3,0,2,1:T(2,128)(2,1)} fusion(%x, %copy-done), kind=kOutput, \
calls=%fused_computation
  %while.1 = (s32[], f32[8,16]) while(%t), condition=%condition, body=%body, \
backend_config={"known_trip_count":{"n":"5"}}
  %all-reduce.1 = f32[256]{0:T(256)} all-reduce(%g), \
replica_groups=mesh['axis_0'=8] {'axis_0'}, to_apply=%add
  ROOT %pad_fusion = bf16[2,9,8,128]{3,0,2,1:T(2,128)(2,1)} fusion(%fusion.1), kind=kLoop, \
calls=%padded
}
"""
BUFFERS = """BufferAssignment:
allocation 0: size 512, thread-local:
allocation 1: size 3000000000, parameter 3, shape |f32[4,4]| at ShapeIndex {}, maybe-live-out:
allocation 2: size 1000000000, preallocated-temp:
 value: <7 copy @0> (size=512,offset=0): f32[]{:T(128)}
allocation 3: size 99, color 1, preallocated-temp:
allocation 4: size 1000000000, maybe-live-out:
"""


@pytest.mark.parametrize(
    ("text", "bytes_", "padded", "on_chip"),
    [
        (
            "f32[2,512,512,3]{3,2,1,0:T(8,128)}",
            2 * 512 * 512 * 3 * 4,
            2 * 512 * 512 * 128 * 4,
            False,
        ),
        ("bf16[2,256,256,64]{3,0,2,1:T(2,128)(2,1)S(1)}", 2**24, 2**25, True),
        ("bf16[256,16,33,64]{0,3,2,1:T(8,128)(2,1)}", 2**14 * 33 * 32, 2**14 * 33 * 32, False),
        ("f32[512]{0:T(512)}", 2048, 2048, False),
        ("pred[10]", 10, 10, False),
        ("s32[]{:T(128)}", 4, 4, False),
    ],
)
def test_tiles_pad_arrays(text, bytes_, padded, on_chip):
    (found,) = chips.arrays(text)
    assert (found.bytes, found.padded, found.on_chip) == (bytes_, padded, on_chip)


def test_instructions_of_a_program():
    found = {each.name: each for each in chips.instructions(PROGRAM)}
    assert {name: (each.category, each.times) for name, each in found.items()} == {
        "copy-start": ("prefetch", 1),
        "fusion.1": ("product", 1),
        "dot.1": ("product", 5),
        "all-reduce.1": ("collective", 1),
        "pad_fusion": ("move", 1),
    }
    convolution, pixels = found["fusion.1"], 2 * 8 * 8
    assert convolution.flops == 2 * pixels * 128 * 9 * 64
    assert convolution.wide == 0
    # The kernel has come to the vector memory before; 64 channels take a tile of 128.
    assert convolution.bytes == pixels * (64 + 128) * 2
    assert convolution.padded == pixels * (128 + 128) * 2
    assert found["copy-start"].bytes == 9 * 64 * 128 * 2
    assert found["dot.1"].flops == found["dot.1"].wide == 5 * 2 * 8 * 8 * 16
    assert found["pad_fusion"].bytes == (2 * 8 * 8 + 2 * 9 * 8) * 128 * 2


@pytest.mark.parametrize(
    ("kernel", "window", "labels", "flops"),
    [
        ("[64,64,2,16]", "size=64x64", "f01b_i01o->01bf", 2 * 9 * 8 * 16 * 64 * 64 * 64),
        ("[3,3,16,2]", "size=3x3 lhs_dilate=2x2", "b01f_01io->b01f", 2 * 9 * 8 * 16 * 9 * 16 / 4),
    ],
)
def test_operations_of_gradients(kernel, window, labels, flops):
    """By the kernel the windows are whole maps; by the input they skip the zeros between."""
    lines = [
        "ENTRY %main (a: bf16[8,8]) -> bf16[9,8,16] {",
        "  %a = bf16[8,66,66,64]{3,2,1,0} parameter(0)",
        f"  %b = f32{kernel}{{3,2,1,0}} parameter(1)",
        f"  %c = bf16[9,8,16]{{2,1,0}} convolution(%a, %b), window={{{window}}}, "
        f"dim_labels={labels}",
        "}",
    ]
    (found,) = chips.instructions("\n".join(lines))
    assert found.flops == found.wide == flops


def test_buffers_of_main_memory():
    assert chips.buffers(BUFFERS) == (3_000_000_000, 2_000_000_000)


def test_summary_and_table():
    found = chips.summary(PROGRAM, BUFFERS, "v5e", images=2)
    flops = 2 * 128 * 128 * 9 * 64 + 5 * 2 * 8 * 8 * 16
    assert found["of_memory"] == pytest.approx(5 / 16, abs=1e-3)
    assert found["collectives"] == ["1 all-reduce 0 MB"]
    assert found["count"]["move"] == 1
    assert found["float32_products"] == pytest.approx(5 * 2 * 8 * 8 * 16 / flops, abs=1e-4)
    faster = chips.summary(PROGRAM, BUFFERS, "v6e", images=2)
    assert faster["images_per_second"] > found["images_per_second"]
    row = chips.table([{"stage": "vqgan", "dtype": "bfloat16", "chip": "v5e"} | found])
    heading, rule, cells = row.splitlines()
    assert heading.count("|") == rule.count("|") == cells.count("|")


def test_chips_are_known():
    for chip in chips.SLICES:
        assert PEAK_TFLOPS[f"TPU {chip}"]


def test_steps_for_tpus_keep_their_batch():
    """libtpu would otherwise cut maps into strips and copy between them."""
    task = make_task(demo.get_config("vqgan,short"))
    assert step_options(task, "cpu") == step_options(task, "gpu") == {}
    options = step_options(task, "tpu")
    assert options["xla_tpu_run_space_to_batch"] == "false"
    assert options["xla_tpu_run_space_to_batch_on_new_platforms"] == "false"


def test_documented_tables_are_those_of_the_results():
    stored = json.loads((ROOT / "benchmarks/results/chips_tpu.json").read_text())
    rows = chips.table(stored["results"]).splitlines()
    document = (ROOT / "docs/distributed.md").read_text()
    for row in rows:
        assert re.sub(r"-{3,}", "---", row) in document
