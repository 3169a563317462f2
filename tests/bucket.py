"""A folder in the place of a bucket: gs:// for epath, Orbax and TensorFlow, without a network.

epath's gs:// asks tf.io.gfile, here with the names mapped to the folder; TensorStore writes arrays
with its file driver instead of its gcs driver; the client of google-cloud-storage, which Orbax asks
what kind of bucket this is, answers that it is a plain one.
"""

import os
import types
from pathlib import Path
from typing import Any

import pytest

PREFIX = "gs://"


def install(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Makes gs://BUCKET/NAME the file NAME in folder/BUCKET until the test ends."""
    import tensorflow as tf
    from etils.epath import backend
    from google.cloud import storage
    from orbax.checkpoint._src.path import gcs_utils

    def local(name: Any) -> Any:
        text = os.fspath(name) if isinstance(name, (str, os.PathLike)) else ""
        return str(folder / text.removeprefix(PREFIX)) if text.startswith(PREFIX) else name

    def remote(name: Any) -> Any:
        if isinstance(name, list):
            return [remote(x) for x in name]
        root = f"{folder}/"
        inside = isinstance(name, str) and name.startswith(root)
        return PREFIX + name.removeprefix(root) if inside else name

    class Mapped:
        def __getattr__(self, name: str) -> Any:
            function = getattr(tf.io.gfile, name)
            if name == "GFile":
                return lambda path, mode="r": function(local(path), mode)
            return lambda *args, **options: remote(function(*map(local, args), **options))

    create_writer = tf.summary.create_file_writer
    monkeypatch.setattr(backend._TfBackend, "gfile", Mapped())
    monkeypatch.setattr(tf.summary, "create_file_writer", lambda name: create_writer(local(name)))
    monkeypatch.setattr(
        gcs_utils, "get_kvstore_for_gcs", lambda name: {"driver": "file", "path": local(name)}
    )
    plain = types.SimpleNamespace(hierarchical_namespace_enabled=False)
    client = types.SimpleNamespace(get_bucket=lambda name: plain)
    monkeypatch.setattr(storage, "Client", lambda: client)
    gcs_utils.get_bucket.cache_clear()
