# The stages of a recipe as shell commands, each on Kaldi directories. A recipe's run.sh sets the
# options of each stage (corpus, features, lang, mono, nnet, and tri1, tri2, tri3 where it has those
# GMM systems, realign where a second network is to learn from the first) and sources this file.
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

rungs=(mono) # GMM systems
for rung in tri1 tri2 tri3; do
  if declare -p $rung > /dev/null 2>&1; then rungs+=($rung); fi
done
last=${rungs[-1]}

train_gmm() { # system, and the one whose alignments it starts from
  local -n options=$1
  local command
  case $1 in
    tri1) command=train-deltas ;;
    tri2) command=train-lda-mllt ;;
    tri3) command=train-sat ;;
  esac
  run $command "$exp/features/train" "$exp/lang" "$exp/$2" "$exp/$1" -j "$jobs" "${options[@]}"
}

align_sets() { # model, folder for its alignments, options...
  for set in train dev; do
    run align "$exp/features/$set" "$exp/lang" "$exp/$1" "$exp/$2/$set" -j "$jobs" "${@:3}"
  done
}

train_network() { # network, folder of alignments
  run train-nnet "$exp/features/train" "$exp/$2/train" "$exp/features/dev" "$exp/$2/dev" \
    "$exp/$1" "${nnet[@]}"
}

decode_and_score() { # system, GMM of its graph: decode dev and test, choose the weights on dev
  for set in dev test; do
    run decode "$exp/features/$set" "$exp/$1" "$exp/graph_$2" "$exp/decode_$1/$set" -j "$jobs"
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

if [ "$stage" -le 3 ]; then # GMM systems, each on the alignments of the one before
  run train-mono "$exp/features/train" "$exp/lang" "$exp/mono" -j "$jobs" "${mono[@]}"
  for ((i = 1; i < ${#rungs[@]}; i++)); do
    train_gmm "${rungs[i]}" "${rungs[i - 1]}"
  done
fi

if [ "$stage" -le 4 ]; then # their decoding graphs and error rates
  for rung in "${rungs[@]}"; do
    run graph "$exp/lang" "$exp/$rung" "$exp/graph_$rung"
    decode_and_score "$rung" "$rung"
  done
fi

if [ "$stage" -le 5 ]; then # the network, on alignments by the last of them
  align_sets "$last" ali
  train_network dnn ali
fi

if [ "$stage" -le 6 ]; then
  decode_and_score dnn "$last"
fi

if [ "$stage" -le 7 ] && declare -p realign > /dev/null 2>&1; then # a second one, on its alignments
  align_sets dnn ali_dnn "${realign[@]}"
  train_network dnn2 ali_dnn
  decode_and_score dnn2 "$last"
fi
