"""Pictures of a run: what the student is shown, and what the teacher makes of patches."""

import io
from typing import Any

import numpy as np
from matplotlib.figure import Figure

_INCH, _DPI = 1.5, 110  # of one picture
_MASK = np.array([214, 40, 90], dtype=np.float32)  # over what the student does not see
_SMALL: dict[str, Any] = {"fontsize": 8}
IMAGES = 4  # of a batch


def crops_picture(global_crops: np.ndarray, local_crops: np.ndarray, masks: np.ndarray, step: int) -> bytes:
    """PNG of some images of a batch: a row each, both global crops with the student's mask over them, local crops.

    Args:
        global_crops: uint8 [2 B, S, S, C], all first crops before all second ones.
        local_crops: uint8 [L B, s, s, C], in the same order.
        masks: bool [2 B, N].
        step: that saw the batch.
    """
    global_crops, local_crops = rgb(global_crops), rgb(local_crops)
    batch_size = len(global_crops) // 2
    num_images = min(batch_size, IMAGES)
    num_local = len(local_crops) // batch_size
    figure, axes = _grid(num_images, 2 + num_local)
    for row in range(num_images):
        for crop in range(2):
            i = crop * batch_size + row
            _show(axes[row][crop], masked(global_crops[i], masks[i]))
            share = f"{masks[i].mean():.0%} hidden" if masks[i].any() else "no mask"
            axes[row][crop].set_xlabel(share, **_SMALL)
        for crop in range(num_local):
            _show(axes[row][2 + crop], local_crops[crop * batch_size + row])
        axes[row][0].set_ylabel(f"image {row + 1}", **_SMALL)
    names = ["global 1", "global 2", *(f"local {i + 1}" for i in range(num_local))]
    for axis, name in zip(axes[0], names, strict=True):
        axis.set_title(name, **_SMALL)
    side, small = global_crops.shape[1], local_crops.shape[1]
    sizes = f"global {side} px, local {small} px" if num_local else f"global {side} px"
    return _png(figure, f"Step {step}: the student's crops ({sizes}); red: patches hidden from it")


def masked(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A uint8 image [S, S, 3] whose masked patches (bool [N], row by row) are tinted, with a line around each."""
    grid = round(len(mask) ** 0.5)
    patch = len(image) // grid
    hidden = mask.reshape(grid, grid).repeat(patch, 0).repeat(patch, 1)
    out = image.astype(np.float32)
    out[hidden] = 0.35 * out[hidden] + 0.65 * _MASK
    lines = np.arange(len(image)) % patch == 0
    out[hidden & (lines[:, None] | lines[None, :])] = _MASK * 0.7
    return out.round().astype(np.uint8)


def patches_picture(images: np.ndarray, tokens: np.ndarray, step: int) -> bytes:
    """PNG of images above the principal components of their patch tokens.

    Args:
        images: uint8 [n, S, S, C].
        tokens: float [n, N, D], the teacher's patch tokens.
        step: updates that the teacher has behind it.
    """
    first, colours = patch_colours(tokens)
    grid = round(tokens.shape[1] ** 0.5)
    figure, axes = _grid(3, len(images))
    for column, image in enumerate(rgb(images)):
        _show(axes[0][column], image)
        axes[1][column].imshow(first[column].reshape(grid, grid), cmap="viridis", vmin=0, vmax=1)
        _show(axes[2][column], colours[column].reshape(grid, grid, 3))
    for row, name in zip(
        axes, ("image", "1st component\n(bright: foreground)", "foreground:\n3 components as RGB"), strict=True
    ):
        row[0].set_ylabel(name, **_SMALL)
    return _png(figure, f"Step {step}: PCA of the teacher's patches over these images; black: background")


def patch_colours(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Principal components of patches as brightness and colours (DINOv2, figure 1).

    The first component over all patches parts foreground (above 0.5 of its range) from background; a second analysis of
    the foreground alone gives red, green and blue. A component has no sign of its own: the foreground is taken to be
    where pictures have less of their border.

    Args:
        tokens: float [n, N, D] of n square pictures.

    Returns:
        The first component [n, N] in 0..1, and colours [n, N, 3] in 0..1, 0 in the background.
    """
    n, num_patches, dim = tokens.shape
    rows = tokens.reshape(-1, dim).astype(np.float64)
    first = _stretched(components(rows, 1))[:, 0]
    grid = round(num_patches**0.5)
    border = np.ones((grid, grid), dtype=bool)
    border[1:-1, 1:-1] = False
    border = np.tile(border.ravel(), n)
    if not border.all() and first[border].mean() > first[~border].mean():
        first = 1 - first
    foreground = first > 0.5
    colours = np.zeros((len(rows), 3))
    if foreground.sum() > 3:
        colours[foreground] = _stretched(components(rows[foreground], 3))
    return first.reshape(n, num_patches), colours.reshape(n, num_patches, 3)


def components(rows: np.ndarray, count: int) -> np.ndarray:
    """The first principal components of rows [m, D] as [m, count]; the largest loading of each is positive."""
    rows = rows - rows.mean(0)
    _, vectors = np.linalg.eigh(rows.T @ rows)
    vectors = vectors[:, ::-1][:, :count]
    signs = np.sign(vectors[np.abs(vectors).argmax(0), np.arange(vectors.shape[1])])
    return rows @ (vectors * signs)


def _stretched(values: np.ndarray) -> np.ndarray:
    """Columns to 0..1 between their 1st and 99th percentiles, so that a few outliers do not grey the rest."""
    low, high = np.percentile(values, (1, 99), axis=0)
    return ((values - low) / np.maximum(high - low, 1e-12)).clip(0, 1)


def _grid(rows: int, columns: int) -> tuple[Figure, Any]:
    figure = Figure(figsize=(columns * _INCH + 0.4, rows * (_INCH + 0.12) + 0.45), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def rgb(pixels: np.ndarray) -> np.ndarray:
    """Pictures [..., C] as people see them, [..., 3]: the first three channels, or the first one as grey."""
    return pixels[..., :3] if pixels.shape[-1] >= 3 else pixels[..., :1].repeat(3, -1)


def _show(axis: Any, pixels: np.ndarray) -> None:
    axis.imshow(pixels, interpolation="nearest")


def _png(figure: Figure, title: str) -> bytes:
    figure.suptitle(title, fontsize=9)
    for axis in figure.axes:
        axis.set_xticks([])
        axis.set_yticks([])
        for spine in axis.spines.values():
            spine.set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    return buffer.getvalue()
