"""EMA-Net, Cross-Task Affinity Learning and their peers in JAX and Flax."""
