import os
import subprocess
import sys
from pathlib import Path

import pytest

from spark_jobs import java

MODULES = "java.base jdk.incubator.vector"


def make_home(home: Path, number: str, *, release: bool = True, modules: str = MODULES) -> Path:
    """A folder that looks like an installed Java; its executable answers as Java does, on stderr."""
    (home / "bin").mkdir(parents=True)
    if release:
        (home / "release").write_text(f'IMPLEMENTOR="Test"\nJAVA_VERSION="{number}"\nMODULES="{modules}"\n')
        answer = "exit 1"  # nothing needs to start a Java whose release file tells all
    else:
        answer = f"echo '    java.home = {home}' >&2; echo 'openjdk version \"{number}\" 2025-04-15' >&2"
    executable = home / "bin" / "java"
    executable.write_text(f"#!/bin/sh\n{answer}\n")
    executable.chmod(0o755)
    return home


def find(*, java_home: Path | str = "", path: list[Path] | None = None, folders: tuple[str, ...] = ()) -> Path:
    environ = {"JAVA_HOME": str(java_home), "PATH": os.pathsep.join(map(str, path or []))}
    return java.find_java(environ, folders)


@pytest.mark.parametrize("release", [True, False])
@pytest.mark.parametrize(
    ("number", "feature"),
    [("17.0.15", 17), ("21", 21), ("25.0.3", 25), ("11.0.2", 11), ("1.8.0", 8), ("9", 9)],
)
def test_version_is_read_from_the_release_file_or_from_java_itself(tmp_path, number, feature, release):
    assert java.version(make_home(tmp_path / "jdk", number, release=release)) == feature


def test_a_folder_without_an_executable_has_no_version(tmp_path):
    home = make_home(tmp_path / "jdk", "17")
    (home / "bin" / "java").chmod(0o644)
    assert java.version(home) is None
    assert java.version(tmp_path / "absent") is None


def test_java_home_comes_before_path_and_path_before_the_usual_folders(tmp_path):
    named, on_path = make_home(tmp_path / "named", "25"), make_home(tmp_path / "on_path", "21")
    usual = make_home(tmp_path / "jvm" / "usual", "17")
    folders = (f"{tmp_path}/jvm/*",)
    assert find(java_home=named, path=[on_path / "bin"], folders=folders) == named
    assert find(path=[on_path / "bin"], folders=folders) == on_path
    assert find(folders=folders) == usual


def test_a_java_that_is_too_old_is_passed_over(tmp_path):
    old, new = make_home(tmp_path / "old", "11.0.2"), make_home(tmp_path / "new", "17.0.1")
    assert find(java_home=old, path=[old / "bin", new / "bin"]) == new


def test_of_several_in_the_usual_folders_the_oldest_that_fits_is_taken(tmp_path):
    for name, number in [("a", "25"), ("b", "21.0.4"), ("c", "11"), ("d", "21.0.1")]:
        make_home(tmp_path / name, number)
    assert find(folders=(f"{tmp_path}/*",)) == tmp_path / "b"


def test_a_runtime_without_the_module_that_spark_adds_is_passed_over(tmp_path):
    reduced = make_home(tmp_path / "reduced", "21", modules="java.base")
    whole = make_home(tmp_path / "whole", "17")
    assert find(java_home=reduced, folders=(f"{tmp_path}/*",)) == whole


def test_a_link_on_path_leads_to_its_home(tmp_path):
    home = make_home(tmp_path / "jdk", "17")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "java").symlink_to(home / "bin" / "java")
    assert find(path=[tmp_path / "bin"]) == home


def test_a_version_managers_shim_on_path_leads_to_the_home_it_starts(tmp_path):
    home = make_home(tmp_path / "versions" / "17", "17.0.2", release=False)
    shim = tmp_path / "manager" / "shims" / "java"
    shim.parent.mkdir(parents=True)
    shim.write_text(f'#!/bin/sh\nexec {home}/bin/java "$@"\n')
    shim.chmod(0o755)
    assert find(path=[shim.parent]) == home


def test_without_java_the_error_says_what_to_do(tmp_path):
    with pytest.raises(ValueError, match=r"Java 17 or later, but JAVA_HOME, PATH and .* hold none; .*apt-get install"):
        find()


def test_the_error_names_what_was_found_instead(tmp_path):
    old = make_home(tmp_path / "old", "11.0.2")
    with pytest.raises(ValueError, match=f"but {old} holds Java 11; install"):
        find(java_home=old)
    with pytest.raises(ValueError, match=f"but {tmp_path}/absent holds none that can start Spark; install"):
        find(java_home=tmp_path / "absent")


def test_the_command_needs_nothing_installed_and_prints_the_home(tmp_path):
    home = make_home(tmp_path / "jdk", "17")
    done = subprocess.run(
        [sys.executable, "-S", "-m", "spark_jobs.java"],  # -S: no site-packages
        cwd=Path(java.__file__).parents[1],
        env={"JAVA_HOME": str(home), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{home}\n", "")


def test_the_command_ends_with_one_sentence_and_a_non_zero_code(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["java"])

    def find_java() -> Path:
        raise ValueError("no Java")

    monkeypatch.setattr(java, "find_java", find_java)
    assert java.main() == 2
    assert capsys.readouterr().err == "error: no Java\n"
