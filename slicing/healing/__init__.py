"""Training what is left of a model, so that it wins back what it lost. Knows nothing about recipes."""
