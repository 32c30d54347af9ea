"""The Vision Transformer of DINOv2; parameters are named as upstream, so that weights go both ways."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.config import Architecture
from training.models.attention import attend
from training.models.fused import Fused, by_group
from training.models.layers import activated_linear, norm_linear, scaled
from training.models.packing import Groups, Subset, num_kept, pack, put, take

SIZES = {  # dim, depth, heads
    "vit_pico": (128, 4, 2),
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
        self.patch_embed = PatchEmbed(architecture.in_channels, architecture.patch_size, self.dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, self.dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.grid**2, self.dim))
        registers = architecture.num_register_tokens
        self.first_patch = 1 + registers
        self.register_tokens = nn.Parameter(torch.zeros(1, registers, self.dim)) if registers else None
        self.mask_token = nn.Parameter(torch.zeros(1, self.dim))
        self.blocks = nn.ModuleList(Block(architecture, self.dim, num_heads) for _ in range(depth))
        self.norm = nn.LayerNorm(self.dim, eps=1e-6)
        self._init_weights()

    def forward(self, images: Tensor, masks: Tensor | None = None) -> Features:
        """Encode a batch.

        Args:
            images: [B, C, H, W], normalised; H and W are multiples of the patch size.
            masks: [B, N] bool; True replaces the patch by the mask token.
        """
        row, groups = pack([self._tokens(images, masks)])
        for block in self.blocks:
            row = block(row, groups)
        x = self.norm(row).unflatten(0, groups[0])
        return Features(x[:, 0], x[:, 1 : self.first_patch], x[:, self.first_patch :])

    def select(self, images: Sequence[Tensor], masks: Sequence[Tensor | None], places: Tensor) -> Tensor:
        """Encode crops of several sizes at once, and give the tokens that are asked for alone.

        They are those of :meth:`forward`. The last feed-forward and the norm see no others.

        Args:
            images: groups [B, C, H, W] of crops of one size.
            masks: for every group [B, N] bool, or None.
            places: int64 [m], of tokens in the row that the groups' [B, T] tokens make one after another; a crop's
                class token is its first, and its patches begin at ``first_patch``.

        Returns:
            [m, D], normalised.
        """
        row, groups = pack([self._tokens(*group) for group in zip(images, masks, strict=True)])
        *blocks, last = self.blocks
        for block in blocks:
            row = block(row, groups)
        return self.norm(last(row, groups, places))

    def num_tokens(self, images: Tensor) -> int:
        """Of one of the images [B, C, H, W]."""
        patch = self.architecture.patch_size
        return self.first_patch + (images.shape[-2] // patch) * (images.shape[-1] // patch)

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
                std = self.architecture.init_std
                nn.init.trunc_normal_(module.weight, std=module.in_features**-0.5 if std == "fan_in" else std)
                nn.init.zeros_(module.bias)


class PatchEmbed(nn.Module):
    """Non-overlapping patches to tokens."""

    def __init__(self, in_channels: int, patch_size: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> Tensor:
        """[B, C, H, W] to [B, N, D]."""
        return self.proj(images).flatten(2).transpose(1, 2)


class Block(nn.Module):
    """Attention and feed-forward, each normalised first, scaled, and skipped by part of the crops in training."""

    def __init__(self, architecture: Architecture, dim: int, num_heads: int) -> None:
        super().__init__()
        self.drop_path = architecture.drop_path
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, num_heads)
        self.ls1 = LayerScale(dim, architecture.layer_scale)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = FEED_FORWARD[architecture.ffn](dim)
        self.ls2 = LayerScale(dim, architecture.layer_scale)

    def forward(self, row: Tensor, groups: Groups, places: Tensor | None = None) -> Tensor:
        """A row [n, D] of packed crops, which may be overwritten, to the same or to the tokens [m, D] at ``places``."""
        subset = self._subset(row, groups)
        if subset is None:
            row = row + self._attention(row, groups)
        else:
            row, kept = take(row, subset)
            row = put(row, self._attention(kept, subset.kept), subset)
        subset = self._subset(row, groups)
        if places is not None:
            row = row.index_select(0, places)
            branch = self._feed_forward(row)
            return row + (branch if subset is None else branch * subset.factors()[places].unsqueeze(1))
        if subset is None:
            return row + self._feed_forward(row)
        row, kept = take(row, subset)
        return put(row, self._feed_forward(kept), subset)

    def _attention(self, x: Tensor, groups: Groups) -> Tensor:
        return self.attn(x, self.norm1, self.ls1.gamma, groups)

    def _feed_forward(self, x: Tensor) -> Tensor:
        return self.mlp(x, self.norm2, self.ls2.gamma)

    def _subset(self, row: Tensor, groups: Groups) -> Subset | None:
        if not self.training or all(num_kept(crops, self.drop_path) == crops for crops, _ in groups):
            return None
        return Subset(groups, self.drop_path, row.device)


class Attention(nn.Module):
    """Multi-head self-attention within each crop."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.fused: Fused = by_group
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, norm: nn.LayerNorm, gamma: Tensor, groups: Groups) -> Tensor:
        """A row [n, D] of packed crops, to be normalised, to [n, D] times ``gamma``."""
        x = attend(norm_linear(x, norm, self.qkv), groups, self.num_heads, self.fused)
        return F.linear(x, *scaled(self.proj, gamma, x.dtype))


class Mlp(nn.Module):
    """Two layers with GELU, four times as wide inside."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor, norm: nn.LayerNorm, gamma: Tensor) -> Tensor:
        """[n, D], to be normalised, to [n, D] times ``gamma``."""
        x = norm_linear(x, norm, self.fc1)
        return activated_linear(x, F.gelu, *scaled(self.fc2, gamma, x.dtype))


class SwiGLU(nn.Module):
    """Gated feed-forward (Shazeer, 2020) with as many weights as :class:`Mlp`, in multiples of 8."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        hidden = gated_width(dim)
        self.w12 = nn.Linear(dim, 2 * hidden)
        self.w3 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor, norm: nn.LayerNorm, gamma: Tensor) -> Tensor:
        """[n, D], to be normalised, to [n, D] times ``gamma``."""
        x = norm_linear(x, norm, self.w12)
        return activated_linear(x, _gated, *scaled(self.w3, gamma, x.dtype))


def gated_width(dim: int) -> int:
    """How wide :class:`SwiGLU` is inside."""
    return (int(4 * dim * 2 / 3) + 7) // 8 * 8


def _gated(x: Tensor) -> Tensor:
    gate, value = x.chunk(2, dim=-1)
    return F.silu(gate) * value


FEED_FORWARD: dict[str, type[Mlp] | type[SwiGLU]] = {"mlp": Mlp, "swiglu": SwiGLU}


class LayerScale(nn.Module):
    """A learned factor a channel (Touvron et al., 2021); the layer before it applies it (:func:`scaled`)."""

    def __init__(self, dim: int, initial: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), initial))
