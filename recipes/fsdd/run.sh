#!/usr/bin/env bash
# The stages of recipe.yaml as shell commands: recipes/fsdd/run.sh [--stage N] [--exp DIR] [--jobs N]
corpus=(fsdd task=connected 'test_speakers=[jackson]' 'dev_speakers=[george]')
features=(type=mfcc sample_frequency=8000 use_energy=false)
lang=(lm.type=word_loop 'lm.words=[zero, one, two, three, four, five, six, seven, eight, nine]')
mono=(totgauss=400)
nnet=(
  model.hidden_layers=3 model.hidden_dim=512
  model.transform.cmvn=utterance model.transform.norm_vars=true model.transform.delta_order=2
)
source "$(dirname "$0")/../stages.sh"
