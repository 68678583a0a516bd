#!/bin/bash
# A line of a config's sweep() in each task of an array:
#
#   sbatch --array=0-19 launch/cluster/slurm_array.sh --config=configs/lottery/lenet.py --workdir=runs/lenet
#SBATCH --job-name=reduction-sweep
#SBATCH --ntasks=1
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=4
#SBATCH --time=04:00:00
#SBATCH --signal=TERM@120
#SBATCH --output=slurm-%A_%a.log
set -euo pipefail
exec srun .venv/bin/python -m launch.sweep "$@" --index="$SLURM_ARRAY_TASK_ID"
