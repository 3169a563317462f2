"""Exports that cannot be made."""

from tests.faults.builders import Fault, command, file_at, linked, written


def _export(*arguments: str) -> Fault:
    usual = ("--workdir=run", "--format=stablehlo", "--output=new")
    given = {argument.partition("=")[0] for argument in arguments}
    return command("export", *(x for x in usual if x.partition("=")[0] not in given), *arguments)


EXPORTS = {
    "no format": command("export", "--workdir=run", "--output=new").but("--format"),
    "an unknown format": _export("--format=torch").but("--format=torch", "savedmodel"),
    "an empty output": _export("--output=").but("--output=", "not be empty"),
    "no run": _export("--workdir=official").but("official holds no run"),
    "no images": _export("--batch=0").but("--batch.*0", "65536"),
    "half an image": _export("--batch=1.5").but("--batch=1.5"),
    "a size that is no size": _export("--size=big").but("--size=big", "288x384"),
    "an unknown platform": _export("--platforms=cpu,vulkan").but("--platforms=cpu,vulkan", "rocm"),
    "no platform to check on": _export("--platforms=tpu").but("--platforms=tpu", "cpu among them"),
    "platforms of ONNX": _export("--format=onnx", "--platforms=cpu").but("leave --platforms out"),
    "ONNX without jax2onnx": _export("--format=onnx").but("jax2onnx", "requirements-onnx.txt"),
    "to a bucket": _export("--output=gs://b/x").but("--output=gs://b/x is no place", "gcloud"),
    "over a folder": _export("--output=data").but("--output=.*/data is there.*--overwrite"),
    "over a file": _export("--output=weights.npz", "--overwrite").but("weights.npz is no export"),
    "over a folder that is not its own": _export("--output=run", "--overwrite").but(
        "--output=.*/run is no export"
    ),
    "below a file": _export("--output=weights.npz/new").but("weights.npz/new cannot be written"),
    "to the system": _export("--output=/proc/new").but("--output=/proc/new cannot be written"),
    "to a link to itself": _export("--output=loop").but(
        "--output=.*/loop", damage=linked("loop", "loop")
    ),
    "on a full disk": _export().but("--output=.*/new cannot be written: File too large", full=2000),
    "a SavedModel on a full disk": _export("--format=savedmodel", "--output=saved").but(
        "--output=.*/saved cannot be written", "File too large", full=5000
    ),
    "over another program's export": _export("--output=mine", "--overwrite").but(
        "mine is no export", damage=file_at("mine/model.onnx")
    ),
    "a run of a damaged config": _export().but(
        "config.json", damage=written("run/config.json", "{}")
    ),
}
