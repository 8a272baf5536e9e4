#!/bin/sh
# Prints the Python of an environment that holds requirements.txt. What it does is said on stderr.
#
#   1. An active conda or virtual environment that already holds the lock is used as it is.
#   2. Otherwise .venv in the repository: made if missing, installed again whenever the lock has
#      changed or an installation was cut short (its stamp is written last).
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
root=$(CDPATH='' cd -- "$here/../.." && pwd)
lock=$root/requirements.txt
venv=$root/.venv
python=$venv/bin/python

say() { printf '%s\n' "$*" >&2; }

# What a finished installation is remembered by: the lock without its comments, and where the
# repository stood then (a virtual environment does not survive being moved).
fingerprint() {
    printf '%s\n' "$root"
    grep -v '^ *#' "$lock"
}

# $1 is the folder of an environment; true if its stamp says that it holds this very lock.
stamped() { fingerprint | cmp -s - "$1/.monitored-models.lock"; }

for active in "${VIRTUAL_ENV:-}" "${CONDA_PREFIX:-}"; do
    if [ -z "$active" ] || [ "$active" = "$venv" ] || [ ! -x "$active/bin/python" ]; then
        continue
    fi
    status=0
    stamped "$active" || lacks=$("$active/bin/python" "$here/lock.py" "$lock" 2>/dev/null) || status=$?
    if [ "$status" -eq 0 ]; then
        stamped "$active" || fingerprint >"$active/.monitored-models.lock" 2>/dev/null || true
        printf '%s\n' "$active/bin/python"
        exit 0
    elif [ "$status" -eq 3 ]; then
        say "The active environment $active differs from requirements.txt ($lacks);" \
            "using .venv instead. To use it: pip install -r requirements.txt, or" \
            "conda env update -f environment.yml."
    fi
done

if [ -x "$python" ] && stamped "$venv"; then
    printf '%s\n' "$python"
    exit 0
fi

# ---- From here on something has to be installed.

trap 'say "Interrupted: run make again to finish the installation."; exit 130' INT TERM

uv=uv
"$uv" --version >/dev/null 2>&1 || uv=

version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || version=none
if [ "$version" != none ] && [ "$version" != 3.12 ]; then
    say "$venv is a Python $version environment, not 3.12: remove it (rm -rf .venv) and run make again."
    exit 1
fi

rm -f "$venv/.monitored-models.lock"
if [ "$version" = none ]; then
    rm -rf "$venv"
    if [ -n "$uv" ] && base=$("$here/find-python.sh" 2>/dev/null); then
        say "Making .venv with $base."
        "$uv" venv --quiet --python "$base" "$venv" >&2 || "$base" -m venv "$venv" >&2
    elif [ -n "$uv" ] && [ -z "${PYTHON:-}" ]; then
        say "No Python 3.12 on this machine: uv downloads one into .venv."
        "$uv" venv --quiet --python 3.12 "$venv" >&2 || "$here/find-python.sh" >&2 || exit 1
    else
        base=$("$here/find-python.sh" --venv) || exit 1
        say "Making .venv with $base."
        "$base" -m venv "$venv" >&2
    fi
fi

say "Installing requirements.txt into .venv: 1.3 GB to download the first time;" \
    "one to three minutes, later only what changed."
if [ -z "$uv" ] && "$python" -m pip --version >/dev/null 2>&1; then
    # uv from the lock installs the rest several times as fast as pip.
    "$python" -m pip install --quiet --disable-pip-version-check "$(grep '^uv==' "$lock")" >&2 || true
fi
[ -n "$uv" ] || uv=$venv/bin/uv

# On a terminal uv shows its progress; in a log its list of packages is noise.
quiet=--quiet
[ -t 2 ] && quiet=
# shellcheck disable=SC2086  # $quiet is one option or none
if "$uv" --version >/dev/null 2>&1 && "$uv" pip sync $quiet --python "$python" "$lock" >&2; then
    "$uv" pip install --quiet --python "$python" --no-deps --no-build-isolation -e "$root" >&2
else
    say "uv could not install the lock: trying pip, which takes a few minutes more."
    "$python" -m ensurepip >/dev/null 2>&1 || true
    "$python" -m pip install --disable-pip-version-check --quiet -r "$lock" >&2
    "$python" -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation -e "$root" >&2
fi
say "Importing everything once, so that the notebooks start fast."
"$python" -W ignore "$here/warm_up.py" 2>"$venv/warm-up.log" || {
    tail -n 1 "$venv/warm-up.log" >&2
    say "The environment does not work yet; all that was printed is in .venv/warm-up.log."
    exit 1
}
fingerprint >"$venv/.monitored-models.lock"
say "Ready: $("$python" --version) in .venv."
printf '%s\n' "$python"
