#!/usr/bin/env bash
# The stages of recipe.yaml as shell commands: recipes/an4/run.sh [--stage N] [--exp DIR] [--jobs N]
corpus=(an4 dev_speakers=0.1)
features=(type=mfcc sample_frequency=16000 use_energy=false)
lang=()
mono=(totgauss=1000)
tri1=(num_leaves=1800 totgauss=9000)
tri2=(num_leaves=1800 totgauss=9000)
tri3=(num_leaves=1800 totgauss=9000)
nnet=(model.hidden_layers=4 model.hidden_dim=512)
source "$(dirname "$0")/../stages.sh"
