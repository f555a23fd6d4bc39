"""Collectives read from the text of compiled programs."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from codeformer_jax.system import parallel
from codeformer_jax.train.traffic import Collective, collectives

MESH = {"data": 4, "fsdp": 2}


def line(groups, kind="all-reduce", result="f32[3,5]{1,0}"):
    return f'  %x.1 = {result} {kind}(%y), channel_id=1, {groups}, metadata={{op_name="a/b"}}'


@pytest.mark.parametrize(
    ("groups", "axes"),
    [
        ("replica_groups={{0,1},{2,3},{4,5},{6,7}}", ("fsdp",)),
        ("replica_groups={{0,2,4,6},{1,3,5,7}}", ("data",)),
        ("replica_groups={{0,1,2,3,4,5,6,7}}", ("data", "fsdp")),
        ("replica_groups={}", ("data", "fsdp")),
        ("replica_groups=[4,2]<=[8]", ("fsdp",)),
        ("replica_groups=[2,4]<=[4,2]T(1,0)", ("data",)),
        ("replica_groups=[1,8]<=[8]", ("data", "fsdp")),
        ("replica_groups=mesh['a'=8] {'a'}", ("data", "fsdp")),
        ("replica_groups=mesh['a'=4,'b'=2] {'a'}", ("data",)),
        ("replica_groups=mesh['a'=4,'b'=2] {'b'}", ("fsdp",)),
        ("replica_groups=mesh['a'=2,'b'=1,'c'=4], device_ids=([4,2]T(1,0)) {'a'}", ("fsdp",)),
        ("replica_groups=something new", ()),
    ],
)
def test_axes_of_every_form_of_groups(groups, axes):
    (found,) = collectives(line(groups), MESH)
    assert (found.axes, found.sizes) == (axes, tuple(MESH[axis] for axis in axes))
    assert (found.arrays, found.source) == (((60, (3, 5)),), "a/b")


def test_a_group_may_be_a_part_of_an_axis():
    for groups in ("replica_groups={{0,2},{4,6}}", "source_target_pairs={{0,2},{2,4}}"):
        (found,) = collectives(line(groups), MESH)
        assert (found.axes, found.sizes) == (("data",), (2,))


def test_an_asynchronous_collective_counts_its_result_alone():
    groups = "replica_groups=[4,2]<=[8]"
    for kind, result in (
        ("all-gather-start", "(f32[3,2]{1,0:T(8,128)}, f32[3,4]{1,0:T(8,128)S(1)})"),
        ("all-reduce-start", "(bf16[4,4], bf16[8])"),
        ("collective-permute-start", "(f32[12], f32[12], u32[], u32[])"),
    ):
        (found,) = collectives(line(groups, kind, result), MESH)
        assert found.bytes == 48, kind
    assert collectives("  %d = f32[3,4] all-gather-done(%x.1)", MESH) == []


def test_a_transfer_between_slices_of_tpus():
    """As libtpu writes a sum over two slices, after sums within each."""
    attributes = '_xla_megascale_target="{1,2}x{0:7}",_xla_megascale_transfer_type="ALL_REDUCE"'
    text = line(
        f"is_host_transfer=true, frontend_attributes={{{attributes}}}",
        "send",
        "(f32[64,8,128]{2,1,0:T(8,128)}, u32[], token[])",
    )
    (found,) = collectives(text, {"slice": 2, "data": 4, "fsdp": 2})
    assert (found.kind, found.axes, found.bytes) == ("all-reduce", ("slice",), 64 * 8 * 128 * 4)
    assert found.sent() == (0, 64 * 8 * 128 * 4)
    assert collectives(line("is_host_transfer=true", "send"), MESH) == []


def test_a_collective_beside_fusions_counts_once():
    """libtpu writes it into every fusion that it runs beside, with the same channel."""
    gather = line("channel_id=7, replica_groups={{0,1},{2,3}}", "all-gather")
    parts = ("fused_computation.1", "async_collective_fusion.2", "async_collective_fusion.3")
    text = "\n".join(f"%{name} (p: f32[3,5]) -> f32[3,5] {{\n{gather}\n}}" for name in parts)
    assert len(collectives(text, MESH)) == 1
    assert len(collectives(text.replace("fus", "f"), MESH)) == 3


def test_a_loop_repeats_its_collectives():
    text = "\n".join(
        (
            "%body.1 (p: (s32[], f32[3,5])) -> (s32[], f32[3,5]) {",
            line("replica_groups={}"),
            "}",
            "ENTRY %main (p: f32[3,5]) -> f32[3,5] {",
            "  %w = (s32[], f32[3,5]) while(%t), condition=%c, body=%body.1, "
            'backend_config={"known_trip_count":{"n":"4"}}',
            line("replica_groups={}"),
            "}",
        )
    )
    found = collectives(text, MESH)
    assert [(c.times, c.bytes) for c in found] == [(4, 240), (1, 60)]


@pytest.mark.parametrize(
    ("kind", "axes", "sizes", "sent"),
    [
        ("all-reduce", ("data",), (4,), (150, 0)),
        ("all-gather", ("fsdp",), (2,), (50, 0)),
        ("reduce-scatter", ("fsdp",), (2,), (100, 0)),
        ("collective-permute", ("data",), (4,), (100, 0)),
        # Reduced inside a slice of eight first, each sends an eighth to the other slice.
        ("all-reduce", ("slice", "data", "fsdp"), (2, 4, 2), (175, 12.5)),
        ("all-reduce", ("slice",), (2,), (0, 100)),
        # Of eight parts one stays, three go to the rest of the slice and four to the other slice.
        ("all-to-all", ("slice", "data"), (2, 4), (37.5, 50)),
    ],
)
def test_bytes_that_a_device_sends(kind, axes, sizes, sent):
    assert Collective(kind, axes, sizes, ((100, (25,)),), 1, "").sent() == sent


def test_the_text_of_this_compiler():
    """A product of sharded arrays: one gather along fsdp, one sum along data and fsdp."""
    mesh = parallel.make_mesh("data:4,fsdp:2")

    def sharded(*spec):
        return NamedSharding(mesh, PartitionSpec(*spec))

    def step(rows, kernel):
        kernel = jax.lax.with_sharding_constraint(kernel, sharded())
        return rows @ kernel, jax.lax.with_sharding_constraint(rows.T @ rows, sharded())

    rows = jax.ShapeDtypeStruct((16, 6), jnp.float32, sharding=sharded(("data", "fsdp")))
    kernel = jax.ShapeDtypeStruct((6, 10), jnp.float32, sharding=sharded(None, "fsdp"))
    text = jax.jit(step).lower(rows, kernel).compile().as_text()
    found = {(c.kind, c.axes): c.bytes for c in collectives(text, mesh.shape)}
    assert found == {
        ("all-gather", ("fsdp",)): 6 * 10 * 4,
        ("all-reduce", ("data", "fsdp")): 6 * 6 * 4,
    }
