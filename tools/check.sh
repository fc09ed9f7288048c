#!/usr/bin/env bash
# Sets up the environment if it is not there, and runs lint and tests. Arguments go to pytest: `tools/check.sh -m slow`
# runs the tests that are left out otherwise, full-size networks and long compilations. STACK and PYTHON choose the
# environment, as tools/setup.sh says.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
tools/setup.sh
export PATH="$PWD/$(tools/setup.sh --where)/bin:$PATH"

ruff check .
ruff format --check .
# Two test processes of one thread each: more threads than cores would make them many times slower.
OMP_NUM_THREADS=1 pytest --numprocesses 2 --dist worksteal -m 'not slow' "$@"
