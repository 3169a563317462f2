"""Backbones: images (b, H, W, 3) to a list of maps, finest first."""
