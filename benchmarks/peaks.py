"""What a device can do at most: multiplications and additions a second, by its data sheet."""

import jax
import jax.numpy as jnp

from benchmarks.timing import seconds

# Dense TFLOP/s by data sheet (H100: the SXM form), by a part of JAX's name for the device: those of
# float32 as JAX multiplies it by default, which is in TF32 on GPUs and in bfloat16 on TPUs, and
# those of bfloat16.
PEAKS = {
    "H200": (495.0, 989.0),
    "H100": (495.0, 989.0),
    "A100": (156.0, 312.0),
    "TPU v4": (275.0, 275.0),
    "TPU v5 lite": (197.0, 197.0),
    "TPU v5e": (197.0, 197.0),
    "TPU v5p": (459.0, 459.0),
    "TPU v5": (459.0, 459.0),  # what JAX calls a v5p
    "TPU v6 lite": (918.0, 918.0),
    "TPU v6e": (918.0, 918.0),
}
_SIDE = 2048  # of the matrices that a CPU's peak is measured with


def peak_tflops(precision: str, device: jax.Device | None = None) -> float:
    """The peak of a device (the first one) in 1e12 operations a second; NaN where it is not known.

    A CPU's is measured with a product of large float32 matrices, in both precisions: XLA computes
    bfloat16 in float32 there.

    Args:
        precision: "float32" or "bfloat16".
        device: whose.
    """
    device = device or jax.devices()[0]
    if device.platform == "cpu":
        return _measured()
    known = [peaks for name, peaks in PEAKS.items() if name in device.device_kind]
    return known[0][precision == "bfloat16"] if known else float("nan")


def _measured() -> float:
    x = jnp.ones((_SIDE, _SIDE))
    return 2e-12 * _SIDE**3 / seconds(jax.jit(jnp.matmul), x, x, budget=1.0)
