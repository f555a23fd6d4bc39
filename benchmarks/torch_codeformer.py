"""CodeFormer in PyTorch, inference only: the peer that this project's speed is measured against.

Written from the paper and from the names and shapes of the network's tensors, so that a published
state dict loads strictly. Images are NCHW in [-1, 1], in channels-last memory.
"""

import torch
import torch.nn.functional as F
from torch import nn


class ResBlock(nn.Module):
    """GroupNorm, swish, conv twice, and a 1x1 convolution on the skip where the width changes."""

    def __init__(self, c_in, c_out):
        super().__init__()
        self.norm1 = nn.GroupNorm(32, c_in, eps=1e-6)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.norm2 = nn.GroupNorm(32, c_out, eps=1e-6)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.conv_out = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(self, x):
        y = self.conv1(F.silu(self.norm1(x)))
        return self.conv_out(x) + self.conv2(F.silu(self.norm2(y)))


class AttnBlock(nn.Module):
    """Single-head self-attention over the pixels of a feature map."""

    def __init__(self, c):
        super().__init__()
        self.norm = nn.GroupNorm(32, c, eps=1e-6)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(c, c, 1) for _ in range(4))

    def forward(self, x):
        y = self.norm(x)
        q, k, v = (f(y).flatten(2).mT for f in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v)
        return x + self.proj_out(y.mT.reshape(x.shape))


class Downsample(nn.Module):
    """3x3 convolution of stride 2 that pads only bottom and right."""

    def __init__(self, c):
        super().__init__()
        self.conv = nn.Conv2d(c, c, 3, stride=2)

    def forward(self, x):
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Nearest-neighbour doubling, then a 3x3 convolution."""

    def __init__(self, c):
        super().__init__()
        self.conv = nn.Conv2d(c, c, 3, padding=1)

    def forward(self, x):
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Blocks(nn.Module):
    """A flat list of blocks, whose positions are the numbers in the tensors' names."""

    def __init__(self, blocks):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)


def middle(c):
    """The three blocks at the lowest resolution."""
    return [ResBlock(c, c), AttnBlock(c), ResBlock(c, c)]


def encoder_blocks(size, nf, ch_mult, emb_dim):
    """Blocks of the encoder, and the position of the last residual block at each side."""
    blocks, taps, c = [nn.Conv2d(3, nf, 3, padding=1)], {}, nf
    for level, mult in enumerate(ch_mult):
        for _ in range(2):
            blocks.append(ResBlock(c, nf * mult))
            c = nf * mult
            taps[size] = len(blocks) - 1
            if size == 16:
                blocks.append(AttnBlock(c))
        if level + 1 < len(ch_mult):
            blocks.append(Downsample(c))
            size //= 2
    blocks += [*middle(c), nn.GroupNorm(32, c, eps=1e-6), nn.Conv2d(c, emb_dim, 3, padding=1)]
    return blocks, taps


def generator_blocks(size, nf, ch_mult, emb_dim):
    """Blocks of the generator, and the position of the first residual block at each side."""
    c = nf * ch_mult[-1]
    size //= 2 ** (len(ch_mult) - 1)
    blocks, taps = [nn.Conv2d(emb_dim, c, 3, padding=1), *middle(c)], {}
    for level, mult in reversed(list(enumerate(ch_mult))):
        for _ in range(2):
            blocks.append(ResBlock(c, nf * mult))
            c = nf * mult
            taps.setdefault(size, len(blocks) - 1)
            if size == 16:
                blocks.append(AttnBlock(c))
        if level:
            blocks.append(Upsample(c))
            size *= 2
    blocks += [nn.GroupNorm(32, c, eps=1e-6), nn.Conv2d(c, 3, 3, padding=1)]
    return blocks, taps


class TransformerLayer(nn.Module):
    """Pre-norm layer; positions are added to queries and keys, not to values."""

    def __init__(self, dim, heads):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(dim, 2 * dim), nn.Linear(2 * dim, dim)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)

    def forward(self, x, positions):
        y = self.norm1(x)
        x = x + self.self_attn(y + positions, y + positions, y, need_weights=False)[0]
        return x + self.linear2(F.gelu(self.linear1(self.norm2(x))))


