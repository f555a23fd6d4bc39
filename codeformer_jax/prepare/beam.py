"""Shards built by an Apache Beam pipeline: on this machine, or on a cluster that sees the folders.

It maps the function that processes of one machine use, so the dataset is the same.
"""

import functools
import os
from collections.abc import Sequence

from codeformer_jax.prepare.build_plan import Plan
from codeformer_jax.prepare.shards import build_shard
from codeformer_jax.prepare.staging import PrepareError, Staging


def build_shards_by_beam(staging: Staging, plan: Plan, beam_args: Sequence[str]) -> None:
    """Builds all shards of a plan.

    Args:
        staging: the build; workers need this package and must see the sources and this folder under
            the same paths.
        plan: its shards.
        beam_args: options of the pipeline, such as '--runner=DataflowRunner'.

    Raises:
        PrepareError: Apache Beam is not installed.
        OSError: a shard failed; Beam has tried it as often as its runner does.
    """
    try:
        import apache_beam as beam  # noqa: PLC0415
        from apache_beam.options.pipeline_options import PipelineOptions  # noqa: PLC0415
    except ImportError as error:
        raise PrepareError(
            "--beam needs Apache Beam: pip install 'codeformer-jax[beam]' -c constraints.txt, or "
            "leave out --beam to build with processes of this machine"
        ) from error
    build = functools.partial(build_shard, os.fspath(staging.out), plan.settings)
    try:
        with beam.Pipeline(options=PipelineOptions(list(beam_args))) as pipeline:
            _ = (
                pipeline
                | beam.Create(list(enumerate(plan.shards)))
                | beam.Reshuffle()  # Otherwise one worker gets them all.
                | beam.MapTuple(build)
            )
    except RuntimeError as error:  # Runners wrap what fails in their workers.
        raise OSError(f"the Beam pipeline failed: {error}") from error
