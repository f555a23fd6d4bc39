#!/bin/bash
# Trains on GPUs by SLURM, one task for each GPU. Change the values below, then:
#     sbatch launch/slurm.sh
# Arguments go to train.py: sbatch launch/slurm.sh --config.data.batch_size=64
#SBATCH --job-name=codeformer
#SBATCH --nodes=2 --ntasks-per-node=8 --gpus-per-node=8 --cpus-per-task=12
#SBATCH --time=24:00:00
#SBATCH --requeue --open-mode=append
# Five minutes before the time is up all tasks get SIGTERM: they save and exit with 143.
#SBATCH --signal=TERM@300
: "${CONFIG:=configs/vqgan.py}"
: "${WORKDIR:=gs://BUCKET/runs/vqgan}"  # or a folder that all nodes share
: "${DATA:=/shared/ffhq}"
: "${LPIPS=gs://BUCKET/weights/lpips.safetensors}"  # README.md: Train; empty for stage II
: "${MESH:=data:-1}"                    # a machine of eight GPUs as a slice: slice:2,data:-1
: "${MAX_RESTARTS:=100}"
# source .venv/bin/activate

# Since SLURM 22.05 srun does not inherit this from sbatch, and a task would get one core.
export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"

srun --kill-on-bad-exit=1 python train.py --config="$CONFIG" --workdir="$WORKDIR" \
    --config.data.path="$DATA" ${LPIPS:+--config.loss.lpips="$LPIPS"} --config.mesh="$MESH" \
    --initialization-timeout=600 "$@"
code=$?

# 0 means that the run has finished. After anything else the job starts again and resumes. SLURM
# itself requeues it when a node fails or another job preempts it.
restarts=${SLURM_RESTART_COUNT:-0}
if [ "$code" -ne 0 ] && [ "$restarts" -lt "$MAX_RESTARTS" ]; then
    echo "train.py ended with exit code $code; restart $((restarts + 1)) of $MAX_RESTARTS"
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
