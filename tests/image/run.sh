#!/usr/bin/env bash
# Builds the serving image and tests it as containers: make test-image. Says what it does and for how long.
#
#   tests/image/run.sh PYTHON [PYTEST OPTION...]
#
#   ENGINE=docker   instead of podman, with the real base, python:3.12-slim (untested where no image can be pulled)
#   KEEP=1          leaves the image there, and says where
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
python=$1
shift
engine=${ENGINE:-podman}
folder=$root/runs/image
build_limit=1800 # seconds
test_limit=1200

begun=$SECONDS
say() { printf '[%3d s] %s\n' "$((SECONDS - begun))" "$*"; }
fail() {
    printf '%s\n' "$@" >&2
    exit 1
}

# ---- What has to be there
missing=()
case $engine in
podman)
    [ "$(id -u)" = 0 ] || missing+=("Root is needed, by debootstrap and by containers in a container: sudo make test-image.")
    command -v podman >/dev/null || missing+=("podman is missing: apt-get install podman, or take ENGINE=docker.")
    command -v runc >/dev/null || missing+=("runc is missing (crun fails where containers nest): apt-get install runc.")
    command -v debootstrap >/dev/null || missing+=("debootstrap is missing: apt-get install debootstrap.")
    [ -x /usr/lib/cni/portmap ] || [ -x /usr/lib/podman/netavark ] ||
        missing+=("Networks of containers are missing: apt-get install containernetworking-plugins iptables.")
    ;;
docker)
    command -v docker >/dev/null || missing+=("docker is missing: https://docs.docker.com/get-docker/, or take ENGINE=podman.")
    ;;
*) missing+=("ENGINE=$engine is not known: use podman (the default) or docker.") ;;
esac
mkdir -p "$folder"
free=$(df -Pm "$folder" | awk 'NR == 2 { print $4 }')
[ "$free" -ge 12000 ] || missing+=("The image takes 12 GB while it is built, and $folder has $((free / 1000)).")
[ "${#missing[@]}" -eq 0 ] || fail "${missing[@]}"

# ---- An image, in a store of its own: what is removed at the end is the store
work=$(mktemp -d "$folder/store.XXXXXX")
options=()
[ "$engine" = docker ] || options=(--root "$work/images" --runroot "$work/run" --runtime runc)
command=("$engine" "${options[@]}")
tag=walkthrough/serving:test-image

clean() {
    status=$?
    trap - EXIT INT TERM
    if [ "${KEEP:-}" = 1 ]; then
        say "Kept: ${command[*]} run --rm $tag. Remove it: make test-image does, without KEEP."
        [ "$engine" = docker ] || say "It lies in $work: ${command[*]} system reset --force && rm -rf $work."
        exit "$status"
    fi
    say "Removing containers and image."
    mapfile -t left < <("${command[@]}" ps --all --quiet --filter label=walkthrough.test-image 2>/dev/null)
    [ "${#left[@]}" -eq 0 ] || "${command[@]}" rm --force --volumes "${left[@]}" >/dev/null 2>&1 || true
    "${command[@]}" rmi --force "$tag" >/dev/null 2>&1 || true
    if [ "$engine" = podman ]; then
        umount "$work/images/overlay" 2>/dev/null || true
    fi
    rm -rf "$work" || status=1
    say "Done."
    exit "$status"
}
trap clean EXIT
trap 'exit 130' INT TERM

base=
if [ "$engine" = podman ]; then
    say "A stand-in for python:3.12-slim, of this machine's Debian and Python (kept in runs/image)."
    tar=$("$root/kind/image/base.sh" "$folder")
    base=localhost/stand-in:latest
    "${command[@]}" import --quiet --change 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
        "$tar" "$base" >/dev/null
fi

say "Building the image; at most $((build_limit / 60)) minutes. All that is printed: runs/image/build.log."
# One commit for each stage: nothing would use the layers in between a second time.
layers=()
[ "$engine" = docker ] || layers=(--layers=false)
mkdir "$work/tmp" # what podman would leave in /var/tmp
ENGINE=$engine ENGINE_OPTIONS="${options[*]}" BASE=$base TMPDIR=$work/tmp \
    timeout "$build_limit" "$root/kind/image/build.sh" "$tag" "${layers[@]}" 2>&1 | tee "$folder/build.log" |
    grep --line-buffered -E '^(\[[12]/2\] )?STEP|^#[0-9]+ \[' |
    while IFS= read -r line; do say "  ${line:0:100}"; done ||
    fail "The build failed or took over $build_limit s; the end of runs/image/build.log:" "$(tail -n 15 "$folder/build.log")"
size=$("${command[@]}" image inspect --format '{{.Size}}' "$tag")
say "Built: $((size / 1000000)) MB."

say "Testing it; at most $((test_limit / 60)) minutes."
SERVING_IMAGE=$tag SERVING_ENGINE="${command[*]}" timeout --signal=INT --kill-after=60 "$test_limit" \
    "$python" -m pytest "$here" -v --durations=5 -p no:cacheprovider "$@"
