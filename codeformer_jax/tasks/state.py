"""Training state and optimizer."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
import optax
from jaxtyping import Array, Float, Int

PyTree = Any
# Names of parameters and a number of steps, see `Optimizer.apply`.
Late = tuple[Collection[str], Int[Array, ""]]


@flax.struct.dataclass
class DiscriminatorState:
    """The discriminator's parameters, optimizer state and batch statistics."""

    params: PyTree
    opt_state: PyTree
    batch_stats: PyTree


@flax.struct.dataclass
class TrainState:
    """State of a run, which is all that a checkpoint holds.

    Its leaves are arrays, or shapes and shardings of arrays.

    Attributes:
        step: number of steps taken, int32.
        params: parameters of the whole network, trained or frozen.
        ema_params: moving average of the trained parameters, keyed as in `params`.
        opt_state: optimizer state of the trained parameters.
        collections: mutable variables of the network; 'codebook' if it is a moving average.
        code_usage: moving average of each code's share of the batch, [K] float32, or None in tasks
            without codes.
        skipped: number of steps skipped for a non-finite loss or gradient, int32.
        skipped_in_row: number of skipped steps since the last one that was not, int32.
        discriminator: a `DiscriminatorState`, or None in tasks without a discriminator.
    """

    step: Any
    params: PyTree
    ema_params: PyTree
    opt_state: PyTree
    collections: PyTree
    code_usage: Any
    skipped: Any
    skipped_in_row: Any
    discriminator: Any = None

    @classmethod
    def first(
        cls,
        params: PyTree,
        trained: PyTree,
        optimizer: "Optimizer",
        codes: int | None = None,
        **others: Any,
    ) -> "TrainState":
        """Returns the state before the first step.

        Args:
            params: parameters of the whole network.
            trained: those of `params` that are trained.
            optimizer: optimizer of the trained parameters.
            codes: number of codes K, or None in a task without codes.
            others: further fields; `collections` is empty unless it is given.
        """
        return cls(
            step=jnp.zeros((), jnp.int32),
            params=params,
            ema_params=jax.tree.map(jnp.copy, trained),
            opt_state=optimizer.init(trained),
            code_usage=codes and jnp.full(codes, 1 / codes, jnp.float32),
            skipped=jnp.zeros((), jnp.int32),
            skipped_in_row=jnp.zeros((), jnp.int32),
            **{"collections": {}, **others},
        )

    def variables(self) -> dict[str, PyTree]:
        """Returns the network's variables for inference, with averages of trained parameters."""
        return {"params": {**self.params, **self.ema_params}, **self.collections}


@dataclass(frozen=True)
class Optimizer:
    """An optax transformation whose learning rate follows the run's step, not its own count.

    The discriminator starts late and still has the same rate as the generator.

    Attributes:
        transform: gradients -> updates, without the learning rate.
        schedule: step -> learning rate.
        weight_decay: share of the rate by which kernels shrink, as in AdamW. Biases, norms,
            positions and codes do not shrink.
        advance: what a step does to parameters that its losses do not reach. 'reached' leaves them,
            their moments and their count, as PyTorch does since 2.0, where `zero_grad` sets
            gradients to None. 'all' takes their gradients as zero, as PyTorch did before: stale
            momentum moves them, and weight decay shrinks them.
    """

    transform: optax.GradientTransformation
    schedule: Callable[[Any], Any]
    weight_decay: float = 0.0
    advance: str = "reached"

    def init(self, params: PyTree) -> PyTree:
        """Returns the optimizer state of these parameters before the first step."""
        return self.transform.init(params)

    def learning_rate(self, step: Int[Array, ""]) -> Float[Array, ""]:
        """Returns the learning rate of step number `step`, counted from 0."""
        return jnp.asarray(self.schedule(step.astype(jnp.float32)), jnp.float32)

    def apply(
        self,
        gradients: PyTree,
        opt_state: PyTree,
        params: PyTree,
        step: Int[Array, ""],
        *,
        late: Late | None = None,
    ) -> tuple[PyTree, PyTree]:
        """Returns parameters and optimizer state after one step.

        Args:
            gradients: gradients of `params`, or of those top-level entries that the step's losses
                reach.
            opt_state: optimizer state of all `params`.
            params: trained parameters.
            step: number of the step, counted from 0.
            late: names of entries that not every step reaches, and an upper bound of the number
                of earlier steps that reached them. Adam's bias correction follows that number.
        """
        idle = params.keys() - gradients.keys()
        if idle:
            zeros = {name: jax.tree.map(jnp.zeros_like, params[name]) for name in idle}
            gradients = {**gradients, **zeros}
        updates, new_state = self._transform(gradients, opt_state, params)
        if self.advance == "all":
            idle = set()
        else:
            if late is not None and (names := set(late[0]) - idle):
                counted = _limit_counts(opt_state, late[1])
                others = self._transform(gradients, counted, params)[0]
                updates = {**updates, **{name: others[name] for name in names}}
            new_state = _keep(idle, opt_state, new_state)
        rate = self.learning_rate(step)
        # Apart from the transformation, so that a run can resume with it switched on or off.
        decayed = jax.tree_util.tree_map_with_path(
            lambda path, u, p: u + self.weight_decay * p if path[-1].key == "kernel" else u,
            updates,
            params,
        )
        moved = jax.tree.map(lambda p, u: p - rate * u, params, decayed)
        return _keep(idle, params, moved), new_state

    def _transform(
        self, gradients: PyTree, opt_state: PyTree, params: PyTree
    ) -> tuple[PyTree, PyTree]:
        # optax raises a decay to an integer count, which strict promotion forbids.
        with jax.numpy_dtype_promotion("standard"):
            return self.transform.update(gradients, opt_state, params)


