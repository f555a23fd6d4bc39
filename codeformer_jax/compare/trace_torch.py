"""Records what a PyTorch module computes, for `codeformer-jax compare`. One file: copy it anywhere.

It needs PyTorch, NumPy and safetensors. From a shell:

    python trace_torch.py --module pkg.mod:Class --kwargs '{"width": 64}' \\
        --weights w.pth --input x.npy -o b.trace [--call '{"w": 1}'] [--gradients] [--device cuda]

From a program:

    from trace_torch import record, record_step
    record(module, (images,), "b.trace")
    record_step(take_one_step, dict(model.named_parameters()), "step.trace")
"""

import argparse
import dataclasses
import importlib
import json
import platform
from functools import partial

try:
    import numpy as np
    import torch
    from safetensors.torch import save_file
except ModuleNotFoundError as missing:
    text = f"{missing}; pip install torch numpy safetensors"
    raise (SystemExit(text) if __name__ == "__main__" else missing) from None

FORMAT, VERSION = "codeformer-jax trace", 1
KEPT_VALUES = 1 << 18  # Larger maps are reduced to about this many values.
OBJECTIVE = "mean of the squares of the first output"


def digest(tensor):
    """Returns 16 hexadecimal digits: sums of bits_i w_i and bits_i w_i^2, w_i = 2 i + 1."""
    bits = tensor.detach().float().contiguous().reshape(-1).view(torch.int32)
    first = second = 0
    for start in range(0, bits.numel(), 1 << 22):  # Products of 32-bit integers wrap around.
        part = bits[start : start + (1 << 22)]
        index = torch.arange(start, start + part.numel(), device=part.device)
        weights = (2 * index + 1).to(torch.int32)
        first += int((part * weights).sum(dtype=torch.int64))
        second += int((part * weights * weights).sum(dtype=torch.int64))
    return f"{first & 0xFFFFFFFF:08x}{second & 0xFFFFFFFF:08x}"


def described(tensors):
    return {
        name: {"shape": list(t.shape), "dtype": str(t.dtype)[6:], "digest": digest(t)}
        for name, t in tensors.items()
    }


def leaves(value, name):
    """Yields (name, tensor) of tensors in tuples, lists, dictionaries and objects."""
    if isinstance(value, torch.Tensor):
        yield name, value
    if dataclasses.is_dataclass(value):
        value = vars(value)
    if isinstance(value, (tuple, list)):
        value = dict(enumerate(value))
    for key, part in value.items() if isinstance(value, dict) else ():
        yield from leaves(part, f"{name}.{key}")


class Recorder:
    """Entries of a trace, each copied before a later operation can change it in place."""

    def __init__(self, stride=None):
        self.stride, self.entries, self.arrays, self.calls = stride, [], {}, {}

    def add(self, kind, name, tensor, layer="", stride=None):
        tensor = tensor.detach()
        stride = (stride or self.stride) if tensor.dim() == 4 else 1
        if stride is None:
            stride = next(2**i for i in range(20) if tensor.numel() <= KEPT_VALUES * 4**i)
        known = {"shape": list(tensor.shape), "stride": stride, "dtype": str(tensor.dtype)[6:]}
        if tensor.is_floating_point():
            tensor = tensor.to(torch.promote_types(tensor.dtype, torch.float32))
            finite = torch.isfinite(tensor)
            values = tensor if finite.all() else tensor[finite]
            if values.numel():
                numbers = (*torch.std_mean(values, correction=0), values.min(), values.max())
                known |= zip(("std", "mean", "min", "max"), map(float, numbers), strict=True)
            known |= {"nonfinite": tensor.numel() - values.numel(), "digest": digest(tensor)}
        elif kind == "activation":
            kind = "code"
        if f"{kind}/{name}" not in self.arrays:  # A module may return one tensor under two names.
            self.entries.append({"kind": kind, "name": name, "layer": layer, **known})
            kept = tensor[:, :, ::stride, ::stride] if stride > 1 else tensor
            self.arrays[f"{kind}/{name}"] = kept.cpu().contiguous().clone()

    def hook(self, name, gradients):
        def take(module, args, output):
            number = self.calls[name] = self.calls.get(name, -1) + 1
            label = f"{name}#{number}" if number else name
            layer = f"{type(module).__name__}({module.extra_repr()})"
            for place, tensor in leaves(output, label):
                self.add("activation", place, tensor, layer)
                if gradients and tensor.requires_grad:
                    tensor.register_hook(partial(self.add, "activation_gradient", place))

        return take

    def add_gradients(self, parameters):
        for name, parameter in parameters:
            if parameter.grad is not None:
                self.add("gradient", name, parameter.grad, stride=1)

    def save(self, path, header, example):
        made_by = {"framework": f"torch {torch.__version__}", "python": platform.python_version()}
        made_by |= {"device": str(example.device), "dtype": str(example.dtype)[6:]}
        made_by["precision"] = torch.get_float32_matmul_precision()
        header |= {"format": FORMAT, "version": VERSION, "made_by": made_by}
        save_file(self.arrays, path, {"trace": json.dumps({**header, "entries": self.entries})})


