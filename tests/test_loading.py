"""Trained networks by one call: from runs, folders and Hugging Face, on pictures of any size."""

import contextlib
import hashlib
import http.server
import json
import subprocess
import sys
import threading
from typing import ClassVar

import huggingface_hub
import jax
import numpy as np
import pytest
import safetensors.numpy
from huggingface_hub import constants
from PIL import Image

import emanet_jax
from emanet_jax import inference, saved
from emanet_jax.errors import UserError
from tests import fake_runs
from tests.conftest import ROOT

SIZE = (32, 64)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose last evaluation was at its checkpoint."""
    directory = tmp_path_factory.mktemp("runs") / "run"
    config = fake_runs.make_config("hps")
    fake_runs.write_run(directory, config)
    fake_runs.write_checkpoint(directory, config)
    return directory


@pytest.fixture(scope="module")
def folder(run, tmp_path_factory):
    return emanet_jax.save_pretrained(run, tmp_path_factory.mktemp("saved") / "rooms-hps")


@pytest.fixture(scope="module")
def model(folder):
    return emanet_jax.load(folder, batch_size=2)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (3, *SIZE, 3), np.uint8)


def test_a_saved_folder_is_its_run(run, folder, model, images):
    of_run = emanet_jax.load(run)
    assert jax.tree.map(np.array_equal, of_run.trained.variables, model.trained.variables)
    assert model.trained.config.to_json() == of_run.trained.config.to_json()
    for name, x in of_run(images[0]).items():
        np.testing.assert_allclose(model(images[0])[name], x, atol=1e-5)
    assert sorted(path.name for path in folder.iterdir()) == [
        *("README.md", "config.json", "model.safetensors"),
    ]


def test_loading_a_run_says_nothing(run, caplog):
    emanet_jax.load(run)
    assert not caplog.records


def test_maps_are_in_units_and_of_the_pictures_sizes(model, images, tmp_path):
    tasks = {task.name: task for task in model.tasks}
    assert repr(model).startswith("<hps on segnet_tiny at 32x64: semseg, depth, normals; ")
    picture = np.asarray(Image.fromarray(images[0]).resize((50, 41)))
    Image.fromarray(picture).save(tmp_path / "photo.png")
    maps = model(tmp_path / "photo.png")
    assert {name: (x.shape, x.dtype) for name, x in maps.items()} == {
        "semseg": ((41, 50, 1), np.uint8),
        "depth": ((41, 50, 1), np.float32),
        "normals": ((41, 50, 3), np.float32),
    }
    assert maps["semseg"].max() < tasks["semseg"].channels
    np.testing.assert_allclose(np.linalg.norm(maps["normals"], axis=-1), 1, atol=1e-5)
    for other in (picture, str(tmp_path / "photo.png")):
        assert all(np.array_equal(x, maps[name]) for name, x in model(other).items())
    several = model([images[0], picture, images[1]])
    assert [x["depth"].shape[:2] for x in several] == [SIZE, (41, 50), SIZE]
    assert np.array_equal(several[1]["depth"], maps["depth"])


def test_a_batch_is_its_images(model, images):
    maps = model(images)
    for i, image in enumerate(images):
        for name, x in model(image).items():
            np.testing.assert_allclose(maps[name][i], x, atol=1e-5)
    whole = inference.predictor(model.trained)(images)
    np.testing.assert_allclose(maps["depth"], whole["depth"], atol=1e-5)


def test_numbers_in_0_to_1_are_the_same_picture(model, images):
    floats = images / np.float32(255)
    maps = model(images)
    for name, x in model(floats).items():
        np.testing.assert_allclose(x, maps[name], rtol=1e-5, atol=1e-5)
    mixed = model([floats[0], images[1]])
    for i in (0, 1):
        np.testing.assert_allclose(mixed[i]["depth"], maps["depth"][i], rtol=1e-5)


@pytest.mark.parametrize(
    "image, words",
    [
        (np.zeros((32, 64), np.uint8), r"of the shape \(32, 64\); it must be \(h, w, 3\)"),
        (np.zeros((32, 64, 4), np.uint8), r"of the shape \(32, 64, 4\)"),
        (np.full((32, 64, 3), 200.0), r"an image of float64 has values from 200 to 200"),
        (np.full((32, 64, 3), np.nan, np.float32), "an image of float32 has values from nan"),
        (np.zeros((32, 64, 3), np.int32), "an image of int32"),
        ("gone.png", "gone.png cannot be read as a picture"),
    ],
    ids=["grey", "four channels", "0 to 255", "nan", "integers", "no file"],
)
def test_what_is_no_image_is_one_sentence(model, image, words):
    with pytest.raises(UserError, match=words):
        model(image)


def test_another_size_of_the_network(folder, model, images):
    larger = emanet_jax.load(folder, image_size=(64, 96))
    assert larger(images[0])["depth"].shape == (*SIZE, 1)
    assert not np.array_equal(larger(images[0])["depth"], model(images[0])["depth"])


# --- the folder ----------------------------------------------------------------------------------


def test_the_model_card_says_what_a_reader_needs(folder):
    card = (folder / saved.CARD).read_text()
    header, body = card.split("---\n")[1:]
    assert "license: apache-2.0" in header and "library_name: emanet_jax" in header
    for words in (
        *("# rooms-hps", "`hps` (paper) on `segnet_tiny`", "`synthrooms` at 32x64", "12 steps"),
        *("| depth | (h, w, 1) float32, m |", "| normals | (h, w, 3) float32, unit vectors |"),
        *('emanet_jax.load("OWNER/rooms-hps")', "emanet-jax train", "| depth/rmse_m | 1"),
        *("ids of 13 classes | ", "Licence of the weights: apache-2.0."),
    ):
        assert words in body, words


def test_any_flipped_byte_is_an_error(folder, tmp_path):
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    rng = np.random.default_rng(0)
    for name in (saved.WEIGHTS, saved.CONFIG):
        for path in folder.iterdir():
            (damaged / path.name).write_bytes(path.read_bytes())
        content = bytearray((folder / name).read_bytes())
        for place in [0, *rng.integers(0, len(content), 20).tolist(), len(content) - 2]:
            flipped = bytearray(content)
            flipped[place] ^= 1
            (damaged / name).write_bytes(flipped)
            with contextlib.suppress(ValueError):
                if name == saved.CONFIG and json.loads(flipped) == described(folder):
                    continue  # the seventeenth digit of a number
            with pytest.raises(UserError, match=name):
                emanet_jax.load(damaged)
        (damaged / name).unlink()
        with pytest.raises(UserError):
            emanet_jax.load(damaged)


def described(folder) -> dict:
    return json.loads((folder / saved.CONFIG).read_text())


def rewritten(folder, place, **values):
    """The folder with other values in config.json and its right digest."""
    place.mkdir()
    for path in folder.iterdir():
        (place / path.name).write_bytes(path.read_bytes())
    content = {**described(folder), **values}
    content["sha256"][saved.CONFIG] = saved._digest(content)
    (place / saved.CONFIG).write_text(json.dumps(content))
    return place


def test_a_strangers_file_is_not_run(folder, tmp_path):
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    config = {**described(folder)["config"], "extension": str(tmp_path / "evil.py")}
    emanet_jax.load(rewritten(folder, tmp_path / "a", config=config))
    assert not (tmp_path / "ran").exists()
    config["model"]["name"] = "mine"
    place = rewritten(folder, tmp_path / "b", config=config, extension="mine.py")
    with pytest.raises(UserError, match=r"needs mine\.py, which registers .*: run that file first"):
        emanet_jax.load(place)


def test_arrays_of_another_network_are_one_sentence(folder, tmp_path):
    config = described(folder)["config"]
    config["model"]["name"] = "stl"
    place = rewritten(folder, tmp_path / "other", config=config)
    with pytest.raises(UserError, match="holds other arrays than its config's network: "):
        emanet_jax.load(place)


def test_strange_content_with_right_digests_is_one_sentence(folder, tmp_path):
    weights = {"params": np.zeros(2, np.float32), "params/a": np.zeros(2, np.float32)}
    place = rewritten(folder, tmp_path / "names")
    content = safetensors.numpy.save(weights)
    (place / saved.WEIGHTS).write_bytes(content)
    digests = {saved.WEIGHTS: hashlib.sha256(content).hexdigest()}
    place = rewritten(place, tmp_path / "digests", sha256=digests)
    with pytest.raises(UserError, match="holds other arrays than its config's network: "):
        emanet_jax.load(place)
    for config in (None, [1], "hps"):
        place = rewritten(folder, tmp_path / str(config), config=config)
        with pytest.raises(UserError, match=r"config\.json holds no config"):
            emanet_jax.load(place)


def test_nothing_is_replaced_unasked(run, folder, tmp_path):
    with pytest.raises(UserError, match=r"^folder=.* is there already; overwrite=True replaces it"):
        emanet_jax.save_pretrained(run, folder)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years")
    with pytest.raises(UserError, match="is no saved network"):
        emanet_jax.save_pretrained(run, tmp_path / "mine", overwrite=True)
    emanet_jax.save_pretrained(run, folder, overwrite=True)


def test_loading_a_folder_needs_neither_data_sets_nor_checkpoints(folder, tmp_path):
    """In a process where their libraries cannot be imported."""
    Image.new("RGB", (50, 40)).save(tmp_path / "photo.png")
    code = f"""
