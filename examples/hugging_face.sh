#!/usr/bin/env bash
# Export a run for Hugging Face transformers, import it back, and train on:  ./hugging_face.sh RUN_DIR DATA_DIR [OUTPUT_DIR]
# RUN_DIR and DATA_DIR are those of another example, for example outputs/own_text/run and outputs/own_text/data.
set -euo pipefail
run=$(realpath -m "${1:?RUN_DIR is missing}")
data=$(realpath -m "${2:?DATA_DIR is missing}")
output=$(realpath -m "${3:-outputs/hugging_face}")

# 1. Write config.json, model.safetensors and the tokenizer. The result names the largest difference between the logits of
#    transformers and ours; nothing is written if it is more than rounding.
trireme export-hf "$run" "$output/exported"

# 2. Any model of a supported family comes in the same way, from its directory or a .gguf file.
trireme import-hf "$output/exported" "$output/imported"

# 3. Continue with its weights and a fresh optimizer, here on two pipeline stages. The shards name their own file of the
#    tokenizer, which has the same tokens; for other shards, prepare them with the one of the import.
trireme local pretrained_checkpoint="$output/imported" run_name=continued output_dir="$output" parallel=pp2 \
  "data.train=[{paths:['$data/train']}]" tokenizer.path="$data/tokenizer.model" training.train_iters=5 training.global_batch_size=8 \
  training.micro_batch_size=4 training.eval_interval=0 optimizer.lr=1e-4 logging=quiet logging.log_interval=1
