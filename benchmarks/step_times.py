"""Step times of real runs: the cost of logs, evaluations, checkpoints and figures to other steps.

    python -m benchmarks.step_times                                  # HPS on hrnet_tiny, rooms
    python -m benchmarks.step_times --arms=nothing,everything --csv=runs/times.csv
    python -m benchmarks.step_times --config=configs/nyuv2.py --steps=200 --picture=runs/times.png

Runs the training loop of emanet_jax.training.loop as it is, in temporary workdirs, in several arms:
"nothing" logs, evaluates and saves at its end alone and reads its batches in the loop's thread;
"prefetch" reads ahead with config.data.threads and config.data.prefetch; the others do that and one
thing more, or everything. Each round runs all arms in turn, in another order; everything is
compiled in a run before the first, and the first steps of a run do not count.

A step's time goes from the end of the step before to its own end. JAX calls return before the
device is done, so ends are seen by a thread that waits for every call's results (the loop never
waits for it); what keeps Python from running any thread shows as one long step with short ones
after it. A pause is the time in which no step ran after logging, evaluating, saving or
drawing, with the steps of the evaluation itself left out; pauses are not among the step times, but
steps that run beside a save in the background are. On a CPU such work takes cores from the steps,
which it does not on an accelerator.
"""

import contextlib
import dataclasses
import functools
import logging
import pathlib
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from benchmarks.step_times_report import (
    HEADER,
    KINDS,
    Call,
    Step,
    histogram,
    line,
    plot,
    steps_of,
    summary,
    write_csv,
)
from emanet_jax import cli
from emanet_jax.errors import UserError

if TYPE_CHECKING:
    import ml_collections

    from emanet_jax.training.experiment import Experiment

# What each arm does beside training; "prefetch" stands for reading ahead.
ARMS: dict[str, tuple[str, ...]] = {
    "nothing": (),
    "prefetch": ("prefetch",),
    "log": ("prefetch", "log"),
    "evaluation": ("prefetch", "evaluation"),
    "checkpoint": ("prefetch", "checkpoint"),
    "figure": ("prefetch", "figure"),
    "everything": ("prefetch", *KINDS),
}

_CONFIG = cli.define_config()
_ARMS = flags.DEFINE_list("arms", list(ARMS), "Which to run.")
_STEPS = flags.DEFINE_integer("steps", 210, "Of a run.", lower_bound=10)
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Runs of every arm.", lower_bound=1)
_EVERY = {
    "log": flags.DEFINE_integer("log_every", 10, "Steps between.", lower_bound=1),
    "evaluation": flags.DEFINE_integer("evaluation_every", 100, "Steps between.", lower_bound=1),
    "checkpoint": flags.DEFINE_integer("checkpoint_every", 50, "Steps between.", lower_bound=1),
    "figure": flags.DEFINE_integer("figure_every", 40, "Steps between.", lower_bound=1),
}
_SKIP = flags.DEFINE_integer("skip", 5, "Of a run's first steps, not counted.", lower_bound=1)
_WORKDIR = flags.DEFINE_string("workdir", "", "New folder to keep the runs in; none: a temporary.")
_CSV = flags.DEFINE_string("csv", "", "File for every step's time.")
_PICTURE = flags.DEFINE_string("picture", "", "File for the distributions, such as times.png.")


class Recorder:
    """Notes when jitted functions are called and when their results are there.

    The functions' callers go on at once; a thread of the recorder's own waits for the results.
    """

    def __init__(self) -> None:
        self.calls: list[Call] = []  # complete after the `with` block, in order
        self._waiting: queue.SimpleQueue[tuple[str, float, Any] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._note_ends, daemon=True)

    def watched(
        self, kind: str, function: Callable[..., Any], pick: Callable[[Any], Any]
    ) -> Callable[..., Any]:
        """The function; `pick` gives an array of its result, one that no later call is donated."""

        def watched_function(*args: Any) -> Any:
            called = time.perf_counter()
            result = function(*args)
            self._waiting.put((kind, called, pick(result)))
            return result

        return watched_function

    def _note_ends(self) -> None:
        while (item := self._waiting.get()) is not None:
            kind, called, array = item
            array.block_until_ready()  # all of a program's results are there at once
            self.calls.append(Call(kind, called, time.perf_counter()))

    def __enter__(self) -> "Recorder":
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._waiting.put(None)
        self._thread.join()


