"""Gives trained networks away: as a folder, and on Hugging Face."""

import shlex
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from etils import epath

import emanet_jax
from emanet_jax import inference, saved
from emanet_jax.errors import UserError, needs
from emanet_jax.training import environment, workdir
from emanet_jax.types import Task

HOMEPAGE = "https://github.com/emanet-jax/emanet_jax"


def save_pretrained(
    run: epath.PathLike,
    folder: str | Path,
    *,
    checkpoint: str = "best",
    licence: str = "apache-2.0",
    overwrite: bool = False,
) -> Path:
    """Writes a run's network to a folder that `load` takes, whole or not at all.

    Args:
        run: a workdir.
        folder: to make.
        checkpoint: "best" or "latest".
        licence: of the weights, by its name on Hugging Face; the model card states it.
        overwrite: replace a folder that this function has written.

    Returns:
        The folder.

    Raises:
        UserError: there is no such run or checkpoint, or something is in the folder's place.
    """
    folder = Path(folder).expanduser().absolute()
    workdir.check_new_directory("folder", folder, "saved network", saved.WEIGHTS, overwrite)
    trained = inference.load_trained(run, checkpoint)
    training = _training(workdir.absolute(epath.Path(run).expanduser()), trained)
    with workdir.new_directory("folder", folder) as part:
        card = model_card(trained, training, folder.name, licence)
        saved.write(part, trained.config, trained.variables, training, card)
    return folder


def push_to_hub(
    source: epath.PathLike,
    repository: str,
    *,
    checkpoint: str = "best",
    licence: str = "apache-2.0",
    private: bool = False,
    token: str | None = None,
) -> str:
    """Uploads a run's network, or a folder that `save_pretrained` made, to Hugging Face.

    The model card and config.json hold the run's command and config, with this machine's paths.

    Args:
        source: a workdir, or such a folder.
        repository: owner/name; made if need be.
        checkpoint: of a run, "best" or "latest".
        licence: of a run's weights.
        private: whether a repository that is made is.
        token: of the account; that of `hf auth login`.

    Returns:
        The address of the upload.

    Raises:
        UserError: the source holds no network, or Hugging Face refuses.
    """
    if not saved.is_repository(repository):
        raise UserError(f"repository is '{repository}'; it must be owner/name.")
    with needs():
        import huggingface_hub
    with tempfile.TemporaryDirectory() as place:
        folder = workdir.absolute(epath.Path(source).expanduser())
        if workdir.is_saved(folder):
            saved.read(folder)  # whole, or an error
        else:
            made = Path(place) / repository.rpartition("/")[2]
            save_pretrained(source, made, checkpoint=checkpoint, licence=licence)
            folder = epath.Path(made)
        api = huggingface_hub.HfApi(token=token)
        try:
            api.create_repo(repository, private=private, exist_ok=True)
            commit = api.upload_folder(
                repo_id=repository,
                folder_path=str(folder),
                allow_patterns=[saved.WEIGHTS, saved.CONFIG, saved.CARD],
                commit_message=f"Network of emanet_jax {emanet_jax.__version__}",
            )
        except Exception as error:  # of its HTTP library's own type, which differs by version
            message = " ".join(str(error).split()).rstrip(".")
            raise UserError(f"{repository} cannot be uploaded: {message}.") from error
    return str(commit.commit_url)


def _training(directory: epath.Path, trained: inference.Trained) -> dict[str, Any]:
    """The facts that a run's folder has of its training, as far as it has them."""
    with needs():
        from emanet_jax.training import writers
    step = int(trained.checkpoint.name)
    metrics = writers.read_evaluations(directory / workdir.METRICS).get(step, {})
    starts = environment.read(directory)
    command = ["emanet-jax", "train", *starts[0]["command"][1:]] if starts else []
    return {"step": step, "metrics": metrics, "command": command}


def model_card(
    trained: inference.Trained, training: Mapping[str, Any], name: str, licence: str
) -> str:
    """Writes the README.md of a saved network, in Markdown with Hugging Face's header.

    Args:
        trained: the network.
        training: facts, as config.json has them.
        name: of the network, in the example.
        licence: of the weights.
    """
    config = trained.config
    h, w = config.data.image_size
    count = sum(x.size for x in jax.tree.leaves(trained.variables["params"]))
    tags = ["jax", "flax", "multi-task-learning", "dense-prediction", *config.tasks]
    values = {key: x for key, x in training["metrics"].items() if key.split("/")[0] in config.tasks}
    metrics = [f"| {key} | {'-' if x is None else f'{x:.4g}'} |" for key, x in values.items()]
    lines = [
        *("---", "library_name: emanet_jax", f"license: {licence}", "tags:"),
        *(f"- {tag}" for tag in tags),
        *("---", ""),
        f"# {name}",
        "",
        f"`{config.model.name}` ({config.model.variant}) on `{config.model.backbone}`, {count:,} "
        f"parameters, trained on `{config.data.dataset}` at {h}x{w} for {training['step']:,} steps "
        f"of {config.batch_size} images by [emanet_jax]({HOMEPAGE}).",
        "",
        "| task | output | |",
        "|---|---|---|",
        *map(_row, trained.tasks),
        "",
        "```python",
        "import emanet_jax",
        "",
        f'model = emanet_jax.load("OWNER/{name}")',
        'maps = model("photo.jpg")  # or an array (h, w, 3), or a list of either',
        f'maps["{trained.tasks[0].name}"]  # {_output(trained.tasks[0])}',
        "```",
        "",
    ]
    if metrics:
        lines += [
            f"On the evaluation split of `{config.data.dataset}`, at the network's size:",
            *("", "| metric | value |", "|---|---|", *metrics, ""),
        ]
    if training["command"]:
        lines += ["Trained by", "", "```", shlex.join(training["command"]), "```", ""]
    lines += [f"Licence of the weights: {licence}."]
    return "\n".join(lines) + "\n"


def _output(task: Task) -> str:
    """The shape of a task's map, and what its numbers are."""
    k = task.label_channels
    if task.class_names:
        return f"(h, w, {k}) uint8, ids of {len(task.class_names)} classes"
    if task.limit is None:
        return f"(h, w, {k}) float32, unit vectors" if k == 3 else f"(h, w, {k}) float32"
    return f"(h, w, {k}) float32, {task.unit or 'a probability'}"


def _row(task: Task) -> str:
    classes = ", ".join(task.class_names)
    return f"| {task.name} | {_output(task)} | {classes} |"
