"""What holds the house together: who may import whom, what a light import costs, what a recipe's header tells."""

import ast
import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAY_IMPORT = {
    "conf": set(),
    "curation": {"conf"},
    "training": {"conf"},
    "evaluation": {"conf", "training"},
    "spark_jobs": {"conf", "curation"},
}
# the training of the shipped descriptor and its use share one network, which belongs to whoever uses it
EXCEPTIONS = {"training/copies": {"curation"}}
OURS = {*MAY_IMPORT, "tests"}
ENGINE = "pyspark"
KNOW_THE_ENGINE = {"spark_jobs"}
MACHINE_PATH = re.compile(rb"(?<![\w.\-}>])/(?:work|root|home/\w+|Users/\w+)/")


def imported(source: str, package: str) -> set[str]:
    """Top-level packages that a module imports anywhere in it, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(package if node.level else str(node.module))
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("importlib.import_module", "import_module"):
            names |= {str(a.value) for a in node.args if isinstance(a, ast.Constant)}
    return {name.partition(".")[0] for name in names}


def breaches(source: str, package: str) -> set[str]:
    """What a module of a package imports and must not."""
    refused = OURS - MAY_IMPORT[package] - {package}
    if package not in KNOW_THE_ENGINE:
        refused = refused | {ENGINE}
    return imported(source, package) & refused


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_point_one_way(package):
    found = {}
    for file in sorted((ROOT / package).rglob("*.py")):
        name = file.relative_to(ROOT).as_posix()
        excepted = EXCEPTIONS.get(name.rpartition("/")[0], set())
        if names := breaches(file.read_text(encoding="utf-8"), package) - excepted:
            found[name] = names
    assert found == {}


@pytest.mark.parametrize(
    ("source", "package", "expected"),
    [
        ("import curation.schema", "conf", {"curation"}),
        ("from spark_jobs import tables", "curation", {"spark_jobs"}),
        ("def f():\n    import pyspark.sql as s", "curation", {"pyspark"}),
        ("from training.models import vit", "curation", {"training"}),
        ("import importlib\nimportlib.import_module('curation.audit')", "training", {"curation"}),
        ("from tests import conftest", "spark_jobs", {"tests"}),
        ("from . import losses\nimport conf, numpy", "training", set()),
        ("from training import models", "evaluation", set()),
        ("from pyspark.sql import SparkSession", "spark_jobs", set()),
    ],
)
def test_a_breach_is_seen(source, package, expected):
    assert breaches(source, package) == expected


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("training", {"pyspark", "torch", "deltalake"}),
        ("curation.schema", {"pyspark", "torch", "deltalake", "pandas"}),
        ("curation.store", {"pyspark", "torch"}),
        ("spark_jobs.java", {"pyspark", "torch", "conf", "pydantic"}),
    ],
)
def test_a_light_module_loads_nothing_heavy(module, heavy):
    told = subprocess.run(
        [sys.executable, "-c", f"import sys, {module}; print(*sys.modules)"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(told.stdout.split())
    assert module in loaded
    assert loaded & heavy == set()


def test_the_header_of_every_recipe_gives_a_command_that_reads_it():
    recipes = sorted((ROOT / "conf").rglob("*.yaml"))
    assert recipes
    without = []
    for file in recipes:
        name = file.relative_to(ROOT).as_posix()
        header = itertools.takewhile(
            lambda line: not line or line.startswith("#"), file.read_text("utf-8").splitlines()
        )
        if not any(re.search(rf"(python -m|spark-submit) \S+ {re.escape(name)}", line) for line in header):
            without.append(name)
    assert without == []


def test_no_file_names_a_folder_of_somebodys_machine():
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout, so it is unknown which files belong to the project")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    found = []
    for name in filter(None, listed.decode().split("\0")):
        file = ROOT / name
        content = file.read_bytes() if file.is_file() else b""
        if b"\0" not in content:
            found += [f"{name}: {match[0].decode()}" for match in MACHINE_PATH.finditer(content)]
    assert found == []


@pytest.mark.parametrize(
    "parts", [("", "work", "x"), ("", "root", ".ssh"), ("", "home", "me", "x"), ("", "Users", "me", "x")]
)
def test_a_machine_path_is_seen(parts):
    path = "/".join(parts).encode()
    assert MACHINE_PATH.search(b'open("' + path + b'")')
    assert not MACHINE_PATH.search(b"SPARK_HOME" + path)
