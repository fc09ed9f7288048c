#!/usr/bin/env bash
# slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [arguments of test.py]
# GPUS, GPUS_PER_NODE, CPUS_PER_TASK, SRUN_ARGS and PORT are taken from the environment.
set -euo pipefail
if (($# < 4)); then
    echo "usage: $0 PARTITION JOB_NAME CONFIG CHECKPOINT [arguments of test.py]" >&2
    exit 2
fi
partition=$1 job_name=$2 config=$3 checkpoint=$4
shift 4
gpus=${GPUS:-8} gpus_per_node=${GPUS_PER_NODE:-8}
((gpus_per_node > gpus)) && gpus_per_node=$gpus

# shellcheck disable=SC2086,SC2016 # SRUN_ARGS is a list; the tasks expand their own variables
exec srun --partition="$partition" --job-name="$job_name" --gres="gpu:$gpus_per_node" \
    --ntasks="$gpus" --ntasks-per-node="$gpus_per_node" --cpus-per-task="${CPUS_PER_TASK:-5}" \
    --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
    bash -c '
        export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS
        nodes=${SLURM_STEP_NODELIST:-$SLURM_JOB_NODELIST} # a step may have a part of the nodes only
        export MASTER_PORT=${PORT:-29500} MASTER_ADDR=$(scontrol show hostnames "$nodes" | head -n 1)
        step=$SLURM_JOB_ID.$SLURM_STEP_ID.${SLURM_RESTART_COUNT:-0}
        export MMATM_SAID=${TMPDIR:-/tmp}/mmatm-$step-$SLURMD_NODENAME # where errors that were said are noted
        exec "${PYTHON:-python}" "$@" --launcher pytorch
    ' bash "$(dirname "$0")/test.py" "$config" "$checkpoint" "$@"
