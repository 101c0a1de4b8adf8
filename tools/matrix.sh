#!/usr/bin/env bash
# Tries the versions of Python, TensorFlow and Keras that this library is for: installs
# each combination in an environment of its own, trains the quickstart for some steps, and
# runs the conformance table and the tests of saving, selection and methods.
#
#   tools/matrix.sh                       # all rows below that docs/matrix.csv lacks
#   tools/matrix.sh 3.13 2.21.0           # one row: Python, TensorFlow[, Keras[, NumPy]]
#   PYTEST_ARGUMENTS="tests -m slow" tools/matrix.sh 3.11 2.21.0
#
# TensorFlow may be `nightly`; Keras and NumPy are the newest that pip finds unless given.
# pythonX.Y must be on the PATH, or be found by pyenv; a row without it is skipped, with
# its reason. Each row is appended to docs/matrix.csv, or $MATRIX_CSV; delete a line there
# to try it again. A row takes some ten minutes on two cores.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
csv=${MATRIX_CSV:-$root/docs/matrix.csv}
head=python,tensorflow,keras,numpy,quickstart,passed,failed,skipped,seconds
arguments=${PYTEST_ARGUMENTS:-tests/test_conformance.py tests/test_conformance_native.py
  tests/layers/test_saving.py tests/core tests/methods tests/test_goldens.py -n 2
  --dist loadfile -m \"not slow\"}

rows=(
  "3.10 2.16.2 3.5.0 1.26.4" # the oldest
  "3.11 2.17.1 3.6.0"
  "3.12 2.18.1 3.8.0"
  "3.12 2.19.1"
  "3.13 2.20.0"
  "3.10 2.21.0"
  "3.11 2.21.0"
  "3.12 2.21.0"
  "3.13 2.21.0"
  "3.13 nightly"
)
[ $# -gt 0 ] && rows=("$*")

python_of() { # the path of pythonX.Y, or nothing
  local found
  for found in "$(command -v "python$1")" "$HOME/.pyenv/versions/$1."*/bin/python; do
    # A shim of pyenv is there for versions that are not.
    if [ -x "$found" ] && "$found" -c "" 2>/dev/null; then
      echo "$found"
      return
    fi
  done
}

try() { # PYTHON TENSORFLOW [KERAS [NUMPY]]
  local python tmp passed failed skipped quickstart=passes begun=$SECONDS
  if grep -q "^$1,$2[ ,]" "$csv" 2>/dev/null; then
    echo "--- Python $1, TensorFlow $2: in $csv already"
    return
  fi
  python=$(python_of "$1")
  if [ -z "$python" ]; then
    echo "--- Python $1, TensorFlow $2: skipped, as there is no python$1"
    return
  fi
  echo "--- Python $1, TensorFlow $2 ${3:+, Keras $3}${4:+, NumPy $4}"
  tmp=$(mktemp -d)
  "$python" -m venv "$tmp/venv"
  # shellcheck disable=SC1091
  source "$tmp/venv/bin/activate"
  if [ "$2" = nightly ]; then
    printf '%s\n' tf-nightly tf_keras-nightly "keras-nightly${3:+==$3}"
  else
    printf '%s\n' "tensorflow==$2" "tf_keras~=${2%.*}.0" "keras${3:+==$3}"
  fi >"$tmp/wanted.txt"
  echo "numpy${4:+==$4}" >>"$tmp/wanted.txt"
  pip install -q -r "$tmp/wanted.txt" absl-py tensorflow-datasets importlib_resources \
    scikit-learn tensorboard tqdm matplotlib pytest pytest-xdist hypothesis
  pip install -q --no-deps -e "$root"
  (cd "$tmp" && python "$root/launch/train.py" --run_dir="$tmp/run" --steps=20 \
    --flagfile="$root/launch/flagfiles/quickstart.cfg") >"$tmp/quickstart.log" 2>&1 ||
    { quickstart=fails && tail -5 "$tmp/quickstart.log"; }
  (cd "$root" && eval "python -m pytest -q -p no:cacheprovider $arguments") \
    >"$tmp/tests.log" 2>&1 || true
  grep -E "^(FAILED|ERROR)" "$tmp/tests.log" | head -20 || true
  tail -1 "$tmp/tests.log"
  count() { tail -1 "$tmp/tests.log" | grep -oE "[0-9]+ $1" | grep -oE "[0-9]+" || echo 0; }
  passed=$(count passed) failed=$(($(count failed) + $(count error))) skipped=$(count skipped)
  [ -s "$csv" ] || echo "$head" >"$csv"
  TF_CPP_MIN_LOG_LEVEL=3 python - "$1" "$2" "$quickstart" "$passed" "$failed" "$skipped" "$((SECONDS - begun))" \
    2>"$tmp/versions.log" >>"$csv" <<'PYTHON'
import importlib.metadata as metadata
import sys

import keras
import numpy

asked, tensorflow, quickstart, *numbers = sys.argv[1:]
if tensorflow == "nightly":
    tensorflow = f"nightly {metadata.version('tf-nightly')}"
versions = [keras.__version__, numpy.__version__]
print(",".join([asked, tensorflow, *versions, quickstart, *numbers]))
PYTHON
  deactivate
  rm -rf "$tmp"
}

for row in "${rows[@]}"; do
  # shellcheck disable=SC2086
  try $row
done
cat "$csv"
