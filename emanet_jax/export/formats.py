"""The three formats: how a network is written to a folder, and how other programs load it."""

import collections
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

Maps = Mapping[str, Any]  # {task: (b, h, w, k)}


class Network(NamedTuple):
    """A network to export.

    Attributes:
        predict: (variables, images (b, h, w, 3) uint8) to {task: (b, h, w, k)}.
        tasks: their names, in the order in which the export gives their maps.
        variables: the network's, NumPy arrays.
        image_size: (h, w).
        batch: the number of images that it takes at a time; None: any number.
        platforms: cpu, cuda, rocm or tpu, on which XLA may run it.
        description: a sentence.
    """

    predict: Callable[[Any, jax.Array], dict[str, jax.Array]]
    tasks: tuple[str, ...]
    variables: Any
    image_size: tuple[int, int]
    batch: int | None
    platforms: tuple[str, ...]
    description: str

    def image_spec(self) -> jax.ShapeDtypeStruct:
        """The shape and dtype of its images; a batch of any size is a symbol."""
        batch = export.symbolic_shape("batch")[0] if self.batch is None else self.batch
        return jax.ShapeDtypeStruct((batch, *self.image_size, 3), jnp.uint8)

    def apply(self, images: jax.Array) -> "collections.OrderedDict[str, jax.Array]":
        """Predictions in the order of `tasks`, with the variables as constants."""
        maps = self.predict(self.variables, images)
        # JAX gives the entries of a plain dict back in alphabetical order.
        return collections.OrderedDict((name, maps[name]) for name in self.tasks)


class Format(NamedTuple):
    """A way to write a network, and to load it without this package.

    Attributes:
        write: writes the network into an empty folder.
        load: makes a function of images (b, h, w, 3) uint8 from the folder.
        recipe: Python that does the same, with FOLDER and `images` as placeholders.
        packages: that `write` and `load` need beside those that every command needs.
        install: how to get them.
        on_xla: whether it is compiled for platforms.
        ordered: whether its outputs have an order, beside their names.
    """

    write: Callable[[Network, Path], None]
    load: Callable[[Path], Callable[[np.ndarray], Maps]]
    recipe: str
    packages: tuple[str, ...] = ()
    install: str = ""
    on_xla: bool = True
    ordered: bool = True


STABLEHLO_FILE, ONNX_FILE = "model.jax_export", "model.onnx"
ONNX_OPSET = (
    18  # of 2022; jax2onnx's default, 23, gives the same numbers but fewer runtimes know it
)
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def _write_stablehlo(network: Network, folder: Path) -> None:
    exported = export.export(jax.jit(network.apply), platforms=network.platforms)
    (folder / STABLEHLO_FILE).write_bytes(exported(network.image_spec()).serialize())


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
    except tf.errors.OpError as error:  # TensorFlow's own error for a full disk
        raise OSError(str(error)) from error


def _load_savedmodel(folder: Path) -> Callable[[np.ndarray], Maps]:
    import tensorflow as tf

    loaded = tf.saved_model.load(str(folder))  # its signature alone does not keep it alive
    return lambda images: loaded.signatures["serving_default"](image=tf.constant(images))


def _write_onnx(network: Network, folder: Path) -> None:
    import jax2onnx

    logging.getLogger("onnx_ir").setLevel(logging.ERROR)  # warns of every shape that it computes
    spec = network.image_spec()
    model = jax2onnx.to_onnx(
        network.apply,
        [spec],
        opset=ONNX_OPSET,
        input_names=["image"],
        output_names=list(network.tasks),
    )
    model.doc_string = network.description
    (folder / ONNX_FILE).write_bytes(model.SerializeToString())


def _load_onnx(folder: Path) -> Callable[[np.ndarray], Maps]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors: it warns of every initializer that it has no use for
    session = onnxruntime.InferenceSession(
        str(folder / ONNX_FILE), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return lambda images: dict(zip(names, session.run(names, {"image": images}), strict=True))


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
        install="pip install tensorflow",
        ordered=False,
    ),
    "onnx": Format(
        _write_onnx,
        _load_onnx,
        f"onnxruntime.InferenceSession('FOLDER/{ONNX_FILE}').run(None, {{'image': images}})",
        packages=("jax2onnx", "onnxruntime"),
        # jax2onnx holds Orbax at an older version than the rest wants: an environment of its own.
        install="uv run --no-project --isolated --with-requirements requirements-onnx.txt "
        "python -m emanet_jax.export ...",
        on_xla=False,
    ),
}
