"""The three training steps in PyTorch, around the published networks and losses.

The loop is this project's own, written from the paper and from the described behaviour of the
published training: order of the updates, adaptive weight, frozen parts, moving average. Networks
and losses are those of the checkout; see `reference.py`. Images are NCHW in [-1, 1].
"""

import contextlib
import copy
import math
from dataclasses import dataclass

import reference
import torch
from torch import nn

# Learning rate, the one it falls to, steps of the schedule, and decay of the moving average.
SCHEDULES = {
    "vqgan": (7e-5, 6e-5, 1_600_000, 0.995),
    "code_prediction": (1e-4, 1e-4, 1, 0.995),  # constant for its first 400,000 steps
    "restoration": (5e-5, 2e-5, 150_000, 0.997),
}
GAN_WEIGHTS = {"vqgan": 0.8, "restoration": 0.1}


def with_gradient(module, inputs):
    """Asks for the gradient of a norm's input, for PyTorch 2.13's channels-last kernel on CPUs.

    Where nobody asks, that kernel writes to address 0. That is so in stage III alone, for the norms
    that see what frozen networks give; the gradients are computed in vain.
    """
    (x,) = inputs
    if torch.is_grad_enabled() and not x.requires_grad:
        x = x.detach().requires_grad_()
    return (x,)


@dataclass(frozen=True)
class Mode:
    """How PyTorch runs: 'as shipped' is all defaults, the others are its means to be faster.

    Attributes:
        channels_last: memory format of weights and images.
        autocast: dtype of autocast, or None.
        compile: whether networks and losses go through `torch.compile`.
        fused: whether Adam and the moving average are fused.
        device: 'cpu' or 'cuda'.
    """

    channels_last: bool = False
    autocast: torch.dtype | None = None
    compile: bool = False
    fused: bool = False
    device: str = "cpu"

    def place(self, module_or_tensor):
        """On the device and, where it has four axes, in the memory format."""
        placed = module_or_tensor.to(self.device)
        if self.channels_last and self.device == "cpu" and isinstance(placed, nn.Module):
            for norm in (m for m in placed.modules() if isinstance(m, nn.GroupNorm)):
                norm.register_forward_pre_hook(with_gradient)
        is_images = isinstance(placed, torch.Tensor) and placed.ndim == 4
        if self.channels_last and (is_images or isinstance(placed, nn.Module)):
            return placed.to(memory_format=torch.channels_last)
        return placed

    def compiled(self, function):
        return torch.compile(function) if self.compile else function

    def precision(self):
        if self.autocast is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device, self.autocast)


class Trained:
    """A network with its optimizer, schedule and moving average."""

    def __init__(self, network, stage, mode, average=True):
        self.network, self.mode = mode.place(network), mode
        self.first, self.last, self.length, self.decay = SCHEDULES[stage]
        self.parameters = [p for p in network.parameters() if p.requires_grad]
        fused = {"fused": True} if mode.fused else {}
        self.optimizer = torch.optim.Adam(self.parameters, self.first, (0.9, 0.99), **fused)
        self.average = copy.deepcopy(network).requires_grad_(False) if average else None

    def update(self, step):
        """One step of Adam at the rate of step number `step`, then of the moving average."""
        along = (1 + math.cos(math.pi * step / self.length)) / 2
        for group in self.optimizer.param_groups:
            group["lr"] = self.last + (self.first - self.last) * along
        self.optimizer.step()
        if self.average is None:
            return
        # In place and without gradients, over all parameters, frozen ones too.
        with torch.no_grad():
            averages, weights = (
                [p.data for p in n.parameters()] for n in (self.average, self.network)
            )
            if self.mode.fused:
                torch._foreach_lerp_(averages, weights, 1 - self.decay)
                return
            for mean, weight in zip(averages, weights, strict=True):
                mean.mul_(self.decay).add_(weight, alpha=1 - self.decay)


class ImageLosses:
    """L1, LPIPS and the adaptively weighted hinge of generated images; D's own step."""

    def __init__(self, published, stage, discriminator, lpips, mode):
        self.mode, self.weight = mode, GAN_WEIGHTS[stage]
        self.l1 = published.losses.L1Loss()
        self.hinge = published.losses.GANLoss("hinge")
        perceptual = published.losses.LPIPSLoss(use_input_norm=True, range_norm=True)
        reference.set_weights(perceptual.perceptual, lpips)
        # LPIPS is not trained; without this its weights' gradients would be computed in vain.
        perceptual.requires_grad_(False)
        self.lpips = mode.compiled(mode.place(perceptual))
        self.judge = Trained(discriminator, stage, mode, average=False)
        self.discriminate = mode.compiled(self.judge.network)

    def generator(self, fake, real, last_layer):
        """(sum of the losses, metrics); gradients stay in the graph."""
        self.judge.network.requires_grad_(False)
        pixel, perceptual = self.l1(fake, real), self.lpips(fake, real)
        gan = self.hinge(self.discriminate(fake), True, is_disc=False)
        reconstruction = pixel + perceptual
        norms = [
            torch.autograd.grad(loss, last_layer, retain_graph=True)[0].norm()
            for loss in (reconstruction, gan)
        ]
        ratio = norms[0] / (norms[1] + 1e-4)
        adaptive = ratio.clamp(0.0, 1.0).detach()
        total = reconstruction + self.weight * adaptive * gan
        metrics = {"l1": pixel, "perceptual": perceptual, "gan": gan}
        return total, metrics | {"adaptive_weight": adaptive, "adaptive_ratio": ratio}

    def discriminator(self, fake, real, step):
        """D's own step on real, then generated images; its metrics."""
        self.judge.network.requires_grad_(True)
        self.judge.optimizer.zero_grad()
        metrics = {}
        for name, images, label in (("d_real", real, True), ("d_fake", fake.detach(), False)):
            with self.mode.precision():
                loss = self.hinge(self.discriminate(images), label, is_disc=True)
            loss.backward()
            metrics[name] = loss
        self.judge.update(step)
        return metrics


