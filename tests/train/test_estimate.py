"""Estimates of a step's time: sums by axis, and the part that takes longest."""

import re
from pathlib import Path

import pytest

from codeformer_jax.train.estimate import CHIPS, step_times, traffic_by_axis
from codeformer_jax.train.speed import PEAK_TFLOPS
from codeformer_jax.train.traffic import Collective


def collective(kind, sizes, nbytes, times=1):
    return Collective(kind, tuple(sizes), tuple(sizes.values()), ((nbytes, (1,)),), times, "")


def test_collectives_are_summed_by_kind_and_axes():
    whole = {"slice": 2, "data": 2, "fsdp": 2}
    found = traffic_by_axis(
        [
            collective("all-gather", {"fsdp": 2}, 40),
            collective("all-reduce", whole, 80),
            collective("all-gather", {"fsdp": 2}, 10, times=3),
            collective("all-to-all", {}, 10),
        ]
    )
    assert [(t.kind, t.axes, t.count, t.bytes) for t in found] == [
        ("all-gather", "fsdp", 4, 70),
        ("all-reduce", "slice+data+fsdp", 1, 80),
        ("all-to-all", "unknown", 1, 10),
    ]
    assert [(t.inside, t.between) for t in found] == [(35, 0), (120, 20), (0, 0)]


def test_the_page_has_the_rates_that_are_used():
    page = (Path(__file__).resolve().parents[2] / "docs" / "distributed.md").read_text()
    rows = re.findall(r"^\| (?:TPU |H\d00 SXM).*(?:\[\d\].*){4}$", page, re.MULTILINE)
    found = {}
    for row in rows:
        name, *cells = (cell.strip() for cell in row.strip("|").split("|"))
        name = name if name.startswith("TPU") else f"NVIDIA {name.removesuffix(' SXM')}"
        found[name] = [float(cell.partition(" [")[0].replace(",", "")) for cell in cells]
    assert found == {
        name: [PEAK_TFLOPS[name], chip.memory, chip.links, chip.network]
        for name, chip in CHIPS.items()
    }


@pytest.mark.parametrize(
    ("flops", "accessed", "sizes", "limit"),
    [
        (1e13, 1e9, {"data": 8}, "operations"),
        (1e9, 1e12, {"data": 8}, "memory"),
        (1e9, 1e6, {"data": 8}, "links"),
        (1e9, 1e6, {"slice": 2, "data": 4}, "network"),
    ],
)
def test_the_longest_part_is_the_least_time(flops, accessed, sizes, limit):
    traffic = traffic_by_axis([collective("all-reduce", sizes, 10**8)])
    for time in step_times(flops, accessed, traffic).values():
        parts = (time.operations, time.memory, time.links, time.network)
        assert time.least == getattr(time, limit) == max(parts)
        assert time.most == pytest.approx(sum(parts))


def test_a_known_time():
    """197 TFLOP/s, 819 GB/s and 90 GB/s of a v5e: one second each."""
    traffic = traffic_by_axis([collective("all-gather", {"fsdp": 2}, 180 * 10**9)])
    time = step_times(197e12, 819e9, traffic)["TPU v5e"]
    assert (time.operations, time.memory, time.links, time.network) == pytest.approx((1, 1, 1, 0))
