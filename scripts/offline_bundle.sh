#!/usr/bin/env bash
# One archive that installs the zoo where there is no network (docs/offline.md).
set -euo pipefail

usage() {
  cat <<'TEXT'
scripts/offline_bundle.sh [OPTIONS]     one archive that installs the zoo where there is no network (docs/offline.md)

  --python VERSION      the Python there, as in 3.12; once for each, all into one archive; else this environment's
  --platform TAG        the machines there: manylinux_2_28_x86_64 (the default), manylinux_2_28_aarch64
  --have NAMES          also there, with what they need, besides torch and lightning: scipy,scikit-learn
  --without NAMES       left out with what only they need: wandb,vl-convert-python (the default), or none
  --extras NAMES        extras of pyproject.toml to take in: slurm (the default), or none
  --with-tests          tests/ and benchmarks/ too, and what the GPU tests and benchmarks need (seqzoo[gpu-tests])
  --limit MB            the most that the archive may have: 60 without it, 90 with tests
  --to FILE             the archive; else dist/zoo-offline-VERSION-PYTHONS-PLATFORM.tar.gz

Type it in an environment where the zoo is installed: the bundle takes the versions that are installed there.
PYTHON=... names its interpreter, python3 without it.
TEXT
}

fail() {
  echo "error: $*" >&2
  exit 2
}

versions=() platform=manylinux_2_28_x86_64 have='' without=wandb,vl-convert-python extras=slurm tests=false limit='' to=''
while [ $# -gt 0 ]; do
  case "$1" in
    -h | --help) usage && exit ;;
    --with-tests) tests=true && shift && continue ;;
    --python | --platform | --have | --without | --extras | --limit | --to) ;;
    *) fail "there is no option $1; type: scripts/offline_bundle.sh --help" ;;
  esac
  [ $# -ge 2 ] || fail "$1 needs a value; type: scripts/offline_bundle.sh --help"
  case "$1" in
    --python) versions+=("$2") ;;
    --platform) platform=$2 ;;
    --have) have=$2 ;;
    --without) without=$2 ;;
    --extras) extras=$2 ;;
    --limit) limit=$2 ;;
    --to) to=$2 ;;
  esac
  shift 2
done
[ -n "$limit" ] || { if $tests; then limit=90; else limit=60; fi; }
[[ $limit =~ ^[0-9]+$ ]] || fail "--limit $limit: expected megabytes, such as --limit 60"
if $tests; then extras=$extras,gpu-tests; fi

root=$(cd "$(dirname "$0")/.." && pwd)
python=$(command -v "${PYTHON:-python3}") || fail "there is no ${PYTHON:-python3}; name the interpreter: PYTHON=/path/to/python $0"
[ ${#versions[@]} -gt 0 ] || versions=("$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')")
"$python" -m pip --version >/dev/null 2>&1 || fail "$python has no pip; type: $python -m ensurepip"
export PIP_DISABLE_PIP_VERSION_CHECK=1
# the same tree makes the same archive: dates are those of the last commit
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git -C "$root" log -1 --format=%ct 2>/dev/null || echo 1735689600)}
export SOURCE_DATE_EPOCH

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
copy=$work/source bundle=$work/zoo-offline
mkdir -p "$copy" "$bundle/wheels"

echo "building the zoo's wheel"
(cd "$root" && tar -c --exclude=__pycache__ --exclude='*.egg-info' pyproject.toml README.md LICENSE zoo plugins conf) | tar -x -C "$copy"
# reports draw their charts with this file, so that they need no vl-convert, which is a hundred times as big
"$python" - "$copy/zoo/base/vega.js" <<'CODE' || fail "the plotting library could not be taken from vl-convert-python; type: pip install -e ."
import sys

import vl_convert

open(sys.argv[1], "w").write(vl_convert.javascript_bundle())
CODE
"$python" -m pip wheel --quiet --no-deps --wheel-dir "$work/wheel" "$copy" >"$work/log" 2>&1 || {
  cat "$work/log" >&2
  fail "the zoo's wheel could not be built (pip says why above)"
}

"$python" "$root/scripts/offline/choose.py" --wheel "$work"/wheel/seqzoo-*.whl --to "$bundle" --platform "$platform" \
  --have "$have" --without "$without" --extras "$extras" "${versions[@]/#/--python=}"
cp "$root/scripts/offline/install.sh" "$root/scripts/offline/check.py" "$root/LICENSE" "$bundle"
if $tests; then
  (cd "$root" && tar -c --exclude=__pycache__ tests benchmarks pyproject.toml) | tar -x -C "$bundle"
fi
(cd "$bundle" && find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum) >"$work/sums"
mv "$work/sums" "$bundle/SHA256SUMS"
chmod -R u=rwX,go=rX "$bundle"
chmod 755 "$bundle/install.sh"

if [ -z "$to" ]; then
  version=$(basename "$work"/wheel/seqzoo-*.whl | cut -d- -f2)
  names=$(printf '%s\n' "${versions[@]}" | sed 's/\.//; s/^/cp/' | paste -sd.)
  to=$root/dist/zoo-offline-$version-$names-$platform$(if $tests; then echo -tests; fi).tar.gz
fi
mkdir -p "$(dirname "$to")"
tar -c --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner -C "$work" zoo-offline | gzip -n >"$work/archive"
bytes=$(wc -c <"$work/archive")
if [ "$bytes" -gt $((limit * 1000000)) ]; then
  echo "the biggest:" >&2
  (cd "$bundle/wheels" && find . -name '*.whl' -printf '%s %f\n' | sort -rn | head -6 | awk '{printf "  %.1f MB  %s\n", $1 / 1e6, $2}') >&2
  echo "error: the archive has $(awk "BEGIN {printf \"%.1f\", $bytes / 1e6}") MB, and $limit was the most: name fewer Pythons (--python)," \
    "what is there already (--have scipy,scikit-learn), what you can do without (--without), or more room (--limit)" >&2
  exit 1
fi
mv "$work/archive" "$to"
echo "$to: $(awk "BEGIN {printf \"%.1f\", $bytes / 1e6}") MB"
echo "there: tar xf $(basename "$to") && zoo-offline/install.sh"
