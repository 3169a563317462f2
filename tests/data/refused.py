"""A check that every builder refuses wrong files alike."""

import pathlib

import pytest
from ml_collections import ConfigDict

from emanet_jax.data import pipeline
from emanet_jax.errors import UserError


def refused(config: ConfigDict, place: object, words: str) -> None:
    """The build ends with one sentence that names the place, and leaves nothing behind."""
    with pytest.raises(UserError, match=words) as error:
        pipeline.prepare(config)
    assert str(place) in str(error.value)
    assert "\n" not in str(error.value)
    assert str(error.value).endswith(".")
    built = pathlib.Path(config.data_dir)
    assert not list(built.rglob("*.array_record*"))
    assert not list(built.rglob("incomplete*"))
