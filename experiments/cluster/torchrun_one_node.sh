#!/bin/bash
# One machine, all its GPUs:  bash experiments/cluster/torchrun_one_node.sh -c preset:schnetpack --data MD17 --data.path my.npz
# (pygschnet fit --trainer.devices 4 does the same without torchrun.)
set -euo pipefail
GPUS=${GPUS:-$(nvidia-smi --list-gpus | wc -l)}
RUN=${RUN:-runs/torchrun}

torchrun --standalone --nproc_per_node "$GPUS" --no-python \
  pygschnet fit "$@" --run_dir "$RUN" --ckpt_path auto --trainer.devices "$GPUS"
