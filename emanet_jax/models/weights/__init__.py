"""Weights from elsewhere: files of PyTorch and safetensors, their names, ImageNet backbones."""