def record(module, inputs, path, *, gradients=False, stride=None, call=None):
    """Runs module(*inputs, **call) and writes what each submodule returns to `path`.

    `inputs` is a tensor or a tuple of them, `call` keyword arguments. The module keeps its mode,
    train or eval. `gradients` also records the gradients of the mean square of the first output,
    by parameter and by layer. `stride` keeps every stride-th row and column of maps.
    """
    inputs = (inputs,) if isinstance(inputs, torch.Tensor) else tuple(inputs)
    recorder, call = Recorder(stride), dict(call or {})
    header = {"inputs": described(dict(enumerate(inputs)))}
    header |= {"weights": described(module.state_dict()), "network": type(module).__name__}
    hooks = {name or "output": part for name, part in module.named_modules()}
    handles = [p.register_forward_hook(recorder.hook(n, gradients)) for n, p in hooks.items()]
    try:
        with torch.set_grad_enabled(gradients):
            output = module(*inputs, **call)
    finally:
        for handle in handles:
            handle.remove()
    if gradients:
        first = next(t for _, t in leaves(output, "") if t.is_floating_point())
        loss = first.to(torch.promote_types(first.dtype, torch.float32)).square().mean()
        recorder.add("loss", "objective", loss)
        module.zero_grad(set_to_none=True)
        loss.backward()
        recorder.add_gradients(module.named_parameters())
    for name, buffer in module.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            recorder.add("buffer", name, buffer)
    header["call"] = {k: v for k, v in call.items() if isinstance(v, (str, int, float, bool))}
    header["objective"] = OBJECTIVE if gradients else ""
    recorder.save(path, header, next(iter([*module.parameters(), *inputs])))


def record_step(step, parameters, path):
    """Runs one training step and writes losses, gradients and the parameters after it to `path`.

    `step` takes no arguments and returns {name: loss}. It must leave the gradients in place: call
    zero_grad before it, not after. `parameters` is {name: parameter}.
    """
    recorder = Recorder(stride=1)
    header = {"weights": described(parameters), "objective": "step"}
    for name, value in step().items():
        recorder.add("loss", name, torch.as_tensor(value, dtype=torch.float32))
    recorder.add_gradients(parameters.items())
    for name, parameter in parameters.items():
        recorder.add("parameter", name, parameter)
    recorder.save(path, header, next(iter(parameters.values())))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--module", required=True, metavar="PKG.MOD:CLASS")
    add("--kwargs", default="{}", metavar="JSON", help="arguments of the class")
    add("--weights", metavar="PTH", help="state dict; default: the initial weights")
    add("--key", help="entry of the file that holds the state dict")
    add("--input", required=True, nargs="+", metavar="NPY", help="images as [b, c, h, w]")
    add("--call", default="{}", metavar="JSON", help="keyword arguments of the forward pass")
    add("-o", "--output", required=True, metavar="TRACE", help="file to write")
    add("--gradients", action="store_true", help="also take gradients")
    add("--train", action="store_true", help="record in training mode")
    add("--stride", type=int, metavar="N", help="keep every n-th row and column of maps")
    add("--device", default="cpu")
    add("--dtype", default="float32", help="dtype of module and inputs")
    args = parser.parse_args()
    package, _, name = args.module.partition(":")
    module = getattr(importlib.import_module(package), name)(**json.loads(args.kwargs))
    if args.weights:
        weights = torch.load(args.weights, "cpu", weights_only=True)
        module.load_state_dict(weights[args.key] if args.key else weights)
    dtype = getattr(torch, args.dtype)
    module = module.to(args.device, dtype).train(args.train)
    inputs = [torch.from_numpy(np.load(path)) for path in args.input]
    inputs = [x.to(args.device, dtype if x.is_floating_point() else None) for x in inputs]
    options = {"stride": args.stride, "call": json.loads(args.call)}
    record(module, inputs, args.output, gradients=args.gradients, **options)


if __name__ == "__main__":
    main()
