#!/usr/bin/env bash
# Pretrain a small model on your own text files:  ./own_text.sh [OUTPUT_DIR] [TEXT_FILE ...]
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
output=${1:-outputs/own_text}
# Default: this project's documentation.
if [ $# -gt 1 ]; then texts=("${@:2}"); else texts=("$here"/../docs/{data,launch,training}/*.md "$here"/../README*.md); fi
mkdir -p "$output"
output=$(cd "$output" && pwd)

# Hydra reads lists as ["a","b"]; quotes keep names with spaces whole.
paths=$(printf '"%s",' "${texts[@]}")

# 1. Text files -> a tokenizer, shards for training and validation, a report (data/report.html).
#    About one document in five is held out; with few files the share varies.
trireme prepare data_prep.output_dir="$output/data" \
  "data_prep.sources=[{name:mine,kind:text,paths:[${paths%,}]}]" \
  data_prep.split.validation_fraction=0.2

# 2. Train on this host: two tensor-parallel processes, 40 steps.
trireme local model=quickstart parallel=tp2 run_name=run output_dir="$output" \
  tokenizer.path="$output/data/tokenizer.model" \
  "data.train=[{paths:['$output/data/train']}]" "data.validation=[{paths:['$output/data/validation']}]" \
  training.train_iters=40 training.global_batch_size=8 training.micro_batch_size=4 training.eval_interval=20 \
  model.seq_length=128 optimizer.lr=3e-3 logging=quiet logging.log_interval=1

# 3. Generate. A model this small, trained this briefly, writes fragments: the point is that the pipeline works.
trireme generate "$output/run" --prompt "The" --max-new-tokens 30 --seed 1
