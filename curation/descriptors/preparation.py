"""How a model's own settings say that pictures are brought to it: ``preprocessor_config.json``, or timm's.

A specification that says otherwise is refused: other means, crops or sizes give worse vectors without any error.
"""

from collections.abc import Callable, Mapping
from typing import Any

from curation.descriptors.base import EmbedderSpec

_FILTERS = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers
_TOLERANCE = 1e-3  # of mean and std, which some write with three digits


def of_timm(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a specification that timm's ``pretrained_cfg`` states.

    Raises:
        ValueError: a setting is of another type, or the pictures are neither squares nor cropped in the middle.
    """
    found = {name: settings[name] for name in ("mean", "std", "interpolation") if settings.get(name)}
    if size := settings.get("input_size"):
        found["size"] = _square(size[-2:])
    mode = settings.get("crop_mode") or ("center" if "crop_pct" in settings else None)
    if mode is not None:
        if mode not in ("center", "squash"):
            raise ValueError(f"crop_mode is {mode!r}; read are 'center' and 'squash'")
        found["resize"] = "center_crop" if mode == "center" else "squash"
    if settings.get("crop_pct") and mode == "center":
        found["crop_pct"] = settings["crop_pct"]
    return found


def of_preprocessor(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a specification that the transformers library's ``preprocessor_config.json`` states.

    Raises:
        ValueError: a setting is of another type, or the pictures are no squares.
    """
    found: dict[str, Any] = {}
    if not settings.get("do_normalize", True):
        found = {"mean": [0.0] * 3, "std": [1.0] * 3}
    else:
        found = {
            ours: settings[name] for ours, name in (("mean", "image_mean"), ("std", "image_std")) if name in settings
        }
    if "resample" in settings:
        found["interpolation"] = _FILTERS.get(settings["resample"], f"Pillow's filter {settings['resample']}")
    size, crop = settings.get("size"), settings.get("crop_size")
    is_cropped = bool(settings.get("do_center_crop", False))
    if isinstance(size, Mapping) and "shortest_edge" in size:
        short = size["shortest_edge"]
    elif isinstance(size, int) and is_cropped:
        short = size
    elif size is None:
        return found
    else:
        side = _square(size)
        if is_cropped and crop is not None and _square(crop) != side:
            raise ValueError(f"size {size} is cut to crop_size {crop} after it was squashed, which is not read")
        return {**found, "size": side, "resize": "squash"}
    side = _square(crop) if is_cropped and crop is not None else short
    return {**found, "size": side, "resize": "center_crop", "crop_pct": side / short}


def check(spec: EmbedderSpec, settings: Any, path: str, read: Callable[[Mapping[str, Any]], dict[str, Any]]) -> None:
    """Hold a specification to what a model's own settings, found in ``path``, state by ``of_timm`` or the like.

    Raises:
        ValueError: they differ, and the message gives the keys to set; or they are not understood.
    """
    try:
        stated = read(settings)
        wrong = _differing(spec, stated)
    except (TypeError, AttributeError, ArithmeticError, LookupError, ValueError) as error:
        raise ValueError(f"{path} does not say in a form that is read how pictures are prepared: {error}") from error
    if wrong:
        used = _used(spec)
        wanted = ", ".join(f"{key}: {stated[key]}" for key in wrong)
        given = ", ".join(f"{key}: {used[key]}" for key in wrong)
        raise ValueError(
            f"{path} says of pictures {wanted}; the model's configuration has {given}. Set {', '.join(wrong)} as it "
            "says, or change it there if the model is to be used otherwise"
        )


def _used(spec: EmbedderSpec) -> dict[str, Any]:
    return {**spec.model_dump(include={"size", "resize", "crop_pct", "mean", "std"}), "interpolation": spec.filter}


def _differing(spec: EmbedderSpec, stated: Mapping[str, Any]) -> list[str]:
    used = _used(spec)
    return [key for key, value in stated.items() if not _agree(key, value, used[key], spec)]


def _agree(key: str, stated: Any, used: Any, spec: EmbedderSpec) -> bool:
    if key in ("mean", "std"):
        return len(stated) == len(used) and all(
            abs(one - other) <= _TOLERANCE for one, other in zip(stated, used, strict=True)
        )
    if key == "crop_pct":  # the same pixels
        return abs(spec.size / stated - spec.resized_side) <= 1
    return bool(stated == used)


def _square(size: Any) -> int:
    """The side of [height, width], {"height": ..., "width": ...} or one number."""
    sides = (
        list(size.values()) if isinstance(size, Mapping) else list(size) if isinstance(size, list | tuple) else [size]
    )
    if not sides or any(not isinstance(side, int) or side != sides[0] or side < 1 for side in sides):
        raise ValueError(f"the size of pictures is {size}; only squares are read")
    return sides[0]
