#!/usr/bin/env bash
# Sets up a tested stack in a folder of its own. Safe to repeat and to interrupt: each step leaves a stamp when it is
# done, and a step without its stamp starts over.
#   tools/setup.sh                                       upstream's toolboxes, in .venv
#   STACK=onedl tools/setup.sh                           the maintained forks, in .venv-onedl
#   PYTHON=python3.13 STACK=onedl tools/setup.sh         the same under another Python, in .venv-onedl-3.13
# tools/setup.sh --where prints the folder and does nothing. docs/get_started.md has the table of what was tried.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

STACK=${STACK:-upstream}
case $STACK in
    upstream) REQUIREMENTS=requirements.txt PYTHONS="python3.11 python3.12" ;;
    onedl) REQUIREMENTS=requirements/onedl.txt PYTHONS="python3.13 python3.12 python3.11" ;;
    *) echo "there is no stack $STACK; STACK is upstream or onedl" >&2 && exit 1 ;;
esac

# The version of a Python that can be used, nothing for one that cannot.
version() {
    "$1" -c 'import sys, venv, ensurepip; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || true
}

find_python() {
    local candidate
    if [ -n "${PYTHON:-}" ]; then
        case $STACK-$(version "$PYTHON") in
            upstream-3.11 | upstream-3.12 | onedl-3.11 | onedl-3.12 | onedl-3.13) echo "$PYTHON" && return ;;
            upstream-3.13)
                echo "mmcv 2.1.0 cannot be built under Python 3.13: its setup.py reads its version in a way that 3.13" \
                    "no longer allows. Name Python 3.11 or 3.12 with PYTHON=..., or take the forks with STACK=onedl" >&2
                ;;
            *-) echo "PYTHON=$PYTHON does not run, or lacks venv or pip (Debian: apt install python3-venv)" >&2 ;;
            *) echo "PYTHON=$PYTHON is $(version "$PYTHON"); STACK=$STACK was tried with: $PYTHONS" >&2 ;;
        esac
        exit 1
    fi
    for candidate in $PYTHONS python3 python; do
        case " $PYTHONS " in *" python$(version "$candidate") "*) echo "$candidate" && return ;; esac
    done
    echo "STACK=$STACK needs one of $PYTHONS with venv and pip (Debian: apt install python3-venv); name it with" \
        "PYTHON=..., see docs/get_started.md" >&2
    exit 1
}

python=$(find_python)
ENV_DIR=.venv
[ "$STACK" = upstream ] || ENV_DIR+=-$STACK
[ -z "${PYTHON:-}" ] || ENV_DIR+=-$(version "$python")
if [ "${1:-}" = --where ]; then
    echo $ENV_DIR
    exit 0
fi

LOG=$ENV_DIR/setup.log
STAMP=$(cksum requirements.txt requirements/*.txt setup.cfg setup.py mmatm/ops/*/*.cpp pyproject.toml tools/setup.sh \
    tools/build_mmcv.py | cksum | cut -d' ' -f1)
[ "$(cat $ENV_DIR/ready 2>/dev/null)" != "$STAMP" ] || exit 0

# Runs a long command with its output in the log. On a terminal a line that is written over each second shows that it
# lives, elsewhere a line every 20 seconds. What the command writes to descriptor $SCREEN stands above it.
exec {SCREEN}>&1
export SCREEN
run_long() {
    local what=$1 start=$SECONDS line shown=$SECONDS latest
    shift
    echo "### $what: $*" >>"$LOG"
    set -m # a process group of its own, so that an interrupt takes the compilers along
    "$@" >>"$LOG" 2>&1 &
    local job=$!
    set +m
    trap 'kill -- -$job 2>/dev/null; echo "interrupted; run this command again to go on"; exit 130' INT TERM HUP
    while kill -0 $job 2>/dev/null; do
        sleep 1
        latest=$(tail -c 20000 "$LOG" | tr '\r' '\n' | grep -aoE '^ *\[[0-9]+/[0-9]+\]|^ *(Downloading|Collecting|Installing collected) [A-Za-z0-9_.-]+' |
            tail -n 1 | sed -E 's/^ *\[(.*)\]/\1 files compiled/; s/^ *Installing collected.*/copying them/; s/^ *//' || true)
        line="    $((SECONDS - start)) s${latest:+, $latest}"
        if [ -t 1 ]; then
            printf '\r\033[K%.79s' "$line"
        elif ((SECONDS - shown >= 20)); then
            shown=$SECONDS
            echo "$line"
        fi
    done
    [ ! -t 1 ] || printf '\r\033[K'
    trap - INT TERM HUP
    if ! wait $job; then
        tail -n 30 "$LOG" >&2
        echo "set-up failed: $what. The whole log: $LOG. Run this command again to go on." >&2
        exit 1
    fi
    echo "    done in $((SECONDS - start)) s"
}

# A step begins with the time so far, and where in all of them it stands.
step() { echo "[$1/3] $((SECONDS / 60)):$(printf %02d $((SECONDS % 60))) $2"; }
pip() { run_long "$1" $ENV_DIR/bin/python -m pip --disable-pip-version-check "${@:2}"; }

# Packages half copied by an interrupted install cannot be told from whole ones: start that step over.
packages=$(cat requirements/common.txt $REQUIREMENTS | cksum)
if [ "$(cat $ENV_DIR/packages 2>/dev/null)" != "$packages" ]; then
    if [ -e $ENV_DIR ] && [ ! -e $ENV_DIR/made-by-setup ]; then
        echo "$ENV_DIR was made by somebody else: move it away, or install mmatm into it with pip install -e ." >&2
        exit 1
    fi
    rm -rf $ENV_DIR
    mkdir $ENV_DIR
    touch $ENV_DIR/made-by-setup
    step 1 "PyTorch and the toolboxes ($STACK, Python $(version "$python")) into $ENV_DIR: 7 GB, minutes by your connection"
    "$python" -m venv $ENV_DIR
    grep -hvE 'mmcv==|^-r' requirements/common.txt $REQUIREMENTS >$ENV_DIR/packages.txt
    pip packages install -r $ENV_DIR/packages.txt
    echo "$packages" >$ENV_DIR/packages
fi

mmcv=$(grep -ohE '^(onedl-)?mmcv==[^ ]+' $REQUIREMENTS)
if [ "$(cat $ENV_DIR/mmcv 2>/dev/null)" != "$mmcv" ] || ! $ENV_DIR/bin/python -c 'import mmcv.ops' >>"$LOG" 2>&1; then
    step 2 "$mmcv, compiled from source: 1 or 2 minutes on 2 cores, with CUDA half an hour or more"
    rm -rf $ENV_DIR/lib/python*/site-packages/mmcv*
    run_long mmcv $ENV_DIR/bin/python tools/build_mmcv.py "$mmcv"
    echo "$mmcv" >$ENV_DIR/mmcv
fi

step 3 "mmatm itself: seconds"
pip mmatm install --no-deps --no-build-isolation -e .
echo "$STAMP" >$ENV_DIR/ready
echo "ready after $((SECONDS / 60)):$(printf %02d $((SECONDS % 60))); source $ENV_DIR/bin/activate"
