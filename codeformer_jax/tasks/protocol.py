"""The protocol of a training task: everything that the other rooms ask of one, with defaults."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import flax.struct
import jax.numpy as jnp
import ml_collections
import numpy as np
from jaxtyping import Array, Float, Int, Key, UInt8

from codeformer_jax.convert import network_of
from codeformer_jax.metrics import codebook_usage, psnr
from codeformer_jax.nn.quantizer import code_perplexity, count_codes
from codeformer_jax.nn.remat import compiler_options
from codeformer_jax.system.registry import Registry
from codeformer_jax.tasks import accumulate, common, guard
from codeformer_jax.tasks.accumulate import gradient_norms, norm
from codeformer_jax.tasks.common import Images, Labels, Metrics
from codeformer_jax.tasks.state import (
    DiscriminatorState,
    Late,
    PyTree,
    TrainState,
    make_optimizer,
    update_ema,
)

TASKS: Registry[type["Task"]] = Registry("config.task")


@flax.struct.dataclass
class Evaluated:
    """Measurements of a batch of held-out images.

    Attributes:
        metrics: name -> one float32 per image, [b].
        panels: name -> images [b, h, w, 3] in [-1, 1]; a picture has its columns in the order of
            the names.
        indices: the network's codes, int32 [b, n]; None in a task without `codebook_size`.
    """

    metrics: dict[str, Any]
    panels: dict[str, Any] = flax.struct.field(default_factory=dict)
    indices: Any = None


@dataclass(frozen=True)
class BestScore:
    """The held-out score by which the best checkpoint of a run is chosen.

    Attributes:
        name: a key of `Evaluated.metrics`.
        smallest: whether the smallest value is the best one.
    """

    name: str
    smallest: bool = False

    def rank(self, scores: Mapping[str, float]) -> float:
        """Returns the score such that larger is better.

        Args:
            scores: name -> mean over the held-out images.

        Raises:
            ValueError: the scores lack this one.
        """
        if self.name not in scores:
            raise ValueError(
                f"best_score={self.name!r} is not measured by this task's eval_step, which "
                f"measures {', '.join(scores) or 'nothing'}; name one of these, or set it to None"
            )
        return -float(scores[self.name]) if self.smallest else float(scores[self.name])


class Task:
    """A training task: pure functions of arrays, made once from the config.

    A subclass is registered under the name that `config.task` gives:

        @TASKS.register("my_task")
        class MyTask(Task): ...

    It sets `module` and defines `init` and `train_step`, and `eval_step` where held-out images are
    scored. All other attributes and methods have defaults.

    Attributes:
        config: the run's config.
        optimizer: the one that `config.optimizer` describes.
        slices: number of parts that a batch is measured in, see `accumulate.measure`.
        module: the network in training.
        teacher: module of a frozen stage-I network whose codes are learned, or None. Its variables
            are `frozen['teacher']`.
        lpips: module of the perceptual loss, or None. Its variables are `frozen['lpips']`, or
            those of another net or of ST-LPIPS; see `nn.fit_lpips`.
        classes: number of classes that the network is conditioned on. More than 0 gives `labels`
            to `train_step`, `eval_step` and `sample_step`.
        classes_setting: the setting that chooses `classes`, for error messages.
        without_classes: command-line flags of a run without classes, for error messages.
        codebook_size: number of values that `Evaluated.indices` can have, or None for no codes.
        best_score: how the best checkpoint is chosen; None keeps the latest ones only.
    """

    module: Any
    teacher: Any = None
    lpips: Any = None
    classes: int = 0
    classes_setting: str = ""
    without_classes: str = ""
    codebook_size: int | None = None
    best_score: BestScore | None = None

    def __init__(self, config: ml_collections.ConfigDict):
        """Reads the settings that every task has.

        Args:
            config: the run's config; `optimizer`, `steps` and `data.batch_size` are read here.

        Raises:
            ValueError: for settings that do not fit together.
        """
        self.config = config
        self.optimizer = make_optimizer(config.optimizer, config.steps)
        self.slices = accumulate.slices_of(config)

    @property
    def needs_teacher(self) -> bool:
        """Whether a run needs a trained stage-I network."""
        return self.teacher is not None

    @property
    def needs_labels(self) -> bool:
        """Whether the steps take labels."""
        return self.classes > 0

    @property
    def network(self) -> str:
        """The name of `module` in `from_torch` and in model files."""
        return network_of(self.module)

    @property
    def trained_module(self) -> Any:
        """The module that uses the trained variables outside of training."""
        return self.module

    def compiler_options(self, platform: str) -> dict[str, str]:
        """Returns options of `jax.jit` for the step, which the module's rematerialization needs.

        Args:
            platform: `jax.Device.platform`.
        """
        return compiler_options(getattr(self.module, "remat", None), platform)

    def code_scores(self, indices: np.ndarray) -> dict[str, float]:
        """Returns scores of the codes of all held-out images.

        Args:
            indices: `Evaluated.indices` of all images, [images, n].
        """
        counts = np.bincount(indices.reshape(-1), minlength=self.codebook_size)
        usage = codebook_usage(jnp.asarray(counts, jnp.float32))
        return {"perplexity": float(usage.perplexity), "unused_codes": float(usage.dead)}

    def start_from(self, previous: PyTree, origin: ml_collections.ConfigDict | None) -> PyTree:
        """Returns what `init` takes over of the variables `previous`; all of them by default.

        Args:
            previous: variables of the network in `config.init_from`.
            origin: config of the run that trained it, or None for a model file.
        """
        del origin
        return previous

    def init(
        self, key: Key[Array, ""], images: UInt8[Array, "b h w 3"], previous: PyTree | None
    ) -> TrainState:
        """Returns the state before the first step.

        Args:
            key: key of the random parameters.
            images: the first batch.
            previous: variables to start from, or None for random ones.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no init")

    def phase(self, step: int) -> Any:
        """Returns what the schedule says about a step, a PyTree; nothing by default.

        Each combination of static fields compiles a variant of the step. Arrays do not recompile.
        """
        del step

    def train_step(
        self,
        state: TrainState,
        frozen: dict[str, PyTree],
        images: Images,
        key: Key[Array, ""],
        phase: Any,
    ) -> tuple[TrainState, Metrics]:
        """Returns the state after one step and the step's metrics, scalars.

        Args:
            state: the state before the step.
            frozen: variables of networks that are not trained: 'teacher' and 'lpips'.
            images: the batch.
            key: the step's key.
            phase: `phase(step)`.

        A task with a teacher also takes `codes` [b, n]: the teacher's codes of the images, given
        where `data.codes` holds them. A task with classes also takes `labels` [b].
        """
        raise NotImplementedError(f"{type(self).__name__} defines no train_step")

    def eval_step(
        self,
        state: TrainState,
        frozen: dict[str, PyTree],
        images: UInt8[Array, "b h w 3"],
        keys: Key[Array, "b"],
        labels: Labels | None = None,
    ) -> Evaluated:
        """Returns scores and pictures of held-out images; none by default.

        Args:
            state: the state in training; `state.variables()` has the averaged parameters.
            frozen: as in `train_step`.
            images: clean images.
            keys: one per image, the same at every evaluation.
            labels: classes of the images, in a task with classes.
        """
        return Evaluated(metrics={})

    def sample_step(
        self,
        state: TrainState,
        frozen: dict[str, PyTree],
        images: UInt8[Array, "b h w 3"],
        keys: Key[Array, "b"],
        labels: Labels | None = None,
    ) -> dict[str, Float[Array, "b h w 3"]]:
        """Returns further panels for the first held-out batch, with `eval.samples`.

        Args:
            state, frozen, images, keys, labels: as in `eval_step`.
        """
        return {}

    def reconstruct(self, teacher: PyTree, images: UInt8[Array, "b h w 3"]) -> Float[Array, "b"]:
        """Returns the PSNR in dB of the teacher's reconstructions, one per image.

        Args:
            teacher: the teacher's variables.
            images: clean images.
        """
        real = common.from_uint8(images)
        output = self.teacher.apply(teacher, real)
        return psnr(common.to_unit(output.image), common.to_unit(real))

    def advance(
        self,
        state: TrainState,
        gradients: PyTree,
        metrics: Metrics,
        *,
        codes: Int[Array, "..."] | None = None,
        discriminator: tuple[PyTree, PyTree] | None = None,
        late: Late | None = None,
        finish: Callable[[TrainState, TrainState], TrainState] = lambda before, after: after,
    ) -> tuple[TrainState, Metrics]:
        """Applies gradients; `train_step` ends with it.

        A step with a non-finite loss or gradient changes nothing (`guard.take_step`).

        Args:
            state: the state before the step.
            gradients: keyed as `state.params`, of the trained parameters that the losses reach.
                `optimizer.advance` decides about the others. Averages follow all trained ones.
            metrics: the step's metrics.
            codes: all codes of the batch, where `state.code_usage` follows a codebook.
            discriminator: its gradients and new batch statistics, in steps that train it.
            late: see `Optimizer.apply`.
            finish: (state before, state after) -> state after, with further changes of the task.

        Returns:
            The state after the step, and the metrics with norms of gradients, learning rates and
            statistics of the codes.
        """
        rate = self.optimizer.learning_rate(state.step)
        metrics = metrics | gradient_norms(gradients) | {"learning_rate": rate}
        usage = state.code_usage
        if codes is not None:
            counts = count_codes(codes, usage.shape[0])
            usage = common.update_usage(usage, counts)
            dead = common.dead_codes(usage)
            metrics |= {"perplexity": code_perplexity(counts), "dead_codes": dead}
        if discriminator is not None:
            metrics["grad_norm_discriminator"] = norm(discriminator[0])
            metrics["d_learning_rate"] = rate

        def update(before: TrainState) -> TrainState:
            after = self._update_network(before, gradients, late).replace(code_usage=usage)
            if discriminator is not None:
                after = self._update_discriminator(after, before.step, *discriminator)
            return finish(before, after)

        return guard.take_step(state, metrics, update)

    def _update_network(
        self, state: TrainState, gradients: PyTree, late: Late | None
    ) -> TrainState:
        trained = {name: state.params[name] for name in state.ema_params}
        trained, opt_state = self.optimizer.apply(
            gradients, state.opt_state, trained, state.step, late=late
        )
        ema = update_ema(
            state.ema_params,
            trained,
            state.step,
            decay=self.config.ema_decay,
            warmup=self.config.ema_warmup,
        )
        params = {**state.params, **trained}
        return state.replace(params=params, ema_params=ema, opt_state=opt_state)

    def _update_discriminator(
        self, state: TrainState, step: Int[Array, ""], gradients: PyTree, batch_stats: PyTree
    ) -> TrainState:
        judge = state.discriminator
        params, opt_state = self.optimizer.apply(gradients, judge.opt_state, judge.params, step)
        return state.replace(discriminator=DiscriminatorState(params, opt_state, batch_stats))
