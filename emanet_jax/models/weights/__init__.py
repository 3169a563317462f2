"""Weights of others: PyTorch and safetensors files, the names in them, ImageNet backbones."""
