"""The training loop and everything that it works with."""
