"""Changes of colour on the device, for a batch at once: what ``training.data.colour`` does, up to rounding.

Which crops a change concerns is known on the CPU, so nothing waits for the device. Every pixel is computed in the same
way whichever crops lie beside it, so that a batch in parts is the batch.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from training.data.colour import BLUR_SIDE, ORDERS, Colour

_NUM_CHANGES = 4


def coloured_batch(crops: Tensor, colours: Tensor) -> Tensor:
    """Apply the changes.

    Args:
        crops: uint8 [B, H, W, C], on a device.
        colours: fp32 [B, 8] on the CPU, a :class:`~training.data.colour.Colour` each.

    Returns:
        uint8 [B, H, W, C].
    """
    factors = colours.to(crops.device, non_blocking=True)
    column = dict(zip(Colour._fields, colours.numpy().T, strict=True))
    is_rgb = crops.shape[-1] == 3
    groups: list[tuple[str, np.ndarray]] = []
    orders = np.array([*ORDERS, (-1,) * _NUM_CHANGES])[column["order"].astype(int)]  # -1 is the last
    for place in range(_NUM_CHANGES):
        for number, change in enumerate(_CHANGES):
            if is_rgb or change in ("brightness", "contrast"):
                groups.append((change, np.flatnonzero(orders[:, place] == number)))
    if is_rgb:
        groups.append(("grey", np.flatnonzero(column["grey"])))
    groups.append(("sigma", np.flatnonzero(column["sigma"])))
    groups.append(("solarise", np.flatnonzero(column["solarise"])))
    places = torch.from_numpy(np.concatenate([group for _, group in groups])).to(crops.device, non_blocking=True)
    x = crops.permute(0, 3, 1, 2).float()  # [B, C, H, W], 0..255
    for (change, _), group in zip(groups, places.split([len(group) for _, group in groups]), strict=True):
        if len(group):
            x[group] = _ALL[change](x[group], factors[group, Colour._fields.index(change)].view(-1, 1, 1, 1))
    return x.round().byte().permute(0, 2, 3, 1).contiguous()


def _brightness(x: Tensor, factor: Tensor) -> Tensor:
    return (factor * x).clamp(0, 255)


def _contrast(x: Tensor, factor: Tensor) -> Tensor:
    base = _luma(x) if x.shape[1] == 3 else x
    # whole numbers have one sum, in whatever order they are added
    mean = base.round().long().sum(dim=(2, 3), keepdim=True).float() / (x.shape[2] * x.shape[3])
    return (factor * x + (1 - factor) * mean).clamp(0, 255)


def _saturation(x: Tensor, factor: Tensor) -> Tensor:
    return (factor * x + (1 - factor) * _luma(x)).clamp(0, 255)


def _hue(x: Tensor, turns: Tensor) -> Tensor:
    """Chroma and value stay; the hue, in sixths of a turn, moves."""
    red, green, blue = x.unbind(1)
    value, low = x.amax(1), x.amin(1)
    chroma = value - low
    safe = torch.where(chroma > 0, chroma, 1)
    sixths = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    sixths = sixths + 6 * (256 * turns[:, 0]).round() / 256  # in steps, as the worker has it
    ramps = [(sixths + offset).remainder(6) for offset in (5, 3, 1)]
    return torch.stack([value - chroma * torch.minimum(k, 4 - k).clamp(0, 1) for k in ramps], dim=1)


def _grey(x: Tensor, _: Tensor) -> Tensor:
    return _luma(x).expand_as(x)


def _blur(x: Tensor, sigma: Tensor) -> Tensor:
    """Nine taps a direction, one after another: products of a convolution might be added in another order."""
    half = BLUR_SIDE // 2
    away = torch.arange(-half, half + 1, device=x.device)
    weights = torch.exp(-(away**2) / (2 * sigma**2))  # [B, 1, 1, 9]
    weights = weights / weights.sum(-1, keepdim=True)
    rows, columns = x.shape[2:]
    padded = F.pad(x, (half,) * 4, mode="reflect")
    across = sum(weights[..., i : i + 1] * padded[..., i : i + columns] for i in range(BLUR_SIDE))
    assert isinstance(across, Tensor)
    both = sum(weights[..., i : i + 1] * across[:, :, i : i + rows] for i in range(BLUR_SIDE))
    assert isinstance(both, Tensor)
    return both


def _solarise(x: Tensor, _: Tensor) -> Tensor:
    return torch.where(x.round() >= 128, 255 - x, x)


def _luma(x: Tensor) -> Tensor:
    red, green, blue = x.split(1, dim=1)
    return 0.299 * red + 0.587 * green + 0.114 * blue


_CHANGES = {"brightness": _brightness, "contrast": _contrast, "saturation": _saturation, "hue": _hue}  # as in ORDERS
_ALL = _CHANGES | {"grey": _grey, "sigma": _blur, "solarise": _solarise}
