"""Strict configuration: YAML and dotted overrides in, a frozen section out."""

import difflib
import hashlib
import json
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import pydantic
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names the file or key, the value and the remedy."""


class Section(pydantic.BaseModel):
    """Base of every configuration section: unknown keys are refused, types are strict, values are frozen."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


S = TypeVar("S", bound=Section)


def load(section: type[S], path: str | Path, overrides: Sequence[str] = ()) -> S:
    """Read a recipe.

    Args:
        section: the class of the whole file.
        path: a YAML file; a name that does not exist is also looked for beside this module, so that
            ``conf/curation/demo.yaml`` works from any folder.
        overrides: ``dotted.key=value`` strings; values are YAML. A mapping is merged into what the file has there;
            ``{}`` empties it.

    Raises:
        ConfigError: the file is missing or not YAML, an override is not ``key=value``, a key is unknown or
            missing, a value has the wrong type.
    """
    file = _find(Path(path))
    try:
        tree = OmegaConf.load(file)
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"{file}: cannot be read: {error}") from error
    except Exception as error:  # yaml's errors share no importable base with OmegaConf's
        raise ConfigError(f"{file}: is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(tree, DictConfig):
        raise ConfigError(f"{file}: holds a list; a recipe is made of keys, as in store: runs/demo/store")
    for override in overrides:
        _override(tree, override)
    try:
        values = OmegaConf.to_container(tree, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{file}: {error.full_key}: {str(error).splitlines()[0]}") from error
    try:
        # as JSON, so that strict types accept what YAML can write: a list for a tuple, a word for an enum
        return section.model_validate_json(json.dumps(values))
    except pydantic.ValidationError as error:
        raise ConfigError(f"{file}: " + "; ".join(_sentences(section, error))) from error


def digest(section: pydantic.BaseModel) -> str:
    """SHA-256 (hex) of a section's canonical JSON: equal values give equal digests, whatever their order."""
    canonical = json.dumps(section.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _override(tree: DictConfig, override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not all(key.split(".")):
        raise ConfigError(f"override {override!r} is not key=value, as in runtime.partitions=4")
    try:
        if "".join(value.split()) == "{}":  # merged it would change nothing
            OmegaConf.update(tree, key, {}, merge=False)
        else:
            tree.merge_with_dotlist([override])
    except Exception as error:
        raise ConfigError(f"override {override!r} cannot be applied: {' '.join(str(error).split())}") from error


def shipped(path: str | Path) -> Path | None:
    """A path that exists, or the file of this name beside this module: ``conf/curation/own.yaml`` from any folder."""
    path = Path(path)
    if path.exists():
        return path
    beside = Path(__file__).parent / Path(*path.parts[1:]) if path.parts[:1] == ("conf",) else path
    return beside if beside.is_file() else None


def _find(path: Path) -> Path:
    found = shipped(path)
    if found is not None and found.is_file():
        return found
    known = sorted(str(p.relative_to(Path(__file__).parent.parent)) for p in Path(__file__).parent.rglob("*.yaml"))
    near = difflib.get_close_matches(str(path), known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"the recipes here are {', '.join(known)}"
    raise ConfigError(f"{path}: no such recipe; {hint}")


def _sentences(section: type[Section], error: pydantic.ValidationError) -> Iterator[str]:
    for item in error.errors(include_url=False):
        *parents, last = [str(part) for part in item["loc"]] or [""]
        key, value = ".".join([*parents, last]), item["input"]
        said = str(item["ctx"]["error"]) if item["type"] == "value_error" else item["msg"][0].lower() + item["msg"][1:]
        if item["type"] == "extra_forbidden":
            known = sorted(_keys_below(section, parents))
            near = difflib.get_close_matches(last, known, n=1)
            hint = (
                f"did you mean {'.'.join([*parents, near[0]])!r}?" if near else f"the keys there are {', '.join(known)}"
            )
            yield f"unknown key {key!r}; {hint}"
        elif item["type"] == "missing" and isinstance(value, list):
            yield f"{'.'.join(parents)} = {value!r}: holds {len(value)}, and needs more"
        elif item["type"] == "missing":
            yield f"the key {key!r} is missing; add it or pass {key}=value"
        elif item["type"] == "dict_type":
            yield f"{key} = {value!r}: needs a name; pass {key}.NAME={value}"
        elif isinstance(value, dict) and item["type"] == "value_error":  # a rule between the keys of a section
            yield f"{key}: {said}" if key else said
        else:
            yield f"{key} = {value!r}: {said}"


def _keys_below(section: type[Section], location: Sequence[str]) -> set[str]:
    """Field names of the section, or of the alternatives, that ``location`` leads to."""
    current: set[Any] = {section}
    for part in location:
        # a part that leads nowhere is pydantic's own, such as the name of a union's alternative
        current = {inner for outer in current for inner in _inside(outer, part)} or current
    return {
        name for outer in current for option in _alternatives(outer) for name in getattr(option, "model_fields", ())
    }


def _inside(annotation: Any, part: str) -> Iterator[Any]:
    """Annotations of what a key or index leads to."""
    for option in _alternatives(annotation):
        if hasattr(option, "model_fields"):
            if part in option.model_fields:
                yield option.model_fields[part].annotation
        elif get_origin(option) is dict:
            yield get_args(option)[1]
        elif get_origin(option) in (list, tuple):
            yield get_args(option)[0]


def _alternatives(annotation: Any) -> Iterator[Any]:
    """The members of a union; of ``Annotated``, what is annotated; of anything else, itself."""
    if get_origin(annotation) is Annotated:
        yield from _alternatives(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, types.UnionType):
        for option in get_args(annotation):
            yield from _alternatives(option)
    else:
        yield annotation
