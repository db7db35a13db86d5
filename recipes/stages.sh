# The stages of a recipe as shell commands, each on Kaldi directories. A recipe's run.sh sets the
# options of each stage (corpus, features, lang, mono, nnet) and sources this file.
#   run.sh [--stage N] [--exp DIR] [--jobs N]     starts at stage N, 0 by default
set -euo pipefail

stage=0
exp=exp/${corpus[0]}_shell
jobs=$(nproc)
while [ $# -gt 0 ]; do
  case $1 in
    --stage | --exp | --jobs) declare "${1#--}=$2"; shift 2 ;;
    *) echo "usage: $0 [--stage N] [--exp DIR] [--jobs N]" >&2; exit 2 ;;
  esac
done

run() {
  echo "\$ mariana-asr $*" >&2
  mariana-asr "$@"
}

decode_and_score() { # system: decode dev and test, choose the weights on dev
  for set in dev test; do
    run decode "$exp/features/$set" "$exp/$1" "$exp/graph_mono" "$exp/decode_$1/$set" -j "$jobs"
  done
  run score "$exp/features/test" "$exp/decode_$1/test" \
    --dev "$exp/features/dev" "$exp/decode_$1/dev"
}

if [ "$stage" -le 0 ]; then # data directories and dictionary
  run prepare "${corpus[0]}" "$exp/corpus" "${corpus[@]:1}"
fi

if [ "$stage" -le 1 ]; then # features and CMVN statistics
  for set in train dev test; do
    run features "$exp/corpus/$set" "$exp/features/$set" -j "$jobs" "${features[@]}"
  done
fi

if [ "$stage" -le 2 ]; then # lexicon, phones and grammar
  run lang "$exp/corpus/dict" "$exp/lang" "${lang[@]}"
fi

if [ "$stage" -le 3 ]; then # monophone GMM, its alignments and its decoding graph
  run train-mono "$exp/features/train" "$exp/lang" "$exp/mono" -j "$jobs" "${mono[@]}"
  run align "$exp/features/dev" "$exp/lang" "$exp/mono" "$exp/align_dev" -j "$jobs"
  run graph "$exp/lang" "$exp/mono" "$exp/graph_mono"
fi

if [ "$stage" -le 4 ]; then
  decode_and_score mono
fi

if [ "$stage" -le 5 ]; then # the network, on the GMM's alignments
  run train-nnet "$exp/features/train" "$exp/mono" "$exp/features/dev" "$exp/align_dev" \
    "$exp/dnn" "${nnet[@]}"
fi

if [ "$stage" -le 6 ]; then
  decode_and_score dnn
fi