import sys
for name in ("tensorflow", "tensorflow_datasets", "orbax.checkpoint.checkpoint_managers", "grain",
             "clu", "h5py", "pandas", "matplotlib", "huggingface_hub"):
    sys.modules[name] = None
import emanet_jax
print(emanet_jax.load({str(folder)!r})({str(tmp_path / "photo.png")!r})["depth"].shape)
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "(40, 50, 1)\n", done.stderr


@pytest.mark.parametrize("name", ["nowhere", "a/b/c", "runs/gone"])
def test_a_source_that_is_nothing(name, tmp_path, monkeypatch):
    """A folder's neighbour is meant to be a folder: nobody is asked for it."""
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", None)
    with pytest.raises(UserError, match=f"{name} holds no run"):
        emanet_jax.load(name)


# --- Hugging Face --------------------------------------------------------------------------------


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of Hugging Face as an upload and a download ask; `requests` is what was asked."""

    files: ClassVar[dict[str, bytes]] = {}
    requests: ClassVar[list[tuple[str, str, bytes, dict]]] = []
    commit = "0123456789" * 4

    def _answer(self, content: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _note(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.requests.append((self.command, self.path, body, dict(self.headers)))
        return body

    def do_POST(self) -> None:
        body = self._note()
        if self.path == "/api/repos/create":
            answer = {"url": f"http://{self.headers['Host']}/me/rooms", "name": "me/rooms"}
        elif "/preupload/" in self.path:
            files = [{**x, "uploadMode": "regular"} for x in json.loads(body)["files"]]
            answer = {"files": [{**x, "shouldIgnore": False} for x in files]}
        elif self.path.startswith("/api/models/me/rooms/commit/main"):
            answer = {
                "commitUrl": f"http://{self.headers['Host']}/me/rooms/commit/1",
                "commitOid": self.commit,
                "pullRequestUrl": None,
            }
        else:
            answer = {"isValid": True}
        self._answer(json.dumps(answer).encode(), Content_Type="application/json")

    def do_GET(self) -> None:
        self._note()
        name = self.path.rpartition("/")[2]
        if name in self.files and "/resolve/" in self.path:
            headers = {"ETag": f'"{hash(self.files[name])}"', "X_Repo_Commit": self.commit}
            self._answer(self.files[name], **headers)
        else:
            self._answer(b"{}", 404, X_Error_Code="EntryNotFound")

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A stand-in for Hugging Face on this machine."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    for name in ("ENDPOINT", "HUGGINGFACE_CO_URL_HOME"):
        monkeypatch.setattr(constants, name, address, raising=False)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    Hub.files, Hub.requests, Hub.commit = {}, [], "0" * 40
    yield Hub
    server.shutdown()


def test_a_push_sends_the_three_files(run, hub, monkeypatch):
    address = emanet_jax.push_to_hub(run, "me/rooms", private=True)
    assert address.endswith("/me/rooms/commit/1")
    by_path = {path.partition("?")[0]: body for method, path, body, _ in hub.requests}
    created = json.loads(by_path["/api/repos/create"])
    assert (created["name"], created["visibility"]) == ("rooms", "private")
    lines = [json.loads(x) for x in by_path["/api/models/me/rooms/commit/main"].splitlines()]
    sent = sorted(x["value"]["path"] for x in lines if x["key"] == "file")
    assert sent == ["README.md", "config.json", "model.safetensors"]
    for _, path, _, headers in hub.requests:
        if "/create" in path or "/commit/" in path:
            assert {k.lower(): x for k, x in headers.items()}["authorization"] == "Bearer hf_secret"


def test_a_repository_loads_by_its_name(folder, model, hub, images):
    hub.files = {path.name: path.read_bytes() for path in folder.iterdir()}
    loaded = emanet_jax.load("me/rooms")
    np.testing.assert_allclose(loaded(images[0])["depth"], model(images[0])["depth"], atol=1e-5)
    asked = {path for _, path, _, _ in hub.requests}
    assert asked == {f"/me/rooms/resolve/main/{x}" for x in (saved.CONFIG, saved.WEIGHTS)}
    content = bytearray(hub.files[saved.WEIGHTS])
    content[-1] ^= 1
    hub.commit, hub.files = "1" * 40, {**hub.files, saved.WEIGHTS: bytes(content)}
    with pytest.raises(UserError, match="damaged"):
        emanet_jax.load("me/rooms")


def test_what_hugging_face_refuses_is_one_sentence(run, hub):
    with pytest.raises(UserError, match=r"me/gone: config\.json of me/gone cannot be fetched, as"):
        emanet_jax.load("me/gone")
    with pytest.raises(UserError, match="must be owner/name"):
        emanet_jax.push_to_hub(run, "rooms")


def test_an_upload_without_a_network_is_one_sentence(run, hub, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"me/rooms cannot be uploaded: .*refused"):
        emanet_jax.push_to_hub(run, "me/rooms")


def test_without_its_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"pip install 'emanet-jax\[hub\]'"):
        emanet_jax.load("me/rooms")
    assert huggingface_hub
