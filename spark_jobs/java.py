"""Find a Java that Spark runs on. Only the standard library is used: set-up calls this before anything is installed.

python -m spark_jobs.java        prints the JAVA_HOME that Spark will be started with
"""

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

OLDEST = 17
SPARK_NEEDS = "jdk.incubator.vector"  # Spark's launcher adds this module; a reduced runtime lacks it and will not start
USUAL_FOLDERS = (
    "/usr/lib/jvm/*",
    "/usr/java/*",
    "/usr/local/openjdk-*",
    "/opt/java/*",
    "/opt/*jdk*",
    "~/.jdks/*",
    "~/.sdkman/candidates/java/*",
    "/Library/Java/JavaVirtualMachines/*/Contents/Home",
)


def find_java(environ: Mapping[str, str] = os.environ, folders: tuple[str, ...] = USUAL_FOLDERS) -> Path:
    """The home of a Java that Spark runs on: JAVA_HOME's, else the first on PATH, else the oldest in the usual folders.

    Args:
        environ: where ``JAVA_HOME`` and ``PATH`` are read.
        folders: glob patterns of Java homes.

    Raises:
        ValueError: none is Java 17 or later; the message tells what was found and how to install one.
    """
    found: dict[Path, int | None] = {}
    for home in _named_homes(environ):
        found[home] = version(home)
        if (found[home] or 0) >= OLDEST:
            return home
    for home in _homes_in(folders):
        found.setdefault(home, version(home))
    usable = {home: number for home, number in found.items() if number and number >= OLDEST}
    if usable:
        return min(usable, key=lambda home: (usable[home], home))
    seen = ", ".join(
        f"{home} holds {f'Java {number}' if number else 'none that can start Spark'}" for home, number in found.items()
    )
    raise ValueError(
        f"Spark needs Java {OLDEST} or later, but {seen or 'JAVA_HOME, PATH and the usual folders hold none'}; "
        "install one, for example with: sudo apt-get install openjdk-17-jre-headless"
    )


def version(home: Path) -> int | None:
    """Feature version of the Java in a home, such as 17; None where there is none that Spark could start on.

    The ``release`` file tells without starting Java; a home without one is asked.
    """
    if not os.access(home / "bin" / "java", os.X_OK):
        return None
    try:
        release = (home / "release").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return _properties(home / "bin" / "java")[0]
    modules = re.search(r'^MODULES="(.*)"', release, re.MULTILINE)
    if modules and SPARK_NEEDS not in modules[1].split():
        return None
    number = re.search(r'^JAVA_VERSION="([\d.]+)', release, re.MULTILINE)
    return _feature(number[1]) if number else _properties(home / "bin" / "java")[0]


def _named_homes(environ: Mapping[str, str]) -> Iterator[Path]:
    """JAVA_HOME, then the home of every ``java`` on PATH."""
    if environ.get("JAVA_HOME"):
        yield Path(environ["JAVA_HOME"]).expanduser()
    for folder in filter(None, environ.get("PATH", "").split(os.pathsep)):
        java = Path(folder) / "java"
        if not (java.is_file() and os.access(java, os.X_OK)):
            continue
        home = java.resolve().parent.parent
        # a version manager's shim lies in no home, but Java itself can tell
        home = home if (home / "release").is_file() else _properties(java)[1]
        if home is not None:
            yield home


def _homes_in(folders: tuple[str, ...]) -> Iterator[Path]:
    for pattern in folders:
        path = Path(pattern).expanduser()
        for home in sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor)))):
            if (home / "bin" / "java").is_file():
                yield home.resolve()


def _properties(java: Path) -> tuple[int | None, Path | None]:
    """Feature version and home, as an executable states them; None where it does not."""
    try:
        told = subprocess.run(
            [java, "-XshowSettings:properties", "-version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=30,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None, None
    number = re.search(r'version "([\d.]+)', told.stderr)
    home = re.search(r"^\s*java\.home = (.+?)\s*$", told.stderr, re.MULTILINE)
    return (_feature(number[1]) if number else None), (Path(home[1]) if home else None)


def _feature(number: str) -> int | None:
    """17 for "17.0.15", 8 for "1.8.0": Java's numbers began with 1. until Java 9."""
    parts = number.removeprefix("1.").split(".")
    return int(parts[0]) if parts[0] else None


def main() -> int:
    """Print the JAVA_HOME that Spark will be started with."""
    argparse.ArgumentParser(
        prog="python -m spark_jobs.java",
        description=main.__doc__,
        epilog="example: JAVA_HOME=$(python -m spark_jobs.java) spark-submit --version",
    ).parse_args()
    try:
        print(find_java())
    except ValueError as error:  # conf.entry_point needs packages that are not installed yet
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