class Fusion(nn.Module):
    """Controllable feature transformation: an affine change of the generator's features."""

    def __init__(self, c):
        super().__init__()
        self.encode_enc = ResBlock(2 * c, c)
        self.scale, self.shift = (
            nn.Sequential(
                nn.Conv2d(c, c, 3, padding=1), nn.LeakyReLU(0.2), nn.Conv2d(c, c, 3, padding=1)
            )
            for _ in range(2)
        )

    def forward(self, encoded, decoded, w):
        u = self.encode_enc(torch.cat([encoded, decoded], 1))
        return decoded + w * (decoded * self.scale(u) + self.shift(u))


def adain(content, style):
    """`content` with the mean and standard deviation of every channel of `style`."""

    def stats(x):
        var, mean = torch.var_mean(x, (2, 3), keepdim=True)
        return mean, (var + 1e-5).sqrt()

    (mean_c, std_c), (mean_s, std_s) = stats(content), stats(style)
    return (content - mean_c) / std_c * std_s + mean_s


class CodeFormer(nn.Module):
    """The restoration network at 512 px: 94.1 M parameters with the published defaults."""

    def __init__(
        self, size=512, nf=64, ch_mult=(1, 2, 2, 4, 4, 8), codes=1024, emb_dim=256,
        dim=512, heads=8, layers=9, connect_list=(32, 64, 128, 256),
    ):  # fmt: skip
        super().__init__()
        blocks, self.encoder_taps = encoder_blocks(size, nf, ch_mult, emb_dim)
        self.encoder = Blocks(blocks)
        blocks, self.generator_taps = generator_blocks(size, nf, ch_mult, emb_dim)
        self.generator = Blocks(blocks)
        side = size // 2 ** (len(ch_mult) - 1)
        self.quantize = nn.Module()
        self.quantize.embedding = nn.Embedding(codes, emb_dim)
        self.position_emb = nn.Parameter(torch.zeros(side * side, dim))
        self.feat_emb = nn.Linear(emb_dim, dim)
        self.ft_layers = nn.ModuleList(TransformerLayer(dim, heads) for _ in range(layers))
        self.idx_pred_layer = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, codes, bias=False))
        widths = {size >> level: nf * mult for level, mult in enumerate(ch_mult)}
        self.fuse_convs_dict = nn.ModuleDict({str(s): Fusion(widths[s]) for s in connect_list})

    def encode(self, x):
        """Latents [n, emb_dim, side, side] and the features that the fusion blocks take."""
        features = {}
        taps = {i: s for s, i in self.encoder_taps.items() if str(s) in self.fuse_convs_dict}
        for i, block in enumerate(self.encoder.blocks):
            x = block(x)
            if i in taps:
                features[taps[i]] = x
        return x, features

    def forward(self, x, w, use_adain):
        """Restored image [n, 3, size, size], logits [n, tokens, codes] and latents."""
        latents, features = self.encode(x)
        tokens = self.feat_emb(latents.flatten(2).mT)
        for layer in self.ft_layers:
            tokens = layer(tokens, self.position_emb)
        logits = self.idx_pred_layer(tokens)
        codes = self.quantize.embedding(logits.argmax(-1))
        y = codes.mT.reshape(latents.shape).contiguous(memory_format=torch.channels_last)
        if use_adain:
            y = adain(y, latents)
        taps = {self.generator_taps[s]: s for s in features}
        for i, block in enumerate(self.generator.blocks):
            y = block(y)
            if i in taps and w > 0:
                y = self.fuse_convs_dict[str(taps[i])](features[taps[i]], y, w)
        return y, logits, latents


def from_state_dict(state_dict):
    """The network with NumPy weights under PyTorch names, channels-last, ready for inference."""
    model = CodeFormer()
    model.load_state_dict({k: torch.from_numpy(v) for k, v in state_dict.items()}, strict=True)
    return model.eval().to(memory_format=torch.channels_last)
