#!/usr/bin/env bash
# Runs a command in this project's own environment, from the project's root:
#   ./launch/local.sh python -m emanet_jax.main --config=synthrooms --workdir=runs/quickstart
#   ./launch/local.sh pytest
# The first use makes .venv: requirements.txt in the versions of constraints.txt, and the package from here. So does
# the first use after one of them or pyproject.toml changed.
# PYTHON=/path/to/python chooses the interpreter (3.11 or later; default python3).
# EXTRA="jax[cuda12]" or EXTRA="jax[tpu]" adds what an accelerator needs; it is remembered.
set -euo pipefail

if [ $# -eq 0 ]; then
  echo "usage: launch/local.sh COMMAND [ARGUMENT ...]   e.g. launch/local.sh pytest" >&2
  exit 2
fi

cd "$(dirname "${BASH_SOURCE[0]}")/.."

sources=(requirements.txt constraints.txt pyproject.toml)
remembered="$(cat .venv/extra.txt 2> /dev/null || true)"
extra="${EXTRA-$remembered}"
if ! cat "${sources[@]}" | cmp --silent - .venv/installed.txt || [ "$extra" != "$remembered" ]; then
  python="${PYTHON:-python3}"
  if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "launch/local.sh: '$python' is missing or older than Python 3.11; set PYTHON=/path/to/python3.11 or later." >&2
    exit 1
  fi
  echo "launch/local.sh: installing requirements.txt into .venv (once; one to five minutes)" >&2
  "$python" -m venv .venv >&2
  # uv resolves and installs in parallel: seconds where pip alone takes minutes.
  .venv/bin/python -m pip install --quiet --disable-pip-version-check uv >&2
  .venv/bin/python -m uv pip install --quiet --python .venv/bin/python -r requirements.txt -c constraints.txt ${extra:+"$extra"} >&2
  [ "$extra" = "$remembered" ] || printf '%s\n' "$extra" > .venv/extra.txt
  cat "${sources[@]}" > .venv/installed.txt # last: an interrupted installation starts again
fi

# Large pages for large arrays: a tenth off a training step's time on CPUs.
export GLIBC_TUNABLES="${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}"
export VIRTUAL_ENV="$PWD/.venv" PATH="$PWD/.venv/bin:$PATH"
exec "$@"
