"""Set-up as a newcomer meets it: setup.sh with a stand-in Python, the pins, and the spark-submit that it leaves."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]

# Stands in for an interpreter and for the pip of its environment, so that no test installs 7 GB. It notes every call;
# while a file "offline" exists its pip fails, and while a file "killed" exists its pip kills set-up as kill -9 does.
PYTHON = """#!/bin/bash
echo "$*" >> "$CALLS/log"
case "$*" in
  *sys.version_info*not*) exit ${WRONG_VERSION:-0};;
  *"import ensurepip"*) exit ${NO_VENV:-0};;
  *print*python*-venv*) echo python3.11-venv;;
  *"-m spark_jobs.java"*) if [ -n "$NO_JAVA" ]; then echo "error: no Java" >&2; exit 2; fi;;
  "-m venv "*)
    mkdir -p "$3/bin" "$3/spark"
    cp "$0" "$3/bin/python"
    echo "command = python -m venv $3" > "$3/pyvenv.cfg";;
  *"pip install"*)
    touch .venv/half-installed
    [ ! -e "$CALLS/offline" ] || exit 1
    if [ -e "$CALLS/killed" ]; then kill -9 $PPID; exit; fi;;
  *pyspark*) echo "$PWD/.venv/spark";;
esac
"""
TOOLS = [
    "bash",
    "cat",
    "cp",
    "cut",
    "dirname",
    "find",
    "flock",
    "grep",
    "id",
    "ln",
    "mkdir",
    "rm",
    "sha256sum",
    "touch",
]


class Checkout:
    """A copy of what set-up reads, with a PATH that holds the stand-in and no package manager."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.calls, self.bin = folder / "checkout", folder / "calls", folder / "bin"
        for made in (self.folder / "spark_jobs", self.calls, self.bin):
            made.mkdir(parents=True)
        for name in ("setup.sh", "pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, self.folder / name)
        for tool in TOOLS:
            (self.bin / tool).symlink_to(shutil.which(tool))
        self.add("python3.11", PYTHON)

    def add(self, name: str, script: str) -> None:
        (self.bin / name).write_text(script)
        (self.bin / name).chmod(0o755)

    def set_up(self, **environ: str) -> subprocess.CompletedProcess:
        (self.calls / "log").write_text("")
        environ = {"PATH": str(self.bin), "CALLS": str(self.calls), **environ}
        return subprocess.run(
            [self.folder / "setup.sh"], env=environ, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )

    def log(self) -> str:
        return (self.calls / "log").read_text()

    def ready(self) -> list[str]:
        return [file.name for file in (self.folder / ".venv").glob("ready-*")]


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path)


def test_the_first_call_installs_and_the_second_does_nothing(checkout):
    assert checkout.set_up().returncode == 0
    assert "pip install -c constraints.txt -e .[cpu,dev]" in checkout.log()
    assert len(checkout.ready()) == 1
    second = checkout.set_up()
    assert (second.returncode, second.stdout, second.stderr, checkout.log()) == (0, "", "", "")


def test_a_machine_with_an_nvidia_driver_gets_the_gpu_extra_and_not_both(checkout):
    checkout.set_up()
    checkout.add("nvidia-smi", "#!/bin/bash\n")
    checkout.set_up()
    assert "pip uninstall -qq -y faiss-cpu\n" in checkout.log()
    assert "-e .[gpu,dev]" in checkout.log()


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt", "setup.sh"])
def test_a_change_of_what_it_depends_on_installs_anew_into_the_same_environment(checkout, name):
    checkout.set_up()
    with (checkout.folder / name).open("a") as file:
        file.write("# changed\n")
    assert checkout.set_up().returncode == 0
    assert "pip install" in checkout.log()
    assert "-m venv" not in checkout.log()
    assert len(checkout.ready()) == 1


@pytest.mark.parametrize("how", ["killed", "offline"])
@pytest.mark.parametrize("when", ["first", "later"])
def test_an_install_that_did_not_end_is_never_believed_and_is_begun_again(checkout, how, when):
    if when == "later":
        checkout.set_up()
        (checkout.folder / "constraints.txt").write_text("# changed\n")
    (checkout.calls / how).touch()
    assert checkout.set_up().returncode != 0
    (checkout.calls / how).unlink()
    (checkout.folder / ".venv" / "left-behind").touch()
    assert checkout.set_up().returncode == 0
    assert "-m venv" in checkout.log()
    assert "pip install" in checkout.log()
    assert not (checkout.folder / ".venv" / "left-behind").exists()
    assert not (checkout.folder / ".venv" / "unfinished").exists()


