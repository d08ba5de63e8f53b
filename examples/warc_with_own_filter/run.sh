#!/usr/bin/env bash
# A web archive to token shards, with a custom filter:  ./run.sh [OUTPUT_DIR] [ARCHIVE.warc.gz ...]
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
output=$(realpath -m "${1:-outputs/own_filter}")
mkdir -p "$output"

if [ $# -gt 1 ]; then
  archives=("${@:2}")
else
  # Default: serve a few pages on this host and crawl them into a WARC file.
  site=$(mktemp -d)
  trap 'kill "$server"; rm -rf "$site"' EXIT
  for page in 1 2 3 4 5 6; do
    words="Page $page is about sails and oars"
    [ $((page % 3)) = 0 ] && words="Short"
    {
      echo "<html><head><title>$words</title></head><body><h1>$words</h1>"
      for line in 1 2 3 4 5; do
        echo "<p>Paragraph $line of page $page tells how a ship of number $((page * line)) was rowed across the sea by its crew.</p>"
      done
      echo "<a href='$((page % 6 + 1)).html'>next</a></body></html>"
    } >"$site/$page.html"
  done
  python -u -m http.server --directory "$site" --bind 127.0.0.1 0 >"$site/log" 2>&1 &
  server=$!
  until port=$(sed -n 's/.* port \([0-9]*\).*/\1/p' "$site/log") && [ -n "$port" ]; do sleep 0.1; done
  rm -f "$output/site.warc.gz"
  trireme crawl "http://127.0.0.1:$port/1.html" --output "$output/site.warc.gz" --delay 0
  archives=("$output/site.warc.gz")
fi

# PYTHONPATH lets `_target_` find own_filter.py. The ledger records the outcome of every record.
paths=$(printf '"%s",' "${archives[@]}")
PYTHONPATH=$here trireme prepare data_prep.output_dir="$output/data" \
  "data_prep.sources=[{name:site,kind:warc,paths:[${paths%,}]}]" \
  'data_prep.custom_filters=[{_target_:own_filter.DropShortTitles,min_words:3}]' \
  data_prep.split.validation_fraction=0.2
trireme inspect "$output/data/train" --doc 0
