#!/usr/bin/env bash
# Sets up the tested stack of requirements.txt in ./.venv. Safe to repeat and to interrupt:
# each step leaves a stamp when it is done, and a step without its stamp starts over.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

ENV_DIR=.venv
LOG=$ENV_DIR/setup.log
STAMP=$(cksum requirements.txt setup.cfg setup.py mmatm/ops/axial_sample.cpp pyproject.toml tools/setup.sh | cksum | cut -d' ' -f1)

if [ "$(cat $ENV_DIR/ready 2>/dev/null)" = "$STAMP" ]; then
    exit 0
fi

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3.11 python3.12 python3 python}; do
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "set-up needs Python 3.11 or 3.12 with venv and pip (Debian: apt install python3-venv); name one with PYTHON=..." >&2
    exit 1
}

# Runs a long command with its output in the log, and a line every 20 seconds to show that it lives.
run_long() {
    local what=$1 start=$SECONDS shown=$SECONDS compiled
    shift
    set -m # a process group of its own, so that an interrupt takes the compilers along
    "$@" >>"$LOG" 2>&1 &
    local job=$!
    set +m
    trap 'kill -- -$job 2>/dev/null; echo "interrupted; run this command again to go on"; exit 130' INT TERM HUP
    while kill -0 $job 2>/dev/null; do
        sleep 1
        if ((SECONDS - shown >= 20)); then
            shown=$SECONDS
            compiled=$(tail -c 100000 "$LOG" | grep -oE '^ *\[[0-9]+/[0-9]+\]' | tail -n 1 | tr -d ' []' || true)
            echo "    $what: $((SECONDS - start)) s${compiled:+, $compiled files compiled}"
        fi
    done
    if ! wait $job; then
        tail -n 30 "$LOG" >&2
        echo "set-up failed: $what. The whole log: $LOG. Run this command again to go on." >&2
        exit 1
    fi
    trap - INT TERM HUP
    echo "    $what: done in $((SECONDS - start)) s"
}

python=$(find_python)
pip="$ENV_DIR/bin/python -m pip --disable-pip-version-check"

# Packages half copied by an interrupted install cannot be told from whole ones: start that step over.
if [ "$(cat $ENV_DIR/packages 2>/dev/null)" != "$(cksum <requirements.txt)" ]; then
    if [ -e $ENV_DIR ] && [ ! -e $ENV_DIR/made-by-setup ]; then
        echo "$ENV_DIR was made by somebody else: move it away, or install mmatm into it with pip install -e ." >&2
        exit 1
    fi
    rm -rf $ENV_DIR
    mkdir $ENV_DIR
    touch $ENV_DIR/made-by-setup
    echo "[1/3] PyTorch and the OpenMMLab toolboxes into $ENV_DIR (about 7 GB; 2 to 10 minutes by your connection)"
    "$python" -m venv $ENV_DIR
    grep -v '^mmcv==' requirements.txt >$ENV_DIR/requirements-without-mmcv.txt
    run_long "packages" $pip install -r $ENV_DIR/requirements-without-mmcv.txt
    cksum <requirements.txt >$ENV_DIR/packages
fi

# pip keeps the built wheel in its cache, so this is long only once a machine. A cached wheel that was built
# against another torch does not load: it is built anew.
mmcv_loads() { $ENV_DIR/bin/python -c 'import mmcv.ops' >>"$LOG" 2>&1; }
if [ ! -e $ENV_DIR/mmcv ] || ! mmcv_loads; then
    echo "[2/3] mmcv, compiled from source (10 to 25 minutes on 2 cores, longer with CUDA; seconds if built here before)"
    mmcv=$(grep -oE '^mmcv==[^ ]+' requirements.txt)
    rm -rf $ENV_DIR/lib/python*/site-packages/mmcv*
    run_long "mmcv" $pip install -v --no-deps --no-build-isolation "$mmcv"
    if ! mmcv_loads; then
        echo "    the mmcv in pip's cache was built against another torch: compiling it anew"
        rm -rf $ENV_DIR/lib/python*/site-packages/mmcv*
        run_long "mmcv" $pip install -v --no-deps --no-build-isolation --no-cache-dir "$mmcv"
        mmcv_loads || { echo "set-up failed: mmcv does not load, see $LOG" >&2; exit 1; }
    fi
    touch $ENV_DIR/mmcv
fi

echo "[3/3] mmatm itself (seconds)"
run_long "mmatm" $pip install --no-deps --no-build-isolation -e .
echo "$STAMP" >$ENV_DIR/ready