def _keep(names: Collection[str], old: PyTree, new: PyTree) -> PyTree:
    """Returns `new` with the leaves of `old` under every key in `names`."""
    return jax.tree_util.tree_map_with_path(
        lambda path, a, b: a if any(getattr(key, "key", None) in names for key in path) else b,
        old,
        new,
    )


def _limit_counts(opt_state: PyTree, most: Int[Array, ""]) -> PyTree:
    """Returns an optimizer state whose counts of steps are at most `most`."""
    return jax.tree_util.tree_map_with_path(
        lambda path, x: jnp.minimum(x, most) if getattr(path[-1], "name", "") == "count" else x,
        opt_state,
    )


def make_optimizer(config: ml_collections.ConfigDict, steps: int) -> Optimizer:
    """Returns Adam or AdamW with optional global-norm clipping and a schedule.

    Args:
        config: name ('adam', or 'adamw' with weight_decay, decoupled from the gradients),
            learning_rate, betas, clip_norm (0 is off), warmup_steps, advance ('reached', the
            default, or 'all') and schedule: 'constant', 'cosine' (to final_learning_rate at
            `steps`) or 'multistep' (times `gamma` at each of `milestones`).
        steps: length of the run.

    Raises:
        ValueError: 'adam' with a weight decay.
    """
    name, decay = config.get("name", "adam"), config.get("weight_decay", 0.0)
    if decay and name == "adam":
        raise ValueError(
            f"optimizer.weight_decay={decay:g} has no effect with optimizer.name='adam'; use "
            "'adamw', or set it to 0"
        )
    rate = config.learning_rate
    if config.schedule == "constant":
        schedule = optax.constant_schedule(rate)
    elif config.schedule == "cosine":
        schedule = optax.cosine_decay_schedule(rate, steps, config.final_learning_rate / rate)
    else:
        schedule = optax.piecewise_constant_schedule(
            rate, {int(m): config.gamma for m in config.milestones}
        )
    if config.warmup_steps:
        warmup, after = config.warmup_steps, schedule
        schedule = lambda step: after(step) * jnp.minimum(1.0, (step + 1) / warmup)  # noqa: E731
    # Always two parts, so that a run can resume with clipping switched on or off.
    clip = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()
    b1, b2 = config.betas
    transform = optax.chain(clip, optax.scale_by_adam(b1, b2))
    return Optimizer(transform, schedule, decay, config.get("advance", "reached"))


def update_ema(
    ema: PyTree, params: PyTree, step: Int[Array, ""], *, decay: float, warmup: bool
) -> PyTree:
    """Returns decay * ema + (1 - decay) * params.

    Args:
        ema, params: trees of one structure.
        step: number of the step, counted from 0.
        decay: in [0, 1).
        warmup: whether the decay of step s is at most (1 + s) / (10 + s), so that short runs do not
            average over their random start.
    """
    if warmup:
        taken = step.astype(jnp.float32)
        decay = jnp.minimum(decay, (1 + taken) / (10 + taken))
    return jax.tree.map(lambda e, p: decay * e + (1 - decay) * p, ema, params)
