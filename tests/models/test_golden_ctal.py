"""The CTAL core alone against the reference's, forwards and backwards."""

import golden_rules as golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emanet_jax.models.ctal import IMPLEMENTATIONS, CrossTaskAffinity


def relative(x, reference):
    return np.linalg.norm(np.asarray(x) - reference) / np.linalg.norm(reference)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("fusion", ["shared", "task_specific"])
def test_ctal_alone(fusion, implementation):
    with np.load(golden.GOLDEN / "ctal" / "ctal.npz") as arrays:
        reference = dict(arrays)

    def nhwc(key):
        return jnp.asarray(reference[key].transpose(0, 2, 3, 1), jnp.float64)

    def hwio(key):
        return jnp.asarray(reference[key].transpose(2, 3, 1, 0), jnp.float64)

    def vector(key):
        return jnp.asarray(reference[key], jnp.float64)

    names = ("t0", "t1", "t2")
    with jax.enable_x64(True):
        module = CrossTaskAffinity(fusion=fusion, implementation=implementation, gamma=0.05)
        features = {t: nhwc(f"features/{t}") for t in names}
        params = {}
        for t in names:
            kernel, bias = hwio(f"value_kernel_oihw/{t}"), vector(f"value_bias/{t}")
            params[f"value_{t}"] = {"kernel": kernel, "bias": bias}
            kernel, bias = hwio(f"fusion_kernel_oihw/{t}"), vector(f"fusion_bias/{t}")
            params[f"fusion_{t}"] = {"kernel": kernel, "bias": bias}
        if fusion == "shared":
            params["fusion"] = params["fusion_t0"]
            params = {key: x for key, x in params.items() if not key.startswith("fusion_")}

        def loss(params, features):
            refined = module.apply({"params": params}, features)
            return sum(jnp.sum(x**2) for x in refined.values()), refined

        gradients, refined = jax.grad(loss, (0, 1), has_aux=True)(params, features)
        for t in names:
            assert relative(refined[t], nhwc(f"{fusion}/{t}")) < 4e-8
        if fusion == "shared":
            for t in names:
                assert relative(gradients[1][t], nhwc(f"shared_grad_features/{t}")) < 4e-8
            kernel = hwio("shared_grad_fusion_kernel_oihw")
            assert relative(gradients[0]["fusion"]["kernel"], kernel) < 4e-8
            bias = vector("shared_grad_fusion_bias")
            assert relative(gradients[0]["fusion"]["bias"], bias) < 4e-8
