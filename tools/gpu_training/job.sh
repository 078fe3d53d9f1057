#!/usr/bin/env bash
# Draft: OUT=folder bash job.sh: rooms, decoder, level 1 from the shipped bundle; encoder frozen.
set -u
RENDER=${RENDER:-75} DEC=${DEC:-60} L1=${L1:-235} CAL=${CAL:-12} PROCS=${PROCS:-16} BATCH=${BATCH:-64} W=${W:-/dev/shm/gld}
PY=${PY:-python3}; VAL=${VAL:-32}; J="$PY tools/gpu_training/job.py"; C=config/train/tiny
export PYTHONPATH=.:${PYTHONPATH:-}
mkdir -p "$OUT" $W; exec > >(tee -a "$OUT/log.txt") 2>&1
OMP_NUM_THREADS=1 $J render $W/data $RENDER $PROCS 2>&1 | tail -5
PATHS=[$(ls -d $W/data/train_* | paste -sd,)]
common=(--set data.kind=rooms --set "data.paths=$PATHS" --set "data.held_out_paths=[$W/data/validation]" --set "data.sizes_wh=[[112,84]]" --set "data.size_weights=[1.0]" --set batch_size=$BATCH --set checkpoint_minutes=60 --set options.validation_scenes=$VAL)
stage() { # name bundle seconds settings: a short run measures the rate, then a cosine over the time
  local name=$1 bundle=$2 seconds=$3; shift 3
  $J train $name --config $C/$name.yaml --bundle $bundle --run $W/${name}_rate --max-minutes $(awk "BEGIN{print $CAL/60}") "${common[@]}" --set steps=100000 --set validate_every=100000 "$@" 2>&1 | tr '\r' '\n' | tail -4
  local steps; steps=$($PY - $W/${name}_rate/metrics.jsonl $seconds <<'P'
import json, sys
rows = [json.loads(l) for l in open(sys.argv[1])]
half = rows[len(rows) // 2:]
rate = (half[-1]["step"] - half[0]["step"]) / max(0.1, half[-1]["seconds"] - half[0]["seconds"])
print(max(4, int(0.95 * rate * float(sys.argv[2]))))
P
) || steps=500
  $J train $name --config $C/$name.yaml --bundle $bundle --run $W/$name --max-minutes $(awk "BEGIN{print 1.15*$seconds/60}") "${common[@]}" --set steps=$steps --set validate_every=$((steps / 4 + 1)) "$@" 2>&1 | tr '\r' '\n' | grep -E 'INFO|WARN|rror|Trace|File' | tail -30
}
stage decoder tiny $DEC --set optimizer.learning_rate=6e-4 --set optimizer.warmup_steps=50 --set optimizer.final_fraction=0.02 --set optimizer.ema_decay=0.99
stage level1 $W/decoder/export $L1 --set optimizer.learning_rate=6e-4 --set optimizer.warmup_steps=100 --set optimizer.final_fraction=0.02 --set optimizer.ema_decay=0.998
$PY tools/convert_bundle_fp16.py $W/level1/export $W/fp16 --overwrite && for f in $W/fp16/*; do
  if [ $(stat -c %s $f) -gt 15000000 ]; then split -b 15000000 -d $f "$OUT/$(basename $f).part"; else cp $f "$OUT/"; fi; done
