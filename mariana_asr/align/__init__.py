"""GMM-HMM training and forced alignment."""