def run_arm(
    experiment: "Experiment",
    directory: pathlib.Path,
    total_steps: int,
    every: Mapping[str, int],
    prefetch: bool,
) -> list[Call]:
    """The calls of the jitted steps in one training, whose workdir also gets what it prints.

    Args:
        experiment: its compiled steps are shared by all arms.
        directory: workdir.
        total_steps: of the run.
        every: {kind of KINDS: steps between}; a kind that is missing is off but at the end.
        prefetch: whether batches are read ahead.

    Raises:
        UserError: the run was stopped by a signal.
    """
    import jax

    from emanet_jax.training import loop
    from emanet_jax.training.experiment import Intervals

    never = total_steps + 1
    data = experiment.data
    if not prefetch:
        batches = functools.partial(data.train_batches, threads=0, prefetch=0)
        data = data._replace(train_batches=batches)
    directory.mkdir(parents=True)
    with Recorder() as recorder, (directory / "output.txt").open("w") as output:
        experiment = dataclasses.replace(
            experiment,
            data=data,
            total_steps=total_steps,
            every=Intervals(
                log=every.get("log", never),
                evaluation=every.get("evaluation", never),
                checkpoint=every.get("checkpoint", never),
                figure=every.get("figure", 0),
            ),
            train_step=recorder.watched("train", experiment.train_step, lambda x: x[1]["loss"]),
            eval_step=recorder.watched(
                "eval", experiment.eval_step, lambda x: jax.tree.leaves(x[0])[0]
            ),
        )
        handler = logging.StreamHandler(output)
        log = logging.getLogger("emanet_jax")
        log.addHandler(handler)
        loop.train(experiment, directory)
        log.removeHandler(handler)
    done = sum(call.kind == "train" for call in recorder.calls)
    if done < total_steps:
        raise UserError(f"the run in {directory} was stopped at step {done}: nothing is written.")
    return recorder.calls


def measure(
    config: "ml_collections.ConfigDict",
    arms: Sequence[str],
    folder: pathlib.Path,
    total_steps: int,
    rounds: int,
    every: Mapping[str, int],
    skip: int,
) -> list[Step]:
    """The step times of all arms.

    Args:
        config: of the network and the data.
        arms: names of ARMS.
        folder: for the workdirs.
        total_steps: of a run.
        rounds: runs of every arm.
        every: {kind of KINDS: steps between}, of the arms that have the kind.
        skip: first steps of a run, not counted.
    """
    from emanet_jax.training.experiment import make_experiment

    experiment = make_experiment(config)
    print("warming up", flush=True)
    run_arm(experiment, folder / "warm-up", 2, dict.fromkeys(KINDS, 1), prefetch=True)
    steps = []
    for number in range(rounds):
        for arm in [*arms[number % len(arms) :], *arms[: number % len(arms)]]:
            chosen = {kind: every[kind] for kind in KINDS if kind in ARMS[arm]}
            directory = folder / f"{arm}-{number + 1}"
            prefetch = "prefetch" in ARMS[arm]
            calls = run_arm(experiment, directory, total_steps, chosen, prefetch)
            found = steps_of(calls, arm, number + 1, chosen, skip)
            steps += found
            print(
                f"round {number + 1}/{rounds}  {arm:12} {sum(x.ms for x in found) / 1e3:6.1f} s",
                flush=True,
            )
    return steps


def _check_flags() -> None:
    for arm in _ARMS.value:
        if arm not in ARMS:
            raise UserError(f"--arms={arm} is unknown; choose from {', '.join(ARMS)}.")
    if _STEPS.value <= _SKIP.value + 1:
        raise UserError(f"--steps={_STEPS.value} must be more than --skip={_SKIP.value} and one.")
    if _PICTURE.value and pathlib.Path(_PICTURE.value).suffix not in (".png", ".pdf", ".svg"):
        raise UserError(f"--picture={_PICTURE.value} must end in .png, .pdf or .svg.")
    if _WORKDIR.value and pathlib.Path(_WORKDIR.value).exists():
        raise UserError(f"--workdir={_WORKDIR.value} is there already; name a new folder.")


def _command() -> None:
    _check_flags()
    from benchmarks.timing import machine
    from configs import synthrooms

    config = _CONFIG.value or synthrooms.get_config("model=hps,backbone=hrnet_tiny")
    every = {kind: flag.value for kind, flag in _EVERY.items()}
    title = (
        f"{config.model.name} on {config.model.backbone}, "
        f"{' x '.join(map(str, config.data.image_size))}, batch {config.batch_size}; {machine()}"
    )
    print(title)
    with contextlib.ExitStack() as stack:
        folder = _WORKDIR.value or stack.enter_context(tempfile.TemporaryDirectory())
        times = (_STEPS.value, _ROUNDS.value, every, _SKIP.value)
        steps = measure(config, _ARMS.value, pathlib.Path(folder).absolute(), *times)
    rows = [summary(arm, (x for x in steps if x.arm == arm)) for arm in _ARMS.value]
    print("", HEADER, *map(line, rows), "", *histogram(steps), sep="\n")
    if _CSV.value:
        write_csv(steps, pathlib.Path(_CSV.value))
    if _PICTURE.value:
        plot(steps, title, pathlib.Path(_PICTURE.value))
    for path in filter(None, (_CSV.value, _PICTURE.value)):
        print(f"written: {path}")


if __name__ == "__main__":
    cli.run(_command)
