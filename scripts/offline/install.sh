#!/usr/bin/env bash
# Installs the zoo from this folder alone, with no index and no network, and tries it.
set -euo pipefail

usage() {
  cat <<'TEXT'
./install.sh [--python PYTHON] [--no-trial]     the zoo from this folder alone, without a network

  --python PYTHON   the interpreter whose environment gets it, one that has PyTorch and Lightning; python3 without it
  --no-trial        do not run zoo list and zoo compare smoke at the end, which take a minute
TEXT
}

fail() {
  echo "error: $*" >&2
  exit 2
}

python=python3 trial=true
while [ $# -gt 0 ]; do
  case "$1" in
    -h | --help) usage && exit ;;
    --no-trial) trial=false && shift ;;
    --python) python=${2:-} && shift $(($# > 1 ? 2 : 1)) ;;
    *) fail "there is no option $1; type: ./install.sh --help" ;;
  esac
done
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
found=$(command -v "$python") || fail "there is no interpreter '$python'; type: ./install.sh --python /path/to/python"
python=$(cd "$(dirname "$found")" && pwd)/$(basename "$found")
"$python" -m pip --version >/dev/null 2>&1 || fail "$python has no pip; type: $python -m ensurepip"

(cd "$here" && sha256sum --check --quiet SHA256SUMS) || fail "this folder is not what was packed; unpack the archive again"
"$python" "$here/check.py" before || exit 1
# what is installed and new enough stays as it is
"$python" -m pip install --disable-pip-version-check --no-index --find-links "$here/wheels" --requirement "$here/requirements.txt" ||
  fail "pip could not install; it says why above. Where its environment may not be written to, make one that sees it:
  $python -m venv --system-site-packages ~/zoo && $here/install.sh --python ~/zoo/bin/python"
# without its dependencies, which are here already, but for those that were left out
"$python" -m pip install --quiet --disable-pip-version-check --no-index --no-deps --force-reinstall "$here"/wheels/seqzoo-*.whl ||
  fail "pip could not install the zoo itself; it says why above"
"$python" "$here/check.py" after || exit 1

if $trial; then
  folder=$(mktemp -d)
  for words in --help list "compare smoke"; do
    # shellcheck disable=SC2086  # two words
    (cd "$folder" && "$python" -m zoo $words) >"$folder/out" 2>"$folder/err" || {
      tail -30 "$folder/out" "$folder/err" >&2
      fail "installed, but 'zoo $words' failed in $folder, as shown above"
    }
    echo "zoo $words: well"
  done
  rm -rf "$folder"
fi
echo "installed; type: zoo compare quick"
scripts=$("$python" -c 'import sysconfig; print(sysconfig.get_path("scripts"))')
command -v zoo >/dev/null || echo "the command is $scripts/zoo, which is not on PATH; or type: $python -m zoo"
