"""The Vision Transformer of DINOv2; parameters are named as upstream, so that weights go both ways."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.config import Architecture

SIZES = {  # dim, depth, heads
    "vit_nano": (192, 6, 3),
    "vit_tiny": (192, 12, 3),
    "vit_small": (384, 12, 6),
    "vit_base": (768, 12, 12),
    "vit_large": (1024, 24, 16),
    "vit_giant2": (1536, 40, 24),
}


class Features(NamedTuple):
    """Normalised output tokens of a batch."""

    cls_token: Tensor  # [B, D]
    register_tokens: Tensor  # [B, R, D]
    patch_tokens: Tensor  # [B, N, D], row by row from the top left


class VisionTransformer(nn.Module):
    """Images in, :class:`Features` out.

    Args:
        architecture: size, patch, grid, registers, feed-forward, layer scale, stochastic depth.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.dim, depth, num_heads = SIZES[architecture.arch]
        self.grid = architecture.image_size // architecture.patch_size
        self.patch_embed = PatchEmbed(architecture.patch_size, self.dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, self.dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.grid**2, self.dim))
        registers = architecture.num_register_tokens
        self.register_tokens = nn.Parameter(torch.zeros(1, registers, self.dim)) if registers else None
        self.mask_token = nn.Parameter(torch.zeros(1, self.dim))
        self.blocks = nn.ModuleList(Block(architecture, self.dim, num_heads) for _ in range(depth))
        self.norm = nn.LayerNorm(self.dim, eps=1e-6)
        self._init_weights()

    def forward(self, images: Tensor, masks: Tensor | None = None) -> Features:
        """Encode a batch.

        Args:
            images: [B, 3, H, W], normalised; H and W are multiples of the patch size.
            masks: [B, N] bool; True replaces the patch by the mask token.
        """
        x = self._tokens(images, masks)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        first_patch = 1 + self.architecture.num_register_tokens
        return Features(x[:, 0], x[:, 1:first_patch], x[:, first_patch:])

    def _tokens(self, images: Tensor, masks: Tensor | None) -> Tensor:
        patch = self.architecture.patch_size
        rows, columns = images.shape[-2] // patch, images.shape[-1] // patch
        x = self.patch_embed(images)
        if masks is not None:
            x = torch.where(masks.unsqueeze(-1), self.mask_token.to(x.dtype), x)
        x = torch.cat((self.cls_token.expand(len(x), -1, -1), x), dim=1) + self.positions(rows, columns)
        if self.register_tokens is not None:  # registers have no position (Darcet et al., 2024)
            x = torch.cat((x[:, :1], self.register_tokens.expand(len(x), -1, -1), x[:, 1:]), dim=1)
        return x

    def positions(self, rows: int, columns: int) -> Tensor:
        """Position embedding [1, 1 + rows * columns, D], interpolated (bicubic) where the grid differs.

        Without registers upstream passes a scale factor with 0.1 patch added, which shifts the samples slightly;
        with registers it passes the size and antialiases. Released weights expect exactly that.
        """
        if rows == columns == self.grid:
            return self.pos_embed
        image = self.pos_embed[:, 1:].float().reshape(1, self.grid, self.grid, -1).permute(0, 3, 1, 2)
        if self.register_tokens is None:
            factors = ((rows + 0.1) / self.grid, (columns + 0.1) / self.grid)
            image = F.interpolate(image, scale_factor=factors, mode="bicubic")
        else:
            image = F.interpolate(image, size=(rows, columns), mode="bicubic", antialias=True)
        assert image.shape[-2:] == (rows, columns)
        return torch.cat((self.pos_embed[:, :1], image.flatten(2).transpose(1, 2).to(self.pos_embed.dtype)), dim=1)

    def _init_weights(self) -> None:
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.normal_(self.cls_token, std=1e-6)
        if self.register_tokens is not None:
            nn.init.normal_(self.register_tokens, std=1e-6)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)


class PatchEmbed(nn.Module):
    """Non-overlapping patches to tokens."""

    def __init__(self, patch_size: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] to [B, N, D]."""
        return self.proj(images).flatten(2).transpose(1, 2)


class Block(nn.Module):
    """Attention and feed-forward, each normalised first, scaled, and skipped by part of the batch in training."""

    def __init__(self, architecture: Architecture, dim: int, num_heads: int) -> None:
        super().__init__()
        self.drop_path = architecture.drop_path
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, num_heads)
        self.ls1 = LayerScale(dim, architecture.layer_scale)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = FEED_FORWARD[architecture.ffn](dim)
        self.ls2 = LayerScale(dim, architecture.layer_scale)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, D] to [B, T, D]."""
        x = self._residual(x, self.norm1, self.attn, self.ls1)
        return self._residual(x, self.norm2, self.mlp, self.ls2)

    def _residual(self, x: Tensor, *branch: nn.Module) -> Tensor:
        kept = max(int(len(x) * (1 - self.drop_path)), 1)
        if not self.training or kept == len(x):
            return x + _chain(x, branch)
        # Only the kept samples are computed; their branch is scaled so that its expectation stays (DINOv2, 4)
        chosen = torch.randperm(len(x), device=x.device)[:kept]
        update = _chain(x[chosen], branch)
        return x.index_add(0, chosen, update.to(x.dtype), alpha=len(x) / kept)


def _chain(x: Tensor, modules: tuple[nn.Module, ...]) -> Tensor:
    for module in modules:
        x = module(x)
    return x


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, D] to [B, T, D]."""
        batch, tokens, dim = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, dim // self.num_heads)
        x = attend(*qkv.permute(2, 0, 3, 1, 4))
        return self.proj(x.transpose(1, 2).reshape(batch, tokens, dim))


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Scaled dot-product attention over [B, heads, T, D / heads]."""
    if q.device.type == "cpu" and q.dtype == torch.bfloat16:
        # Two matrix products with AMX are 4 times as fast as the backward pass of torch's fused CPU kernel in bf16
        weights = (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).float().softmax(-1)
        return weights.to(v.dtype) @ v
    return F.scaled_dot_product_attention(q, k, v)


class Mlp(nn.Module):
    """Two layers with GELU, four times as wide inside."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] to [..., D]."""
        return self.fc2(F.gelu(self.fc1(x)))


class SwiGLU(nn.Module):
    """Gated feed-forward (Shazeer, 2020) with as many weights as :class:`Mlp`, in multiples of 8."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        hidden = (int(4 * dim * 2 / 3) + 7) // 8 * 8
        self.w12 = nn.Linear(dim, 2 * hidden)
        self.w3 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] to [..., D]."""
        gate, value = self.w12(x).chunk(2, dim=-1)
        return self.w3(F.silu(gate) * value)


FEED_FORWARD: dict[str, type[Mlp] | type[SwiGLU]] = {"mlp": Mlp, "swiglu": SwiGLU}


class LayerScale(nn.Module):
    """A learned factor a channel (Touvron et al., 2021)."""

    def __init__(self, dim: int, initial: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), initial))

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] to [..., D]."""
        return x * self.gamma
