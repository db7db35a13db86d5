#!/usr/bin/env bash
# The stages of recipe.yaml as shell commands, each on Kaldi directories.
#   recipes/an4/run.sh [--stage N] [--exp DIR] [--jobs N]
set -euo pipefail

stage=0
exp=exp/an4_shell
jobs=$(nproc)
while [ $# -gt 0 ]; do
  case $1 in
    --stage | --exp | --jobs) declare "${1#--}=$2"; shift 2 ;;
    *) echo "usage: $0 [--stage N] [--exp DIR] [--jobs N]" >&2; exit 2 ;;
  esac
done
run() { echo "\$ $*" >&2; "$@"; }

if [ "$stage" -le 0 ]; then # data directories and dictionary
  run mariana-asr prepare an4 "$exp/corpus" dev_speakers=0.1
fi

if [ "$stage" -le 1 ]; then # features and CMVN statistics
  for set in train dev test; do
    run mariana-asr features "$exp/corpus/$set" "$exp/features/$set" -j "$jobs" \
      type=mfcc sample_frequency=16000 use_energy=false
  done
fi

if [ "$stage" -le 2 ]; then # lexicon, phones and grammar
  run mariana-asr lang "$exp/corpus/dict" "$exp/lang"
fi

if [ "$stage" -le 3 ]; then # monophone GMM and its alignments
  run mariana-asr train-mono "$exp/features/train" "$exp/lang" "$exp/mono" -j "$jobs" totgauss=1000
  run mariana-asr align "$exp/features/dev" "$exp/lang" "$exp/mono" "$exp/align_dev" -j "$jobs"
fi

if [ "$stage" -le 4 ]; then # decode with the GMM; weights are chosen on dev
  run mariana-asr graph "$exp/lang" "$exp/mono" "$exp/graph_mono"
  for set in dev test; do
    run mariana-asr decode "$exp/features/$set" "$exp/mono" "$exp/graph_mono" \
      "$exp/decode_mono/$set" -j "$jobs"
  done
  run mariana-asr score "$exp/features/test" "$exp/decode_mono/test" \
    --dev "$exp/features/dev" "$exp/decode_mono/dev"
fi

if [ "$stage" -le 5 ]; then # the network
  run mariana-asr train-nnet "$exp/features/train" "$exp/mono" \
    "$exp/features/dev" "$exp/align_dev" "$exp/dnn" \
    model.hidden_layers=4 model.hidden_dim=512 model.transform.delta_order=2
fi

if [ "$stage" -le 6 ]; then # decode with the network
  for set in dev test; do
    run mariana-asr decode "$exp/features/$set" "$exp/dnn" "$exp/graph_mono" \
      "$exp/decode_dnn/$set" -j "$jobs"
  done
  run mariana-asr score "$exp/features/test" "$exp/decode_dnn/test" \
    --dev "$exp/features/dev" "$exp/decode_dnn/dev"
fi
