"""Table of the range of every number in a config and the choices of every name.

A run, a plan and an evaluation call `check` before they write anything. A new setting needs one
row in `RULES`. Settings without a row, such as those of your own task, pass. Recipes under
`degradation` have their ranges in `degrade.ranges`.
"""

import dataclasses
import math
import numbers
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import ml_collections

from codeformer_jax.metrics import METRICS
from codeformer_jax.nn import QUANTIZERS
from codeformer_jax.nn.precision import PRECISIONS
from codeformer_jax.nn.remat import POLICIES
from codeformer_jax.system.registry import import_plugins


def _is_number(value: Any) -> bool:
    right_type = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return right_type and math.isfinite(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _is_section(value: Any) -> bool:
    return hasattr(value, "items")


@dataclasses.dataclass(frozen=True)
class Rule:
    """One row of the table.

    Attributes:
        accepts: returns whether a value is in range.
        expected: completes the sentence 'NAME=VALUE must be ...'.
    """

    accepts: Callable[[Any], bool]
    expected: str


def number(accepts: Callable[[Any], bool], bounds: str) -> Rule:
    """Returns a rule for a finite number.

    Args:
        accepts: returns whether a number is in range.
        bounds: the range in words.
    """
    return Rule(lambda value: _is_number(value) and accepts(value), f"a number of {bounds}")


def whole(least: int, most: float | int = math.inf, *, expected: str = "") -> Rule:
    """Returns a rule for an integer.

    Args:
        least, most: inclusive bounds.
        expected: text that replaces the one made from the bounds.
    """
    bounds = f"at least {least}" + (f" and at most {most}" if most < math.inf else "")
    return Rule(
        lambda value: _is_whole(value) and least <= value <= most,
        expected or f"a whole number of {bounds}",
    )


def choice(*names: str) -> Rule:
    """Returns a rule for one of these names."""
    return Rule(lambda value: value in names, f"one of {', '.join(names)}")


def optional(rule: Rule) -> Rule:
    """Returns a rule for a value that may also be None."""
    return Rule(lambda value: value is None or rule.accepts(value), f"none, or {rule.expected}")


def several(rule: Rule, count: int | None = None) -> Rule:
    """Returns a rule for a tuple.

    Args:
        rule: rule of each value.
        count: number of values, or None for any.
    """

    def accepts(value: Any) -> bool:
        given = isinstance(value, tuple | list) and (count is None or len(value) == count)
        return given and all(rule.accepts(each) for each in value)

    length = "values" if count is None else f"{count} values"
    return Rule(accepts, f"a tuple of {length}, each {rule.expected}")


_POSITIVE, _COUNT = whole(1), whole(0)
_WEIGHT = number(lambda x: x >= 0, "at least 0")
_ABOVE_0 = number(lambda x: x > 0, "more than 0")
_SHARE = number(lambda x: 0 <= x < 1, "at least 0 and less than 1")
_FRACTION = number(lambda x: 0 < x <= 1, "more than 0 and at most 1")
_HALF = number(lambda x: 0 <= x <= 0.5, "at least 0 and at most 0.5")
_DTYPE = Rule(
    lambda name: (
        name in ("float32", "bfloat16") or (name == "float64" and jax.config.jax_enable_x64)
    ),
    "float32 or bfloat16 (not float16, in which gradients overflow), or float64 with "
    "JAX_ENABLE_X64=1",
)
_REMAT = optional(choice(*POLICIES))

RULES: dict[str, Rule] = {
    "plugins": several(Rule(lambda name: isinstance(name, str), "the name of a module")),
    "seed": whole(0, 2**32 - 1),
    "steps": whole(0, 2**31 - 1),  # 0 evaluates and saves the first state.
    "ema_decay": _SHARE,
    "codebook_init": choice("latents", "uniform"),
    "log_every": _POSITIVE,
    "eval_every": _POSITIVE,
    "checkpoint_every": _POSITIVE,
    "max_skipped": _POSITIVE,
    "peak_tflops": optional(_ABOVE_0),
    "teacher_min_psnr": _WEIGHT,
    "train.watchdog": _WEIGHT,
    "train.prng": choice("threefry2x32", "rbg"),
    "train.plan_format": choice("table", "json"),
    "model.image_size": _POSITIVE,
    "model.nf": _POSITIVE,
    "model.ch_mult": several(_POSITIVE),
    "model.res_blocks": _COUNT,
    "model.attn_resolutions": several(_POSITIVE),
    "model.codebook_size": _POSITIVE,
    "model.emb_dim": _POSITIVE,
    "model.norm_groups": _POSITIVE,
    "model.hidden": _POSITIVE,
    "model.z_channels": _POSITIVE,
    "model.quantizer": Rule(
        QUANTIZERS.__contains__,
        "nearest, gumbel, or a name that config.plugins registers",
    ),
    "model.beta": _WEIGHT,
    "model.beta_on": choice("commitment", "codebook"),
    "model.ema_decay": optional(_SHARE),
    "model.restart_below": Rule(_WEIGHT.accepts, "0 (off) or more codes per batch"),
    "model.kl_weight": _WEIGHT,
    "model.temperature": _ABOVE_0,
    "model.temperature_final": _ABOVE_0,
    "model.temperature_steps": _COUNT,
    "model.precision": choice(*PRECISIONS),
    "model.dtype": _DTYPE,
    "model.remat": _REMAT,
    "codeformer.dim_embd": _POSITIVE,
    "codeformer.n_head": _POSITIVE,
    "codeformer.n_layers": _POSITIVE,
    "codeformer.connect_list": several(_POSITIVE),
    "discriminator.ndf": _POSITIVE,
    "discriminator.n_layers": _POSITIVE,
    "discriminator.dtype": _DTYPE,
    "pixelcnn.embed_dim": _POSITIVE,
    "pixelcnn.layers": _POSITIVE,
    "pixelcnn.features": _POSITIVE,
    "pixelcnn.first_kernel": whole(3),
    "pixelcnn.kernel": whole(3),
    "pixelcnn.head_features": _POSITIVE,
    "pixelcnn.classes": _COUNT,
    "pixelcnn.dtype": _DTYPE,
    "gpt.n_layer": _POSITIVE,
    "gpt.n_head": _POSITIVE,
    "gpt.n_embd": _POSITIVE,
    "gpt.block_size": optional(_POSITIVE),
    "gpt.dropout": _SHARE,
    "gpt.condition": choice("start", "class", "codes"),
    "gpt.classes": _COUNT,
    "gpt.n_unmasked": _COUNT,
    "gpt.dtype": _DTYPE,
    "gpt.remat": _REMAT,
    "loss.pixel_weight": _WEIGHT,
    "loss.perceptual_weight": _WEIGHT,
    "loss.feature_weight": _WEIGHT,
    "loss.cross_entropy_weight": _WEIGHT,
    "loss.gan_weight": _WEIGHT,
    "loss.gan_start": _COUNT,
    "loss.adaptive_maximum": _ABOVE_0,
    "loss.statistics_groups": _POSITIVE,
    "loss.pkeep": _FRACTION,
    "optimizer.name": choice("adam", "adamw"),
    "optimizer.weight_decay": _WEIGHT,
    "optimizer.learning_rate": Rule(
        _ABOVE_0.accepts, "a finite number of more than 0; at 0 nothing is learned"
    ),
    "optimizer.betas": several(_SHARE, 2),
    "optimizer.schedule": choice("constant", "cosine", "multistep"),
    "optimizer.final_learning_rate": _WEIGHT,
    "optimizer.milestones": Rule(
        lambda steps: several(_COUNT).accepts(steps) and list(steps) == sorted(set(steps)),
        f"a tuple of rising values, each {_COUNT.expected}",
    ),
    "optimizer.gamma": _FRACTION,
    "optimizer.warmup_steps": _COUNT,
    "optimizer.clip_norm": Rule(_WEIGHT.accepts, "0 (off) or more"),
    "optimizer.advance": choice("reached", "all"),
    "optimizer.accumulate": _POSITIVE,
    "data.image_size": _POSITIVE,
    "data.batch_size": _POSITIVE,
    "data.workers": whole(0, expected="0 (threads of this process) or a number of processes"),
    "data.heldout_fraction": _SHARE,
    "data.turn": number(lambda x: 0 <= x <= 180, "at least 0 and at most 180"),
    "data.zoom": _HALF,
    "data.shift": _HALF,
    "data.max_unreadable": _COUNT,
    "data.max_megapixels": optional(_ABOVE_0),
    "data.synthetic_length": _POSITIVE,
    "data.heldout_length": _POSITIVE,
    "eval.batch_size": _POSITIVE,
    "eval.batches": _POSITIVE,
    "eval.weights": several(_WEIGHT),
    "eval.limit": optional(_POSITIVE),
    "eval.metrics": optional(several(Rule(METRICS.__contains__, "a registered metric"))),
    "schedule": several(Rule(_is_section, "a row such as {'until': 1000, 'w': 1.0, ...}")),
    "schedule[].until": _POSITIVE,
    "schedule[].w": _WEIGHT,
    "schedule[].every": whole(0, expected="0 (every step) or a number of steps"),
}


def check(config: ml_collections.ConfigDict) -> None:
    """Checks every value of a config; missing and unknown keys pass.

    Imports `config.plugins` first, since some rules ask a registry.

    Raises:
        ValueError: values are out of their range; one line for each.
    """
    import_plugins(config)
    faults = [
        f"{name}={value!r} must be {rule.expected}"
        for name, value in leaves(config)
        if (rule := RULES.get(row_of(name))) and not rule.accepts(value)
    ]
    if len(faults) > 1:
        raise ValueError(f"{len(faults)} settings are out of range:\n  " + "\n  ".join(faults))
    if faults:
        raise ValueError(faults[0])


def leaves(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields (dotted name, value) of every setting; the sections in a tuple follow the tuple."""
    for key, value in config.items():
        name = f"{prefix}{key}"
        if _is_section(value):
            yield from leaves(value, f"{name}.")
            continue
        yield name, value
        if isinstance(value, tuple | list):
            for index, each in enumerate(value):
                if _is_section(each):
                    yield from leaves(each, f"{name}[{index}].")


def row_of(name: str) -> str:
    """Returns the key in `RULES` of a name from `leaves`: 'schedule[].w' of 'schedule[2].w'."""
    return re.sub(r"\[\d+\]", "[]", name)
