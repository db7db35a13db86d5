#!/usr/bin/env bash
# The stages of recipe.yaml as shell commands: recipes/aishell/run.sh [--stage N] [--exp DIR] [--jobs N]
corpus=(aishell words=jieba)
features=(type=mfcc sample_frequency=16000 use_energy=false)
lang=(position_dependent_phones=false)
mono=(totgauss=1000)
tri1=(num_leaves=600 totgauss=3000)
tri2=(num_leaves=600 totgauss=3000)
tri3=(num_leaves=600 totgauss=3000)
nnet=(model.hidden_layers=4 model.hidden_dim=512)
source "$(dirname "$0")/../stages.sh"
