#!/usr/bin/env bash
# Builds walkthrough/serving from kind/Dockerfile.
#
#   kind/image/build.sh TAG [OPTION...]     options go to the engine's build
#
#   ENGINE=podman   instead of docker; as root, where containers nest badly, with ENGINE_OPTIONS='--runtime runc'
#   BASE=IMAGE      another base than python:3.12-slim
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
tag=$1
shift
engine=${ENGINE:-docker}
command -v "$engine" >/dev/null || {
    echo "$engine is missing: install it, or name another with ENGINE=docker or ENGINE=podman." >&2
    exit 1
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python=$("$root/helpers/environment/find-python.sh")
"$python" "$root/kind/image/index_settings.py" >"$work/index"
cat "${SSL_CERT_FILE:-${PIP_CERT:-/dev/null}}" >"$work/ca"

version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$root/pyproject.toml")
options=(--build-arg "VERSION=$version" --secret "id=index,src=$work/index" --secret "id=ca,src=$work/ca")
revision=$(git -C "$root" rev-parse HEAD 2>/dev/null) && options+=(--build-arg "REVISION=$revision")
[ -z "${BASE:-}" ] || options+=(--build-arg "BASE=$BASE")
if [ "$engine" = podman ]; then
    # OCI's own format has no HEALTHCHECK.
    options+=(--format docker --isolation chroot)
    if cache=$(uv cache dir 2>/dev/null || "$root/.venv/bin/uv" cache dir 2>/dev/null) && [ -d "$cache" ]; then
        options+=(--volume "$cache:/var/cache/uv-here")
        echo "UV_CACHE_DIR=/var/cache/uv-here" >>"$work/index"
    fi
fi

# shellcheck disable=SC2086  # options
"$engine" ${ENGINE_OPTIONS:-} build "${options[@]}" --file "$root/kind/Dockerfile" --tag "$tag" "$@" "$root"
