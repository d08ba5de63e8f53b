#!/usr/bin/env bash
# Plan an 8B model on 4 nodes of 8 H100, then render its Slurm job; nothing is submitted.  ./plan_and_submit.sh [OUTPUT_DIR]
set -euo pipefail
output=$(realpath -m "${1:-outputs/plan_and_submit}")
mkdir -p "$output"

# One list of overrides serves planning, preflight and submission.
overrides=(
  cluster=h100 cluster.num_nodes=4 model=llama_8b precision=bf16
  training.global_batch_size=512 training.train_iters=100000
  output_dir="$output" run_name=llama_8b
)

# 1. Predict memory, step time and the best layouts, as a table and a page (plan.html). Needs no GPU.
trireme plan "${overrides[@]}" html="$output/plan.html"

# 2. Render the Slurm job with one of the layouts: dry_run=true prints the script instead of submitting it.
trireme slurm "${overrides[@]}" parallel=tp2 data.train="[{paths:['$output/train']}]" model.vocab_size=128256 dry_run=true
