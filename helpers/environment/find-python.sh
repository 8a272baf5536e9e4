#!/bin/sh
# Prints the path of a Python 3.12 that runs; says in one sentence what to install if there is none.
# Looks at $PYTHON, PATH, pyenv, conda and mamba, and the folders that installers use.
#
#   find-python.sh            any Python 3.12
#   find-python.sh --venv     one that can make virtual environments with pip in them
set -u

want=3.12
home=${HOME:-/nonexistent}
modules=sys
[ "${1:-}" = --venv ] && modules='sys, venv, ensurepip'

# Prints $1 and leaves if it is what we look for. It is run, not only looked at: pyenv puts a
# python3.12 on PATH that fails unless that version is selected, and Debian's has no ensurepip.
try() {
    if [ -f "$1" ] && [ -x "$1" ] &&
        [ "$("$1" -I -c "import $modules; print('%d.%d' % sys.version_info[:2])" 2>/dev/null)" = "$want" ]; then
        printf '%s\n' "$1"
        exit 0
    fi
}

if [ -n "${PYTHON:-}" ]; then
    try "$(command -v "$PYTHON" || printf '%s' "$PYTHON")"
    echo "PYTHON=$PYTHON is not a Python $want that runs: name one that is, or leave PYTHON out." >&2
    exit 1
fi

old_ifs=$IFS
IFS=:
for folder in ${PATH:-}; do
    for name in python$want python3 python; do
        try "${folder:-.}/$name"
    done
done
IFS=$old_ifs

for root in "${PYENV_ROOT:-$home/.pyenv}" "$home/.pyenv"; do
    for found in "$root/versions/$want" "$root/versions/$want".*; do
        try "$found/bin/python$want"
    done
done

# conda and mamba write the folder of every environment they make into environments.txt.
for root in "${CONDA_PREFIX:-}" "${MAMBA_ROOT_PREFIX:-}" "${CONDA_ROOT:-}" \
    "$home/miniconda3" "$home/anaconda3" "$home/miniforge3" "$home/mambaforge" \
    "$home/micromamba" /opt/conda; do
    [ -n "$root" ] || continue
    for found in "$root" "$root"/envs/*; do
        try "$found/bin/python$want"
    done
done
if [ -r "$home/.conda/environments.txt" ]; then
    while IFS= read -r found; do
        try "$found/bin/python$want"
    done <"$home/.conda/environments.txt"
fi

for found in "${UV_PYTHON_INSTALL_DIR:-$home/.local/share/uv/python}/cpython-$want".*/bin \
    "$home/.local/share/mise/installs/python/$want"*/bin \
    "$home/.asdf/installs/python/$want"*/bin \
    /opt/homebrew/bin \
    /Library/Frameworks/Python.framework/Versions/$want/bin; do
    try "$found/python$want"
done

echo "No Python $want was found: install it (apt install python$want-venv, brew install python@$want," \
    "pyenv install $want, or conda create -n py312 python=$want), or install uv, which downloads it" \
    "(pip install uv), and run make again." >&2
exit 1
