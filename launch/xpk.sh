#!/bin/bash
# Trains on TPU slices of a GKE cluster, by XPK. Change the values below, then: bash launch/xpk.sh
# Arguments go to train.py: bash launch/xpk.sh --config.data.batch_size=64
set -euo pipefail
: "${CLUSTER:=my-cluster}"                                              # of `xpk cluster create`
: "${IMAGE:=REGION-docker.pkg.dev/PROJECT/REPOSITORY/codeformer-jax}"   # VARIANT=tpu, RUN_AS=0
: "${CONFIG:=configs/vqgan.py}" "${WORKLOAD:=codeformer-vqgan}"
: "${WORKDIR:=gs://BUCKET/runs/vqgan}"
: "${STORAGE:=data}" "${DATA:=/data/ffhq}"    # of `xpk storage attach`, and a folder in it
: "${LPIPS=gs://BUCKET/weights/lpips.safetensors}"  # README.md: Train; empty for stage II
: "${TPU_TYPE:=v5litepod-16}" "${SLICES:=2}"  # 16 chips of v5p: v5p-32
: "${MESH:=slice:$SLICES,data:-1}"

# `exec` lets SIGTERM reach Python through the shell that XPK starts it in.
# A run that ends early has exit code 143 (SIGTERM, saved), 1 (an error, or a peer is gone) or 134
# (JAX has lost process 0). XPK restarts after 42 and 127 to 255, and after 1 only if told. Code 0
# completes the workload.
xpk workload create \
    --cluster="$CLUSTER" \
    --workload="$WORKLOAD" \
    --tpu-type="$TPU_TYPE" \
    --num-slices="$SLICES" \
    --docker-image="$IMAGE" \
    --storage="$STORAGE" \
    --max-restarts=100 \
    --restart-on-exit-codes=1 \
    --termination-grace-period-seconds=120 \
    --command="exec python train.py --config=$CONFIG --workdir=$WORKDIR --config.data.path=$DATA \
${LPIPS:+--config.loss.lpips=$LPIPS} --config.mesh=$MESH --initialization-timeout=900 $*"
