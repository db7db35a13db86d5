#!/usr/bin/env bash
# The stages of recipe.yaml as shell commands: recipes/thchs30/run.sh [--stage N] [--exp DIR] [--jobs N]
corpus=(thchs30 words=jieba)
features=(type=mfcc sample_frequency=16000 use_energy=false)
lang=(position_dependent_phones=false)
mono=(totgauss=1000)
tri1=(num_leaves=2000 totgauss=10000)
tri2=(num_leaves=2500 totgauss=15000)
tri3=(num_leaves=2500 totgauss=15000)
nnet=(model.hidden_layers=4 model.hidden_dim=1024)
source "$(dirname "$0")/../stages.sh"
