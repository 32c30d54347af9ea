#!/usr/bin/env bash
# Makes this checkout ready: Java, .venv with the exact versions of constraints.txt, a quiet Spark.
#
# The Makefile calls it before every target, so nobody needs to. It may be killed or called again at any moment: while
# .venv/unfinished exists the install is not believed, and a stamp named after all that it depends on is written last.
# Variables:
#   PYTHON=python3.12   the interpreter of a new .venv (default: the first of 3.12 and 3.11 on PATH)
#   EXTRA=cpu|gpu       which FAISS, as both use one module name (default: gpu where nvidia-smi is present)
set -euo pipefail
cd -P "$(dirname "$0")"

EXTRA=${EXTRA:-$(command -v nvidia-smi >/dev/null && echo gpu || echo cpu)}
stamp=.venv/ready-$(cat pyproject.toml constraints.txt setup.sh - <<<"$EXTRA $PWD" | sha256sum | cut -c1-16)
[ -e "$stamp" ] && exit

fail() {
    echo "error: $*" >&2
    exit 1
}

apt_install() { # only where it needs no answer: as root, or with a sudo that asks for no password
    local sudo=""
    command -v apt-get >/dev/null || return 1
    [ "$(id -u)" = 0 ] || sudo="sudo -n"
    [ -z "$sudo" ] || $sudo true 2>/dev/null || return 1
    echo "installing $1 with apt" >&2
    local apt="$sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq"
    $apt install -y "$1" </dev/null >/dev/null 2>&1 && return
    { $apt update && $apt install -y "$1"; } </dev/null >/dev/null
}

python_fits() { # the versions that constraints.txt was resolved for
    "$1" -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null
}

find_python() {
    local name package
    for name in ${PYTHON:-python3.12 python3.11 python3}; do
        python_fits "$name" || continue
        "$name" -c 'import ensurepip' 2>/dev/null && echo "$name" && return
        package=${package:-$("$name" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')}
    done
    [ -n "${package:-}" ] ||
        fail "no Python 3.11 or 3.12 among ${PYTHON:-python3.12, python3.11 and python3 on PATH}; install one, for" \
            "example with: sudo apt-get install python3.12 python3.12-venv"
    apt_install "$package" || fail "this Python cannot make a .venv; install what it lacks: sudo apt-get install $package"
    name=${package%-venv}
    "$name" -c 'import ensurepip' && echo "$name"
}

have_java() {
    "$1" -m spark_jobs.java >/dev/null 2>&1 && return
    apt_install openjdk-17-jre-headless || apt_install default-jre-headless || true
    "$1" -m spark_jobs.java >/dev/null # where it still fails, this says what to do
}

exec 9<setup.sh
flock -n 9 || { echo "waiting for another set-up of this checkout" >&2 && flock 9; }
[ -e "$stamp" ] && exit

if [ -e .venv/unfinished ] || ! python_fits .venv/bin/python || ! grep -qsF " $PWD/.venv" .venv/pyvenv.cfg; then
    python=$(find_python)
    have_java "$python" || exit
    mkdir -p .venv && touch .venv/unfinished
    find .venv -mindepth 1 ! -path .venv/unfinished -delete
    "$python" -m venv "$PWD/.venv"
else
    have_java .venv/bin/python || exit
    touch .venv/unfinished
fi

echo "installing the packages of constraints.txt into .venv: about 7 GB, a few minutes, once" >&2
[ -t 1 ] || export PIP_QUIET=1 PIP_PROGRESS_BAR=off
export PIP_DISABLE_PIP_VERSION_CHECK=1
.venv/bin/python -m pip uninstall -qq -y "$([ "$EXTRA" = gpu ] && echo faiss-cpu || echo faiss-gpu)"
.venv/bin/python -m pip install -c constraints.txt -e ".[$EXTRA,dev]" ||
    fail "the packages could not be installed; the lines above say why, and the same command tries again"

# spark-submit looks for Spark beside itself under this name, so it works without an activated venv
spark=$(.venv/bin/python -c 'import pyspark; print(pyspark.__path__[0])')
ln -sfn "$spark" .venv/bin/spark-distribution
mkdir -p "$spark/conf"
ln -sfn "$PWD/spark_jobs/log4j2.properties" "$PWD/spark_jobs/spark-env.sh" "$spark/conf/"

rm -f .venv/ready-*
touch "$stamp"
rm .venv/unfinished
