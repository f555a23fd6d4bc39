"""Start and end of train.py, eval.py and the codeformer-jax command."""

import contextlib
import functools
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

# Implies --xla_gpu_exclude_nondeterministic_ops, and switches off the choice of kernels by timing.
DETERMINISTIC = "--xla_gpu_deterministic_ops=true"
_CLIENTS = ("gcsfs", "aiohttp", "botocore", "google")  # Of buckets. Their errors share no base.


def use_deterministic_programs() -> None:
    """Makes XLA compile GPU programs that repeat bit for bit. Call it before JAX starts.

    It excludes kernels that add in the order in which threads arrive, and kernels chosen by timing.
    Other platforms repeat anyway. A value that XLA_FLAGS has already is kept.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if DETERMINISTIC.partition("=")[0] not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {DETERMINISTIC}".strip()


def run(
    main: Callable[[list[str]], None], define_flags: Callable[[list[str]], None] | None = None
) -> None:
    """Runs a script's `main` with absl's flags parsed.

    ValueError and OSError end the process with one line and exit code 1, Ctrl-C with 130.

    Args:
        main: called with the script's name and the arguments that are not flags.
        define_flags: called with the command line before it is parsed, to define flags that depend
            on it.
    """
    from absl import app  # noqa: PLC0415  codeformer-jax does not need it.

    try:
        app.run(main, flags_parser=functools.partial(_parse_flags, define_flags))
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {no_bucket(error) or error}") from error
    except Exception as error:
        if reason := no_bucket(error) or no_devices(error):
            raise SystemExit(f"error: {reason}") from error
        raise


def no_bucket(error: BaseException) -> str | None:
    """Returns the message of an error of a bucket's client, or None for any other error."""
    if type(error).__module__.partition(".")[0] not in _CLIENTS:
        return None
    # The text may be the server's HTML page.
    reason = getattr(error, "code", None) or error
    return f"a bucket cannot be used: {type(error).__name__} {reason}"


def no_devices(error: BaseException) -> str | None:
    """Returns what to do if JAX found no devices, or None if `error` means something else.

    JAX looks for devices when they are first needed, anywhere in a command. It raises RuntimeError
    or, if JAX_PLATFORMS asks for CUDA and there is no GPU, an AssertionError without text.
    """
    detail = ""
    if isinstance(error, RuntimeError):
        if not str(error).startswith("Unable to initialize backend"):
            return None
        detail = f": {error}".partition(" (set JAX_PLATFORMS")[0].rstrip(".")
    elif not isinstance(error, AssertionError) or _jax_starts():
        return None
    if platforms := os.environ.get("JAX_PLATFORMS"):
        return (
            f"JAX_PLATFORMS={platforms}: JAX cannot compute on such a device here{detail}. Unset "
            "JAX_PLATFORMS to take what there is, or install JAX for that device, such as "
            "pip install 'jax[cuda12]' or 'jax[tpu]'"
        )
    return (
        f"JAX cannot start on the devices of this machine{detail}. Free them, or compute without "
        "them: JAX_PLATFORMS=cpu"
    )


def _jax_starts() -> bool:
    """Returns False where JAX is imported and cannot start."""
    if jax := sys.modules.get("jax"):
        try:
            jax.devices()
        except AssertionError:
            return False
    return True


def peek_flags(argv: list[str], *names: str) -> Any:
    """Reads some text flags before the others are defined.

    Args:
        argv: the command line.
        names: the flags to read.

    Returns:
        An object with an attribute per name; None where the flag is missing or malformed.
    """
    from absl import flags  # noqa: PLC0415  codeformer-jax does not need it.

    values = flags.FlagValues()
    for name in names:
        flags.DEFINE_string(name, None, "", flag_values=values)
    with contextlib.suppress(flags.Error):  # Reported when all flags are parsed.
        values(argv, known_only=True)
    values.mark_as_parsed()
    return values


def _parse_flags(define_flags: Callable[[list[str]], None] | None, argv: list[str]) -> list[str]:
    """Parses absl's flags; an unknown config value ends the process with one line."""
    from absl import app  # noqa: PLC0415  codeformer-jax does not need it.

    try:
        if define_flags is not None:
            define_flags(argv)
        return app.parse_flags_with_usage(argv)
    # A config is locked: a value or section that it does not have raises one of these.
    except (AttributeError, KeyError, TypeError) as error:
        if any(frame.name == "get_config" for frame in traceback.extract_tb(error.__traceback__)):
            raise  # A bug in the config file.
        reason = str(error).replace("\\n", " ")
        if isinstance(error, TypeError):
            reason = "only a section has further names; check the dots"
        raise SystemExit(f"error: the config has no such value: {reason}") from error
