#!/bin/bash
# One run on several nodes under SLURM, a process a GPU:
#
#   sbatch launch/cluster/slurm.sh --config=configs/lottery/resnet.py --workdir=runs/resnet
#
# SLURM tells every process what the others are. SIGTERM comes two minutes before the end of the
# time: the run saves, ends with code 143, and goes on when the same line is submitted again.
#SBATCH --job-name=reduction
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=4
#SBATCH --time=04:00:00
#SBATCH --signal=TERM@120
#SBATCH --output=slurm-%j.log
set -euo pipefail
exec srun .venv/bin/python -m launch.run "$@"
