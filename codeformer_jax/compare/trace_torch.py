"""Records what a PyTorch module computes, for `codeformer-jax compare`. One file: copy it anywhere.

It needs PyTorch, NumPy and safetensors. From a shell, with --input of one or several .npy files:

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

try:
    import numpy as np
    import torch
    from safetensors.torch import save_file
except ModuleNotFoundError as missing:
    if __name__ != "__main__":
        raise
    raise SystemExit(f"{missing}: pip install torch numpy safetensors") from None

FORMAT, VERSION = "codeformer-jax trace", 1
KEPT_VALUES = 1 << 18  # Larger maps are reduced to about this many values.
OBJECTIVE = "mean of the squares of the first output"


def digest(tensor):
    """Returns 16 hexadecimal digits: sums of bits_i w_i and bits_i w_i^2, w_i = 2 i + 1."""
    bits = tensor.detach().float().cpu().contiguous().reshape(-1).view(torch.int32)
    sums = [0, 0]
    for start in range(0, bits.numel(), 1 << 22):
        part = bits[start : start + (1 << 22)].long()
        weights = 2 * torch.arange(start, start + part.numel()) + 1
        for i in range(2):
            part = (part * weights) & 0xFFFFFFFF
            sums[i] = (sums[i] + int(part.sum())) & 0xFFFFFFFF
    return f"{sums[0]:08x}{sums[1]:08x}"


def described(tensors):
    return {
        name: {"shape": list(t.shape), "dtype": dtype_of(t), "digest": digest(t)}
        for name, t in tensors.items()
        if not str(name).endswith("num_batches_tracked")
    }


def dtype_of(tensor):
    return str(tensor.dtype).removeprefix("torch.")


def leaves(value, name):
    """Yields (name, tensor) of tensors in tuples, lists, dictionaries and objects."""
    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, (tuple, list)):
        for i, part in enumerate(value):
            yield from leaves(part, f"{name}.{i}")
    elif isinstance(value, dict) or dataclasses.is_dataclass(value):
        for key, part in (value if isinstance(value, dict) else vars(value)).items():
            yield from leaves(part, f"{name}.{key}")


class Recorder:
    """Entries of a trace, each copied before a later operation can change it in place."""

    def __init__(self, stride=None):
        self.stride, self.entries, self.arrays, self.calls = stride, [], {}, {}

    def add(self, kind, name, tensor, layer="", stride=None):
        tensor = tensor.detach()
        shape, stride = list(tensor.shape), 1 if len(tensor.shape) != 4 else stride or self.stride
        if stride is None:
            stride = 1
            while tensor.numel() > KEPT_VALUES * stride**2:
                stride *= 2
        fields = {"kind": kind, "name": name, "shape": shape, "layer": layer, "stride": stride}
        fields["dtype"] = dtype_of(tensor)
        if tensor.is_floating_point():
            wide = tensor.to(torch.promote_types(tensor.dtype, torch.float32))
            values = wide[torch.isfinite(wide)].double()
            if values.numel():
                fields.update(mean=values.mean().item(), std=values.std(correction=0).item())
                fields.update(min=values.min().item(), max=values.max().item())
            fields.update(nonfinite=wide.numel() - values.numel(), digest=digest(wide))
            tensor = wide
        elif kind == "activation":
            fields["kind"] = kind = "code"
        key = f"{kind}/{name}"
        if key not in self.arrays:  # A module may return one tensor under two names.
            kept = tensor[:, :, ::stride, ::stride] if stride > 1 else tensor
            self.entries.append(fields)
            self.arrays[key] = kept.cpu().contiguous().clone()

    def hook(self, name, gradients):
        def take(module, args, output):
            number = self.calls[name] = self.calls.get(name, -1) + 1
            label = f"{name}#{number}" if number else name
            layer = f"{type(module).__name__}({module.extra_repr()})"
            for place, tensor in leaves(output, label):
                self.add("activation", place, tensor, layer)
                if gradients and tensor.requires_grad and tensor.is_floating_point():
                    tensor.register_hook(
                        lambda g, place=place: self.add("activation_gradient", place, g)
                    )

        return take

    def save(self, path, header, example):
        made_by = {
            "framework": f"torch {torch.__version__}",
            "python": platform.python_version(),
            "device": str(example.device),
            "dtype": dtype_of(example),
            "precision": torch.get_float32_matmul_precision(),
        }
        header = {"format": FORMAT, "version": VERSION, "made_by": made_by, **header}
        save_file(self.arrays, path, {"trace": json.dumps({**header, "entries": self.entries})})


def record(module, inputs, path, *, gradients=False, stride=None, call=None):
    """Runs module(*inputs, **call) and writes every output of every submodule to `path`.

    Args:
        module: any nn.Module, in the mode (train or eval) that is to be recorded.
        inputs: tuple of tensors, or one tensor.
        path: file to write.
        gradients: also gradients of the mean square of the first output, by parameter and output.
        stride: keep every stride-th row and column of maps; by default large maps are reduced.
        call: keyword arguments.
    """
    inputs = (inputs,) if isinstance(inputs, torch.Tensor) else tuple(inputs)
    recorder, call = Recorder(stride), dict(call or {})
    header = {"inputs": described(dict(enumerate(inputs)))}
    header["weights"] = described(module.state_dict())
    handles = [
        part.register_forward_hook(recorder.hook(name or "output", gradients))
        for name, part in module.named_modules()
    ]
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
        for name, parameter in module.named_parameters():
            if parameter.grad is not None:
                recorder.add("gradient", name, parameter.grad, stride=1)
    for name, buffer in module.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            recorder.add("buffer", name, buffer)
    header["call"] = {k: v for k, v in call.items() if isinstance(v, (str, int, float, bool))}
    header |= {"network": type(module).__name__, "objective": OBJECTIVE if gradients else ""}
    recorder.save(path, header, next(iter([*module.parameters(), *inputs])))


def record_step(step, parameters, path, *, network=""):
    """Runs one training step and writes losses, gradients and the parameters after it to `path`.

    Args:
        step: function without arguments that takes the step and returns {name: loss}. It must
            leave the gradients in place: call zero_grad before, not after.
        parameters: {name: parameter} to watch.
        path: file to write.
        network: name of the network, for the converter of `codeformer-jax compare`.
    """
    recorder = Recorder(stride=1)
    header = {"network": network, "weights": described(parameters), "objective": "step"}
    for name, value in step().items():
        recorder.add("loss", name, torch.as_tensor(value, dtype=torch.float32))
    for name, parameter in parameters.items():
        if parameter.grad is not None:
            recorder.add("gradient", name, parameter.grad)
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
        weights = torch.load(args.weights, map_location="cpu", weights_only=True)
        module.load_state_dict(weights[args.key] if args.key else weights)
    dtype = getattr(torch, args.dtype)
    module = module.to(args.device, dtype).train(args.train)
    inputs = [torch.from_numpy(np.load(path)) for path in args.input]
    inputs = [x.to(args.device, dtype if x.is_floating_point() else None) for x in inputs]
    options = {"gradients": args.gradients, "stride": args.stride, "call": json.loads(args.call)}
    record(module, inputs, args.output, **options)


if __name__ == "__main__":
    main()
