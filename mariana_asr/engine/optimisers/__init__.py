"""How gradients change the parameters."""
