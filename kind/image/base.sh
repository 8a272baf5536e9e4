#!/usr/bin/env bash
# A stand-in for python:3.12-slim, made of this machine's Debian packages and its Python 3.12, for machines that
# cannot pull images. For tests of the Dockerfile only: nobody looks after it.
#
#   kind/image/base.sh FOLDER     makes FOLDER/base-<key>.tar unless it is there, and prints its path
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
folder=$(mkdir -p "$1" && cd "$1" && pwd)
limit=600 # seconds for the packages

say() { printf '%s\n' "$*" >&2; }
fail() {
    say "$@"
    exit 1
}

[ "$(id -u)" = 0 ] || fail "debootstrap needs root: run this as root (sudo)."
command -v debootstrap >/dev/null || fail "debootstrap is missing: apt-get install debootstrap."
command -v apt-get >/dev/null || fail "The stand-in base takes the packages of a Debian, which this machine is not."
python=$("$root/helpers/environment/find-python.sh")
read -r prefix release < <("$python" -I -c 'import platform, sys; print(sys.base_prefix, platform.python_version())')
[ "$prefix" != /usr ] || fail "$python is part of the system; the stand-in base needs one with a folder of its own (pyenv, uv)."
library=$prefix/lib/python3.12

# The machine's own release: its Python is linked against those libraries.
# shellcheck disable=SC2016  # apt's variables
read -r mirror suite < <(apt-get indextargets --format '$(REPO_URI) $(CODENAME)' \
    'Created-By: Packages' | sort -u -k2,2 | awk '$2 !~ /-/' | head -n 1) ||
    fail "apt has no package lists: apt-get update."

key=$({ cat "${BASH_SOURCE[0]}"; echo "$suite $release $prefix"; } | sha256sum | cut -c1-12)
tar=$folder/base-$key.tar
if [ -f "$tar" ]; then
    printf '%s\n' "$tar"
    exit 0
fi

# Packages with the libraries that Python's own modules are linked against; no windows.
modules=$(find "$library/lib-dynload" -name '*.so' ! -name '_tkinter*')
# shellcheck disable=SC2086  # a list
packages=$(ldd "$prefix/bin/python3.12" $modules | awk '$3 ~ /^\// { print $3 }' | grep -v "^$prefix" |
    sort -u | sed 's,.*/,*/,' | { xargs dpkg-query -S 2>/dev/null || true; } | cut -d: -f1 | sort -u | paste -sd, -)
[ -n "$packages" ] || fail "dpkg knows none of the libraries that $python is linked against."

work=$(mktemp -d "$folder/base.XXXXXX")
trap 'rm -rf "$work"' EXIT
say "Debian $suite, minimal, with what Python $release is linked against."
timeout "$limit" debootstrap --variant=minbase --include="ca-certificates,netbase,tzdata,$packages" \
    "$suite" "$work/root" "$mirror" >"$folder/debootstrap.log" 2>&1 ||
    fail "debootstrap failed or took over $limit s; its last line: $(tail -n 1 "$folder/debootstrap.log")"

say "Python $release from $prefix."
local=$work/root/usr/local
mkdir -p "$local/bin" "$local/lib"
cp "$prefix/bin/python3.12" "$local/bin/"
find "$prefix/lib" -maxdepth 1 -name 'libpython3*.so*' -exec cp -P {} "$local/lib/" \;
# As in the slim image: no tests, no bytecode; and nothing that was installed on this machine.
tar -C "$prefix/lib" --exclude=site-packages --exclude=__pycache__ --exclude='config-3.12*' --exclude=test \
    --exclude=tests --exclude=idlelib --exclude=tkinter --exclude=turtledemo --exclude='_tkinter*' \
    -cf - python3.12 | tar -C "$local/lib" --no-same-owner -xf -
mkdir -p "$local/lib/python3.12/site-packages" "$local/include"
cp -R "$prefix/include/python3.12" "$local/include/"
ln -s python3.12 "$local/bin/python3"
ln -s python3.12 "$local/bin/python"
chroot "$work/root" ldconfig
chroot "$work/root" /usr/local/bin/python -m ensurepip >"$folder/ensurepip.log" 2>&1 ||
    fail "The copied Python does not run in the stand-in base: $(tail -n 1 "$folder/ensurepip.log")"
rm -rf "$work/root"/{var/cache/apt/*,var/lib/apt/lists/*,usr/share/doc/*,usr/share/man/*,usr/share/locale/*}
find "$local/lib/python3.12" -name __pycache__ -prune -exec rm -rf {} +

find "$folder" -maxdepth 1 -name 'base-*.tar' -delete # of other versions
tar -C "$work/root" --one-file-system -cf "$work/base.tar" .
mv "$work/base.tar" "$tar"
printf '%s\n' "$tar"
