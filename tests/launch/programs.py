"""Programs on PATH that stand in for gcloud, srun and scontrol and note what they are asked."""

import json
import os
import subprocess
import sys

FAKE = f"""#!{sys.executable} -S
import json, os, pathlib, signal, sys, time
program, words = os.path.basename(sys.argv[0]), sys.argv[1:]
with open(os.environ["CALLS"], "a") as calls:
    calls.write(json.dumps([program, *words]) + "\\n")
asked = words[3] if words[:2] == ["compute", "tpus"] else program
command = next((w for w in words if w.startswith("--command=")), "")
asked = "follow" if "tail -n" in command else asked
asked = "status" if "cat emanet_jax/run.s" in command else asked
asked = "running" if "kill -0" in command else asked
answers = pathlib.Path(os.environ["ANSWERS"], asked)
lines = answers.read_text().splitlines() if answers.exists() else ["0 "]
answers.write_text("\\n".join(lines[1:] or lines))
status, _, said = lines[0].partition(" ")
words, _, seconds = said.partition(" for ")  # "0 on for 30": goes on for so many seconds
signal.signal(signal.SIGTERM, lambda *_: sys.exit(int(os.environ.get("ON_TERM", 75))))
print(words, file=sys.stderr if int(status) else sys.stdout, flush=True)
time.sleep(float(seconds or 0))
sys.exit(int(status))
"""
PROGRAMS = ("gcloud", "srun", "scontrol")
SOURCES = ("requirements.txt", "constraints.txt", "pyproject.toml")  # what local.sh installs
PLACE = ("--name=ema", "--zone=us-central2-b")
VM = (*PLACE, "--type=v4-8")
TRAIN = ("--", "--config=configs/mine.py", "--workdir=gs://bucket/run", "--config.tasks=('depth',)")


def without_git():
    """The environment without what a git hook that runs the tests would say of its own checkout."""
    return {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}


def answer(project, **answers):
    """Lines "STATUS words" that a program answers with, one a call; the last one repeatedly."""
    for asked, lines in answers.items():
        (project.parent / "answers" / asked).write_text("\n".join(lines))


def environment(project, **more):
    return {
        **without_git(),
        "PATH": f"{project.parent / 'bin'}:{os.environ['PATH']}",
        "CALLS": str(project.parent / "calls"),
        "ANSWERS": str(project.parent / "answers"),
        "TMPDIR": str(project.parent),
        "PAUSE": "0",
        **more,
    }


def run(project, script, *args, cwd="/", **more):
    return subprocess.run(
        [project / "launch" / script, *args],
        cwd=cwd,
        env=environment(project, **more),
        capture_output=True,
        text=True,
        timeout=60,
    )


def calls(project) -> list[list[str]]:
    path = project.parent / "calls"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def verbs(project) -> list[str]:
    """Words for each call of gcloud: "create", "scp", "ssh", ..."""
    return [call[4] for call in calls(project)]


def command(project, part: str) -> str:
    """The one command with this part in it that a worker was given."""
    words = [word for call in calls(project) for word in call if word.startswith("--command=")]
    (found,) = {word.removeprefix("--command=") for word in words if part in word}
    return found
