"""Compares single training steps with PyTorch's.

Before each step our state is set to PyTorch's: weights of both networks, Adam's moments and counts,
the moving average and BatchNorm's statistics, converted by the package's own names and layouts.
`codeformer_jax.compare` compares the losses, the gradients that Adam was given and the parameters
after the step. The same is measured of PyTorch on one thread, from the same state.
"""

import os
from dataclasses import dataclass

import numpy as np
import seeded_steps


@dataclass(frozen=True)
class Snapshot:
    """A network of PyTorch's and what its optimizer keeps, as {PyTorch name: array}.

    Attributes:
        weights: parameters, trained or not, and buffers.
        means: Adam's first moments, of the trained parameters alone, as the next.
        squares: its second moments.
        average: moving average of the parameters; None where there is none.
        count: steps of Adam so far.
    """

    weights: dict
    means: dict
    squares: dict
    average: dict | None
    count: int


def parts(step, network):
    """{network: its `torch_steps.Trained`} of a step of PyTorch's."""
    found = {network: step.trained}
    if hasattr(step, "losses"):
        found["discriminator"] = step.losses.judge
    return found


def copies(tensors):
    return {name: tensor.detach().numpy().copy() for name, tensor in tensors.items()}


def moment(trained, key):
    """Adam's moment `key` of each trained parameter; zeros before the first step."""
    import torch  # noqa: PLC0415

    state = trained.optimizer.state
    return copies(
        {n: state[p][key] if p in state else torch.zeros_like(p) for n, p in named(trained)}
    )


def named(trained):
    """(name, parameter) of what the optimizer trains, whatever requires a gradient at present."""
    theirs = {id(p) for p in trained.parameters}
    return [(n, p) for n, p in trained.network.named_parameters() if id(p) in theirs]


def take_snapshot(trained):
    state, average = trained.optimizer.state, trained.average
    counts = {int(state[p]["step"]) if p in state else 0 for p in trained.parameters}
    (count,) = counts
    return Snapshot(
        weights=copies(trained.network.state_dict()),
        means=moment(trained, "exp_avg"),
        squares=moment(trained, "exp_avg_sq"),
        average=None if average is None else copies(average.state_dict()),
        count=count,
    )


def restore(trained, snapshot):
    """Puts everything back as it was."""
    import torch  # noqa: PLC0415

    def load(network, arrays):
        network.load_state_dict({name: torch.from_numpy(a) for name, a in arrays.items()})

    load(trained.network, snapshot.weights)
    if trained.average is not None:
        load(trained.average, snapshot.average)
    trained.optimizer.state.clear()
    for name, parameter in named(trained) if snapshot.count else ():
        trained.optimizer.state[parameter] = {
            "step": torch.tensor(float(snapshot.count)),
            "exp_avg": torch.tensor(snapshot.means[name]),
            "exp_avg_sq": torch.tensor(snapshot.squares[name]),
        }


class Converter:
    """PyTorch's tables of one network as Linen parameters, and back."""

    def __init__(self, network, module):
        from codeformer_jax.convert import networks  # noqa: PLC0415

        self.network, self.torch_name = network, networks.lookup(network).torch_name
        # Once, and not in every conversion: it traces the whole network.
        self.expected = networks.expected_variables(network, module)

    def variables(self, table):
        """Arrays of JAX's own, which a step may overwrite."""
        import jax  # noqa: PLC0415
        import jax.numpy as jnp  # noqa: PLC0415

        from codeformer_jax.convert import names  # noqa: PLC0415

        variables = names.load_table(table, self.expected, self.network, self.torch_name)
        return jax.tree.map(jnp.array, variables)

    def optimizer(self, opt_state, snapshot, chosen):
        """The optimizer's state of the parameters whose top-level names are `chosen`."""
        import jax.numpy as jnp  # noqa: PLC0415

        clip, adam = opt_state

        def convert(moments):
            missing = {n: np.zeros_like(w) for n, w in snapshot.weights.items() if n not in moments}
            params = self.variables(moments | missing)["params"]
            return {name: params[name] for name in chosen}

        return clip, adam._replace(
            count=jnp.full_like(adam.count, snapshot.count),
            mu=convert(snapshot.means),
            nu=convert(snapshot.squares),
        )


def put(state, snapshots, converters):
    """Our state with PyTorch's in place of everything that PyTorch keeps, too."""
    (network, snapshot), *others = snapshots.items()
    convert = converters[network]
    state = state.replace(
        params=convert.variables(snapshot.weights)["params"],
        ema_params={
            name: value
            for name, value in convert.variables(snapshot.average)["params"].items()
            if name in state.ema_params
        },
        opt_state=convert.optimizer(state.opt_state, snapshot, state.ema_params),
    )
    for network, snapshot in others:
        convert, judge = converters[network], state.discriminator
        variables = convert.variables(snapshot.weights)
        judge = judge.replace(
            params=variables["params"],
            batch_stats=variables["batch_stats"],
            opt_state=convert.optimizer(judge.opt_state, snapshot, judge.params),
        )
        state = state.replace(discriminator=judge)
    return state


def torch_trace(losses, found, before):
    """Trace of a step of PyTorch's, with the gradients that Adam was given."""
    from codeformer_jax.compare import Entry, Trace  # noqa: PLC0415

    entries = [Entry.whole("loss", name, np.float32(value)) for name, value in losses.items()]
    for i, (network, trained) in enumerate(found.items()):
        prefix = f"{network}." if i else ""
        for name, parameter in named(trained):
            if name in before[network].means and parameter.grad is not None:
                entries.append(Entry.whole("gradient", prefix + name, parameter.grad.numpy()))
                array = parameter.detach().numpy().copy()
                entries.append(Entry.whole("parameter", prefix + name, array))
    return Trace(tuple(entries), {"framework": "torch"})


