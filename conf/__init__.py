"""Recipes, and the one way they are read: YAML plus dotted overrides into a strict, frozen section.

A recipe is a YAML file beside this module. ``load`` merges ``key=value`` overrides into it and validates the
result against a :class:`Section`: an unknown key is an error that names the nearest known one, and a value of
the wrong type is an error that names the key, the value and what was expected.
"""

from conf.cli import entry_point
from conf.loading import ConfigError, Section, digest, load, shipped

__all__ = ["ConfigError", "Section", "digest", "entry_point", "load", "shipped"]
