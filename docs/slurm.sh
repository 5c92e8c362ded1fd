#!/bin/bash
#SBATCH --job-name=train
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=64G
#SBATCH --time=04:00:00
#SBATCH --output=%x-%j.log
#
# Finds the batch size on the node that trains, then trains with it:
#
#   sbatch slurm.sh [model.py]
#
# BUDGET is the time for the measurements (sbatch --export=ALL,BUDGET=30s).
set -euo pipefail

model=${1:-model.py}
result=$SLURM_JOB_NAME-$SLURM_JOB_ID.json

# As a step of the job, it has the GPU, the processors and the memory limit that the training will have.
srun autobatch probe "$model" --budget "${BUDGET:-60s}" --save "$result"
batch_size=$(autobatch show "$result" -q)

srun python train.py --batch-size "$batch_size"