def apart(ours, theirs, before, after):
    """Distance of another's step from PyTorch's, by network.

    Returns:
        {network: {"gradient": |g - PyTorch's| / |PyTorch's|, "update": |weights - PyTorch's| /
        |PyTorch's update|}}.
    """
    from codeformer_jax.compare import compare  # noqa: PLC0415

    comparison = compare(ours, theirs, suspects=False)
    alone = comparison.only_a + comparison.only_b
    odd = [name for name in alone if name.startswith(("gradient: ", "parameter: "))]
    if odd:
        raise ValueError(f"trained on one side alone: {', '.join(odd[:10])}")
    distances = {}
    for row in comparison.rows:
        network = "discriminator" if row.name.startswith("discriminator.") else next(iter(before))
        found = distances.setdefault(network, {"gradient": [], "parameter": [], "scale": []})
        if row.kind in found:
            found[row.kind].append(row.distance)
        if row.kind == "gradient":
            found["scale"].append(row.norm)
    moved = {
        network: np.linalg.norm(
            [
                np.linalg.norm(after[network].weights[name] - before[network].weights[name])
                for name in before[network].means
            ]
        )
        for network in before
    }
    return {
        network: {
            "update": float(np.linalg.norm(found["parameter"]) / moved[network]),
            "gradient": float(np.linalg.norm(found["gradient"]) / np.linalg.norm(found["scale"])),
        }
        for network, found in distances.items()
    }


def make_torch(arguments, weights):
    """(the step, run): run(threads, images, step) -> losses, codes and targets."""
    import reference  # noqa: PLC0415
    import torch  # noqa: PLC0415
    import torch_steps  # noqa: PLC0415

    dtype = getattr(torch, arguments.dtype)
    torch.set_default_dtype(dtype)
    # The published networks cast with it whatever the default is.
    torch.Tensor.float = getattr(torch.Tensor, "double" if dtype == torch.float64 else "float")
    published = reference.load(arguments.reference)
    take = torch_steps.STEPS[arguments.stage](
        published, weights, arguments.size, torch_steps.Mode()
    )

    def run(threads, images, step):
        torch.set_num_threads(threads)
        nchw = [torch.from_numpy(x).to(dtype).permute(0, 3, 1, 2).contiguous() for x in images]
        targets = take.targets(nchw[0])[0].flatten().tolist() if hasattr(take, "targets") else []
        metrics, codes = take(*nchw, step)
        losses = {name: float(value.detach()) for name, value in metrics.items()}
        return {"losses": losses, "codes": codes.tolist(), "targets": targets}

    return take, run


def make_jax(arguments, weights, observer, recorded=False):
    """(state, converters, run): run(state, images) -> the next state and what `observer` saw.

    With `recorded`, run also returns the trace of the step.
    """
    import jax  # noqa: PLC0415

    if arguments.dtype == "float64":
        seeded_steps.use_double_precision()
    config = seeded_steps.stage_config(
        arguments.stage, arguments.size, arguments.batch, arguments.dtype
    )
    task, state, frozen = seeded_steps.start(arguments.stage, weights, config)
    observe = jax.jit(observer(task))
    converters = {task.network: Converter(task.network, task.module)}
    if state.discriminator is not None:
        judge = task.image_losses.discriminator
        converters["discriminator"] = Converter("discriminator", judge)
    if recorded:
        from codeformer_jax.train.recorded_step import step_recorder  # noqa: PLC0415

        take = step_recorder(task)
    else:
        take = seeded_steps.make_step(task)

    def run(state, images):
        images = [x.astype(arguments.dtype) for x in images]
        seen = {k: np.asarray(v) for k, v in observe(state, frozen, *images).items()}
        state, metrics, *trace = take(state, frozen, *images)
        losses = {name: float(value) for name, value in metrics.items()}
        seen = {"losses": losses} | {k: v.flatten().tolist() for k, v in seen.items()}
        return (state, seen, *trace)

    return state, converters, run


def curves(folder, arguments, batches, observer):
    """Both programs' steps, PyTorch's on one thread, and how far each lies from PyTorch's.

    Returns:
        {"torch", "torch_again", "jax": one entry per step, "apart", "apart_again": likewise}.
    """
    weights = seeded_steps.read_weights(folder / "weights.npz")
    take, run_torch = make_torch(arguments, weights)
    state, converters, run_jax = make_jax(arguments, weights, observer, recorded=True)
    network = next(iter(converters))
    del weights
    found = parts(take, network)
    before = {name: take_snapshot(trained) for name, trained in found.items()}
    course = {name: [] for name in ("torch", "torch_again", "jax", "apart", "apart_again")}
    for step, images in enumerate(batches(folder, arguments.batch)):
        state = put(state, before, converters)
        state, seen, ours = run_jax(state, images)
        course["jax"].append(seen)
        course["torch"].append(run_torch(len(os.sched_getaffinity(0)), images, step))
        after = {name: take_snapshot(trained) for name, trained in found.items()}
        theirs = torch_trace(course["torch"][-1]["losses"], found, before)
        course["apart"].append(apart(ours, theirs, before, after))
        for name, trained in found.items():
            restore(trained, before[name])
        course["torch_again"].append(run_torch(1, images, step))
        again = torch_trace(course["torch_again"][-1]["losses"], found, before)
        course["apart_again"].append(apart(again, theirs, before, after))
        for name, trained in found.items():
            restore(trained, after[name])
        before = after
    return course
