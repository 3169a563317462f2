"""The three formats: how a network is written to a folder, and loaded back as other programs do."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

Maps = Mapping[str, Any]  # {task: (b, h, w, k)}


class Network(NamedTuple):
    """What is exported.

    Attributes:
        predict: (variables, images (b, h, w, 3) uint8) to {task: (b, h, w, k)}.
        variables: of the network, NumPy arrays.
        image_size: (h, w).
        batch: images that it takes at a time; None: any number.
        platforms: that XLA may run it on: cpu, cuda, rocm, tpu.
        about: a sentence on what it is.
    """

    predict: Callable[[Any, jax.Array], dict[str, jax.Array]]
    variables: Any
    image_size: tuple[int, int]
    batch: int | None
    platforms: tuple[str, ...]
    about: str

    def images(self) -> jax.ShapeDtypeStruct:
        """What it takes, with a symbol for a batch of any size."""
        batch = export.symbolic_shape("batch")[0] if self.batch is None else self.batch
        return jax.ShapeDtypeStruct((batch, *self.image_size, 3), jnp.uint8)

    def of_images(self, images: jax.Array) -> dict[str, jax.Array]:
        """Predictions, with the variables as constants."""
        return self.predict(self.variables, images)


class Format(NamedTuple):
    """A way to write a network, and to load it without this package.

    Attributes:
        write: writes the network into an empty folder.
        load: the folder as a function of images (b, h, w, 3) uint8.
        recipe: Python that does the same, of FOLDER and `images`.
        packages: that `write` and `load` need, beside those that everything here runs on.
        on_xla: whether it is compiled for platforms.
    """

    write: Callable[[Network, Path], None]
    load: Callable[[Path], Callable[[np.ndarray], Maps]]
    recipe: str
    packages: tuple[str, ...] = ()
    on_xla: bool = True


STABLEHLO_FILE, ONNX_FILE = "model.jax_export", "model.onnx"
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def _write_stablehlo(network: Network, folder: Path) -> None:
    traced = export.export(jax.jit(network.of_images), platforms=network.platforms)
    (folder / STABLEHLO_FILE).write_bytes(traced(network.images()).serialize())


def _load_stablehlo(folder: Path) -> Callable[[np.ndarray], Maps]:
    return export.deserialize(bytearray((folder / STABLEHLO_FILE).read_bytes())).call


def _write_savedmodel(network: Network, folder: Path) -> None:
    import tensorflow as tf
    from jax.experimental import jax2tf

    tf.config.set_visible_devices([], "GPU")
    converted = jax2tf.convert(
        network.predict,
        polymorphic_shapes=[None, "(batch, _, _, _)"] if network.batch is None else None,
        with_gradient=False,
        native_serialization_platforms=network.platforms,
    )
    module = tf.Module()
    # Variables, because constants of a graph may take no more than 2 GB together.
    module.weights = jax.tree.map(tf.Variable, network.variables)
    shape = (network.batch, *network.image_size, 3)
    module.predict = tf.function(
        lambda image: converted(module.weights, image),
        autograph=False,
        input_signature=[tf.TensorSpec(shape, tf.uint8, "image")],
    )
    try:
        tf.saved_model.save(module, str(folder), signatures=module.predict)
    except tf.errors.OpError as error:  # TensorFlow's own for what the disk answers
        raise OSError(str(error)) from error


def _load_savedmodel(folder: Path) -> Callable[[np.ndarray], Maps]:
    import tensorflow as tf

    loaded = tf.saved_model.load(str(folder))  # its signature alone does not keep it alive
    return lambda images: loaded.signatures["serving_default"](image=tf.constant(images))


def _write_onnx(network: Network, folder: Path) -> None:
    from emanet_jax.export.onnx_graph import to_onnx
    from emanet_jax.export.onnx_operators import RULES

    model = to_onnx(network.of_images, network.images(), RULES, network.about)
    (folder / ONNX_FILE).write_bytes(model.SerializeToString())


def _load_onnx(folder: Path) -> Callable[[np.ndarray], Maps]:
    import onnxruntime

    session = onnxruntime.InferenceSession(
        str(folder / ONNX_FILE), providers=["CPUExecutionProvider"]
    )
    return functools.partial(_run_onnx, session, [x.name for x in session.get_outputs()])


def _run_onnx(session: Any, names: list[str], images: np.ndarray) -> Maps:
    return dict(zip(names, session.run(names, {"image": images}), strict=True))


FORMATS = {
    "stablehlo": Format(
        _write_stablehlo,
        _load_stablehlo,
        f"jax.export.deserialize(bytearray(open('FOLDER/{STABLEHLO_FILE}', 'rb').read()))"
        ".call(images)",
    ),
    "savedmodel": Format(
        _write_savedmodel,
        _load_savedmodel,
        "model = tf.saved_model.load('FOLDER'); "
        "model.signatures['serving_default'](image=tf.constant(images))",
        packages=("tensorflow",),
    ),
    "onnx": Format(
        _write_onnx,
        _load_onnx,
        f"onnxruntime.InferenceSession('FOLDER/{ONNX_FILE}').run(None, {{'image': images}})",
        packages=("onnx", "onnxruntime"),
        on_xla=False,
    ),
}
