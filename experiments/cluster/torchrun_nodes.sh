#!/bin/bash
# Several machines without a batch system; on every one of them, with its own NODE (0, 1, …):
#   NODE=0 NODES=2 GPUS=4 HEAD=node17 bash experiments/cluster/torchrun_nodes.sh -c preset:schnetpack --data MD17 --data.path my.npz
# The run folder and the data must be on a file system that all of them share.
set -euo pipefail
RUN=${RUN:-runs/torchrun}

torchrun --nnodes "$NODES" --node_rank "$NODE" --nproc_per_node "$GPUS" \
  --master_addr "$HEAD" --master_port "${PORT:-29500}" --no-python \
  pygschnet fit "$@" --run_dir "$RUN" --ckpt_path auto --trainer.devices "$GPUS" --trainer.num_nodes "$NODES"
