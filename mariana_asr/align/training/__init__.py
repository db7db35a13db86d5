"""Training of GMM-HMM systems, from a flat start to speaker adaptation."""