def test_a_checkout_that_was_moved_gets_an_environment_of_its_own(checkout):
    checkout.set_up()
    checkout.folder = checkout.folder.rename(checkout.folder.with_name("moved"))
    assert checkout.set_up().returncode == 0
    assert f"-m venv {checkout.folder}/.venv\n" in checkout.log()


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        (
            {"WRONG_VERSION": "1"},
            "error: no Python 3.11 or 3.12 among python3.12, python3.11 and python3 on PATH; install",
        ),
        ({"PYTHON": "python3.9"}, "error: no Python 3.11 or 3.12 among python3.9; install"),
        (
            {"NO_VENV": "1"},
            "error: this Python cannot make a .venv; install what it lacks: sudo apt-get install python3",
        ),
        ({"NO_JAVA": "1"}, "error: no Java"),
    ],
)
def test_what_is_missing_is_asked_for_in_one_sentence(checkout, environ, sentence):
    done = checkout.set_up(**environ)
    assert done.returncode != 0
    assert done.stderr.startswith(sentence)
    assert done.stderr.count("\n") == 1
    assert not (checkout.folder / ".venv").exists()


def test_a_failed_install_says_so_and_how_to_go_on(checkout):
    (checkout.calls / "offline").touch()
    done = checkout.set_up()
    assert done.returncode == 1
    assert "the packages could not be installed" in done.stderr.splitlines()[-1]


def test_spark_is_left_with_our_settings(checkout):
    checkout.set_up()
    conf = checkout.folder / ".venv" / "bin" / "spark-distribution" / "conf"
    linked = {link.name: link.readlink().relative_to(checkout.folder) for link in conf.iterdir()}
    assert linked == {
        "spark-env.sh": Path("spark_jobs/spark-env.sh"),
        "log4j2.properties": Path("spark_jobs/log4j2.properties"),
    }
    assert all((ROOT / file).is_file() for file in linked.values())


def test_every_dependency_has_an_exact_version_inside_its_range():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    assert [str(p) for p in pins if p.url or [s.operator for s in p.specifier] != ["=="]] == []
    version = {canonicalize_name(p.name): next(iter(p.specifier)).version for p in pins}
    assert len(version) == len(pins)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    chosen = [line for name in ("cpu", "gpu", "dev", "watch") for line in extras[name]]
    wanted = [Requirement(line) for line in project["dependencies"] + chosen]
    outside = [str(w) for w in wanted if not w.specifier.contains(version.get(canonicalize_name(w.name), "0"))]
    assert outside == []


def test_make_lists_its_targets():
    done = subprocess.run(["make", "-C", ROOT, "--no-print-directory"], capture_output=True, text=True, check=True)
    listed = " ".join(line.split()[1] for line in done.stdout.splitlines())
    assert listed == "help setup demo test check bench clean"


@pytest.mark.parametrize(
    ("variables", "command"),
    [
        ([], "-m spark_jobs.demo"),
        (["SOURCE=my photos"], '-m spark_jobs.demo --source "my photos"'),
        (["SOURCE=a", "OUT=b"], '-m spark_jobs.demo --source "a" --out "b"'),
        (["SOURCE=a", "SET=x.y=1 z=2"], '-m spark_jobs.demo --source "a" x.y=1 z=2'),
    ],
)
def test_make_demo_passes_the_source_on(variables, command):
    done = subprocess.run(["make", "-C", ROOT, "-n", "demo", *variables], capture_output=True, text=True, check=True)
    assert " ".join(done.stdout.split()).count(command) == 1
    assert ("--out" in done.stdout) == ("--out" in command)


def test_continuous_integration_can_start_it():
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    assert os.access(ROOT / "setup.sh", os.X_OK)


@pytest.mark.spark
def test_spark_submit_works_unactivated_and_prints_what_the_script_prints(tmp_path):
    submit = Path(sys.executable).with_name("spark-submit")
    if not submit.with_name("spark-distribution").exists():
        pytest.skip("this environment was not made by setup.sh")
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        "from pyspark.sql import SparkSession\n"
        "spark = SparkSession.builder.master('local[1]').config('spark.ui.enabled', 'false').getOrCreate()\n"
        "print(sys.executable, spark.sparkContext.parallelize([1, 2]).map(lambda x: sys.executable).first())\n"
        "spark.stop()\n"
        "sys.exit(3)\n"
    )
    environ = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run([submit, script], env=environ, cwd=tmp_path, capture_output=True, text=True)
    python = Path(sys.prefix) / "bin" / "python"
    assert (done.stdout, done.stderr, done.returncode) == (f"{python} {python}\n", "", 3)
