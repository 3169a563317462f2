"""ResNet: a stack of residual blocks from 1/4 to 1/32 of the image.

Source: "Deep Residual Learning for Image Recognition" (arXiv 1512.03385), with the stride of a
bottleneck block on its 3 x 3 convolution, as the public ImageNet weights have it.
"""

from functools import partial

import flax.linen as nn
import jax

from emanet_jax.models.layers import BasicBlock, BottleneckBlock, ConvNorm, Dtype


class ResNet(nn.Module):
    """Images (b, H, W, 3) to one map at 1/32, without pooling and classifier."""

    block: type[BasicBlock] | type[BottleneckBlock]
    stem: int
    features: tuple[int, ...]  # of every group of blocks; all but the first group halve the size
    blocks: tuple[int, ...]
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> list[jax.Array]:
        """Images to [(b, H/32, W/32, features[-1])], where there are four groups."""
        unit = partial(ConvNorm, train=train, dtype=self.dtype)
        x = unit(self.stem, 7, stride=2, name="stem")(images)
        x = nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))  # (b, H/4, W/4, stem)
        for group, (features, blocks) in enumerate(zip(self.features, self.blocks, strict=True), 1):
            for i in range(blocks):
                stride = 2 if group > 1 and i == 0 else 1
                x = self.block(unit, features, stride, name=f"group{group}_{i}")(x)
        return [x]


def resnet34(*, dtype: Dtype | None = None) -> ResNet:
    """ResNet-34: 21.3 M parameters, a map of 512 channels."""
    return ResNet(BasicBlock, 64, (64, 128, 256, 512), (3, 4, 6, 3), dtype)


def resnet50(*, dtype: Dtype | None = None) -> ResNet:
    """ResNet-50: 23.5 M parameters, a map of 2048 channels."""
    return ResNet(BottleneckBlock, 64, (256, 512, 1024, 2048), (3, 4, 6, 3), dtype)


def resnet_tiny(*, dtype: Dtype | None = None) -> ResNet:
    """For tests: the same layers, as few of them as there can be."""
    return ResNet(BottleneckBlock, 8, (8, 12, 16, 24), (1, 1, 1, 1), dtype)
