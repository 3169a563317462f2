"""Distillation: {task: features} to {task: features}, each task learning from the others."""

from collections.abc import Mapping
from functools import partial

import flax.linen as nn
import jax

from emanet_jax.models.blocks import BatchNorm, Conv, DoublingConv, Dtype
from emanet_jax.models.ctal import CrossTaskAffinity


class AffinityBlock(nn.Module):
    """CTAL between a narrowing 1 x 1 convolution and a doubling of the resolution.

    Source: EMA-Net, arXiv 2401.11124. All its convolutions have biases, the ones in front of a
    batch norm too.
    """

    tasks: tuple[str, ...]
    features: int = 128
    fusion: str = "task_specific"
    implementation: str = "auto"
    gamma: float = 0.05
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, features: Mapping[str, jax.Array], train: bool) -> dict[str, jax.Array]:
        """{task: (b, h, w, c)} to {task: (b, 2h, 2w, features)}."""
        conv = partial(Conv, self.features, dtype=self.dtype)
        narrow = {task: conv(1, name=f"in_{task}")(features[task]) for task in self.tasks}
        refined = CrossTaskAffinity(
            self.fusion, self.implementation, self.gamma, self.tasks, self.dtype, name="affinity"
        )(narrow)
        doubled = {}
        for task in self.tasks:
            x = DoublingConv(self.features, self.dtype, name=f"double_{task}")(refined[task])
            x = nn.relu(BatchNorm(train, dtype=self.dtype, name=f"bn_{task}")(x))
            doubled[task] = conv(3, name=f"out_{task}")(x)
        return doubled
