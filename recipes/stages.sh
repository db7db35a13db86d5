# The stages of a recipe as shell commands, each on Kaldi directories. A recipe's run.sh sets the
# options of each stage (corpus, features, lang, mono, nnet, and tri1, tri2, tri3 where it has those
# GMM systems, features_net where the network takes features of its own, realign where a second
# network is to learn from the first) and sources this file. With model.adapted=true in nnet the
# network takes the features of the last GMM system, which is then to be tri3.
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

adapted=false own=features # whether networks take adapted features, and where theirs are
if [[ " ${nnet[*]} " == *" model.adapted=true "* ]]; then adapted=true; fi
if declare -p features_net > /dev/null 2>&1; then own=features_net; fi

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

with_transforms() { # whether features are adapted, option that names transforms, their folder
  transforms=()
  if [ "$1" = true ]; then transforms=("$2" "$3"); fi
}

align_sets() { # features, whether they are adapted, model, folder for its alignments, options...
  for set in train dev; do
    with_transforms "$2" --transforms "$exp/ali/$set"
    run align "$exp/$1/$set" "$exp/lang" "$exp/$3" "$exp/$4/$set" -j "$jobs" "${transforms[@]}" \
      "${@:5}"
  done
}

train_network() { # network, folder of alignments
  run train-nnet "$exp/$own/train" "$exp/$2/train" "$exp/$own/dev" "$exp/$2/dev" "$exp/$1" \
    --transform-dir "$exp/ali/train" --held-out-transform-dir "$exp/ali/dev" "${nnet[@]}"
}

decode_and_score() { # features, whether they are adapted, system, GMM of its graph: decode dev and
  # test, choose the weights on dev
  for set in dev test; do
    with_transforms "$2" --transform-dir "$exp/decode_$last/$set"
    run decode "$exp/$1/$set" "$exp/$3" "$exp/graph_$4" "$exp/decode_$3/$set" -j "$jobs" \
      "${transforms[@]}"
  done
  run score "$exp/features/test" "$exp/decode_$3/test" \
    --dev "$exp/features/dev" "$exp/decode_$3/dev"
}

if [ "$stage" -le 0 ]; then # data directories and dictionary
  run prepare "${corpus[0]}" "$exp/corpus" "${corpus[@]:1}"
fi

if [ "$stage" -le 1 ]; then # features and CMVN statistics
  for set in train dev test; do
    run features "$exp/corpus/$set" "$exp/features/$set" -j "$jobs" "${features[@]}"
    if [ $own = features_net ]; then
      beside=()
      if [ $adapted = true ]; then beside=(--beside "$exp/features/$set"); fi
      run features "$exp/corpus/$set" "$exp/$own/$set" -j "$jobs" "${beside[@]}" \
        "${features_net[@]}"
    fi
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
    decode_and_score features false "$rung" "$rung"
  done
fi

if [ "$stage" -le 5 ]; then # the network, on alignments by the last of them
  align_sets features false "$last" ali
  train_network dnn ali
fi

if [ "$stage" -le 6 ]; then
  decode_and_score $own $adapted dnn "$last"
fi

if [ "$stage" -le 7 ] && declare -p realign > /dev/null 2>&1; then # a second one, on its alignments
  align_sets $own $adapted dnn ali_dnn "${realign[@]}"
  train_network dnn2 ali_dnn
  decode_and_score $own $adapted dnn2 "$last"
fi
