#!/usr/bin/env bash
# Stop a run under one parallel layout, resume it under another:  ./resume_elsewhere.sh DATA_DIR [OUTPUT_DIR]
# DATA_DIR is what `trireme prepare` wrote, for example outputs/own_text/data.
set -euo pipefail
data=$(realpath -m "${1:?DATA_DIR is missing}")
output=$(realpath -m "${2:-outputs/resume_elsewhere}")

train() {
  trireme local model=quickstart run_name=run output_dir="$output" "data.train=[{paths:['$data/train']}]" \
    tokenizer.path="$data/tokenizer.model" model.seq_length=64 training.global_batch_size=8 training.micro_batch_size=2 \
    training.train_iters=20 training.eval_interval=0 logging=quiet logging.log_interval=1 "$@"
}

# Ten steps on two data-parallel processes with ZeRO-1, then save and stop, as Ctrl-C or a time limit would.
# Exit code 75 means: saved, start again.
train parallel=dp2 engine=deepspeed training.stop_after_step=10 || [ $? = 75 ]

# The same command with another layout and engine resumes, because resume=auto is the default. Weights, moments and sample
# order continue on two pipeline stages.
train parallel=pp2 engine=megatron

# Check that every step was taken once, in order.
python - "$output/run/metrics.jsonl" <<'PYTHON'
import json, sys
steps = [record["step"] for record in map(json.loads, open(sys.argv[1])) if record["kind"] == "train"]
assert steps == list(range(1, 21)), steps
print("steps 1 to 20, each once: 10 on dp2, 10 on pp2")
PYTHON