class VQGANStep:
    """Stage I: L1, LPIPS, adversarial and codebook loss of reconstructions."""

    def __init__(self, published, weights, size, mode):
        network = reference.set_weights(reference.make_vqgan(published), weights["vqgan"])
        judge = reference.make_discriminator(published)
        reference.set_weights(judge, weights["discriminator"])
        self.mode, self.trained = mode, Trained(network, "vqgan", mode)
        self.apply = mode.compiled(self.trained.network)
        self.losses = ImageLosses(published, "vqgan", judge, weights["lpips"], mode)

    def __call__(self, real, degraded, step):
        self.trained.optimizer.zero_grad()
        with self.mode.precision():
            fake, codebook_loss, statistics = self.apply(real)
            last_layer = self.trained.network.generator.blocks[-1].weight
            total, metrics = self.losses.generator(fake, real, last_layer)
            total = total + codebook_loss
        total.backward()
        self.trained.update(step)
        metrics |= {"codebook_loss": codebook_loss, "loss": total}
        metrics |= self.losses.discriminator(fake, real, step)
        return metrics, statistics["min_encoding_indices"].flatten()


class CodeStep:
    """What stages II and III share: the frozen teacher's codes and the losses by them."""

    def __init__(self, published, weights, size, mode, stage):
        teacher = reference.set_weights(reference.make_vqgan(published), weights["vqgan"])
        network = reference.make_codeformer(published, size)
        reference.set_weights(network, weights["codeformer"])
        if stage == "code_prediction":
            network.fuse_convs_dict.requires_grad_(False)
        self.mode, self.trained = mode, Trained(network, stage, mode)
        self.teacher = mode.place(teacher).requires_grad_(False).eval()
        self.encode = mode.compiled(self.teacher.encoder)
        self.apply = mode.compiled(self.trained.network)

    def targets(self, real):
        """Codes of clean images [n, sites] and their rows of the codebook [n, d, h, w]."""
        with torch.no_grad():
            latents = self.encode(real).to(torch.get_default_dtype())
            with torch.autocast(self.mode.device, enabled=False):
                codes = self.teacher.quantize(latents)[2]["min_encoding_indices"]
            codes = codes.view(real.shape[0], -1)
            n, d, h, w = latents.shape
            return codes, self.trained.network.quantize.get_codebook_feat(codes, [n, h, w, d])

    def code_loss(self, logits, latents, targets):
        codes, rows = targets
        feature = (latents - rows.detach()).square().mean()
        entropy = nn.functional.cross_entropy(logits.flatten(0, 1), codes.flatten())
        return feature + 0.5 * entropy, {"feature": feature, "cross_entropy": entropy}


class CodePredictionStep(CodeStep):
    """Stage II: codes of the clean image from the degraded one."""

    def __init__(self, published, weights, size, mode):
        super().__init__(published, weights, size, mode, "code_prediction")

    def __call__(self, real, degraded, step):
        self.trained.optimizer.zero_grad()
        with self.mode.precision():
            targets = self.targets(real)
            logits, latents = self.apply(degraded, code_only=True)
            total, metrics = self.code_loss(logits, latents, targets)
        total.backward()
        self.trained.update(step)
        return metrics | {"loss": total}, logits.argmax(-1).flatten()


class RestorationStep(CodeStep):
    """Stage III at w = 1: code losses and image losses, D's step."""

    def __init__(self, published, weights, size, mode):
        super().__init__(published, weights, size, mode, "restoration")
        judge = reference.make_discriminator(published)
        reference.set_weights(judge, weights["discriminator"])
        self.losses = ImageLosses(published, "restoration", judge, weights["lpips"], mode)
        fusion = self.trained.network.fuse_convs_dict
        self.last_layer = fusion[max(fusion, key=int)].shift[-1].weight

    def __call__(self, real, degraded, step):
        self.trained.optimizer.zero_grad()
        with self.mode.precision():
            targets = self.targets(real)
            fake, logits, latents = self.apply(degraded, w=1.0, detach_16=True)
            code_loss, metrics = self.code_loss(logits, latents, targets)
            image_loss, image_metrics = self.losses.generator(fake, real, self.last_layer)
            total = code_loss + image_loss
        total.backward()
        self.trained.update(step)
        metrics |= image_metrics | {"loss": total}
        return metrics | self.losses.discriminator(fake, real, step), logits.argmax(-1).flatten()


STEPS = {
    "vqgan": VQGANStep,
    "code_prediction": CodePredictionStep,
    "restoration": RestorationStep,
}
