#!/usr/bin/env bash
# dist_train.sh CONFIG GPUS [arguments of train.py]: one process a GPU; without CUDA, GPUS processes on the CPU.
# Several machines: run it on each with NNODES, NODE_RANK, MASTER_ADDR and PORT set.
set -euo pipefail
if (($# < 2)); then
    echo "usage: $0 CONFIG GPUS [arguments of train.py]" >&2
    exit 2
fi
config=$1 gpus=$2
shift 2
arguments=("$config" "$@")

exec "${PYTHON:-python}" -m mmatm.engine.launch \
    --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" --nproc_per_node="$gpus" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}" \
    "$(dirname "$0")/train.py" "${arguments[@]}" --launcher pytorch
