"""Strict configuration: YAML and dotted overrides in, a frozen section out."""

import difflib
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import pydantic
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names the file or key, the value and the remedy."""


class Section(pydantic.BaseModel):
    """Base of every configuration section: unknown keys are refused, types are strict, values are frozen."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, strict=True)


S = TypeVar("S", bound=Section)


def load(section: type[S], path: str | Path, overrides: Sequence[str] = ()) -> S:
    """Read a recipe.

    Args:
        section: the class of the whole file.
        path: a YAML file; a name that does not exist is also looked for beside this module, so that
            ``conf/curation/demo.yaml`` works from any folder.
        overrides: ``dotted.key=value`` strings; values are YAML.

    Raises:
        ConfigError: the file is missing or not YAML, an override has no ``=``, a key is unknown, a value has
            the wrong type.
    """
    file = _find(Path(path))
    try:
        tree: Any = OmegaConf.load(file)
        for override in overrides:
            key, equals, _ = override.partition("=")
            if not equals or not key:
                raise ConfigError(f"override {override!r} is not key=value, as in runtime.partitions=4")
            tree = OmegaConf.merge(tree, OmegaConf.from_dotlist([override]))
        values = OmegaConf.to_container(tree, resolve=True)
    except ConfigError:
        raise
    except (OmegaConfBaseException, OSError, ValueError) as error:
        raise ConfigError(f"{file}: cannot be read: {error}") from error
    except Exception as error:  # yaml's errors share no importable base with OmegaConf's
        raise ConfigError(f"{file}: is not valid YAML: {' '.join(str(error).split())}") from error
    try:
        return section.model_validate(values)
    except pydantic.ValidationError as error:
        raise ConfigError(f"{file}: " + "; ".join(_sentences(section, error))) from error


def digest(section: pydantic.BaseModel) -> str:
    """SHA-256 (hex) of a section's canonical JSON: equal values give equal digests, whatever their order."""
    canonical = json.dumps(section.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _find(path: Path) -> Path:
    if path.is_file():
        return path
    beside = Path(__file__).parent / Path(*path.parts[1:]) if path.parts[:1] == ("conf",) else None
    if beside is not None and beside.is_file():
        return beside
    known = sorted(str(p.relative_to(Path(__file__).parent.parent)) for p in Path(__file__).parent.rglob("*.yaml"))
    near = difflib.get_close_matches(str(path), known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"the recipes here are {', '.join(known)}"
    raise ConfigError(f"{path}: no such recipe; {hint}")


def _sentences(section: type[Section], error: pydantic.ValidationError) -> Iterator[str]:
    for item in error.errors(include_url=False):
        key = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            known = sorted(_keys_beside(section, item["loc"]))
            near = difflib.get_close_matches(str(item["loc"][-1]), known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"the keys there are {', '.join(known)}"
            yield f"unknown key {key!r}; {hint}"
        elif item["type"] == "missing":
            yield f"the key {key!r} is missing; add it or pass {key}=value"
        else:
            yield f"{key} = {item['input']!r}: {item['msg'][0].lower()}{item['msg'][1:]}"


def _keys_beside(section: type[Section], location: tuple[int | str, ...]) -> set[str]:
    """Field names of the section that holds ``location``."""
    current: Any = section
    for part in location[:-1]:
        if isinstance(current, type) and issubclass(current, Section) and part in current.model_fields:
            current = current.model_fields[str(part)].annotation
        else:  # a mapping or list of sections: the value type is the last argument
            current = next((a for a in reversed(get_args(current)) if isinstance(a, type)), None)
        if not (isinstance(current, type) and issubclass(current, Section)):
            optional = [a for a in get_args(current) if isinstance(a, type) and issubclass(a, Section)]
            current = optional[0] if len(optional) == 1 and not _is_mapping(current) else current
    return set(current.model_fields) if isinstance(current, type) and issubclass(current, Section) else set()


def _is_mapping(annotation: Any) -> bool:
    return getattr(annotation, "__origin__", None) in (dict, list, tuple)
