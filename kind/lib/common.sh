# shellcheck shell=bash disable=SC2034
# What kind/up and kind/down share: where things lie, and small functions. Bash 3.2, macOS's, runs it:
# no associative arrays, and no empty arrays under `set -u`.

KIND_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
ROOT=$(cd "$KIND_DIR/.." && pwd)
# shellcheck source=kind/versions.env
. "$KIND_DIR/versions.env"

CONTEXT=kind-$CLUSTER_NAME
STATE=$ROOT/runs/kind # log of the last `up`, and what it found missing and so has to take away again
LOG=$STATE/up.log
# Otherwise kind takes podman where it finds no docker, which nothing here has been written for.
export KIND_EXPERIMENTAL_PROVIDER=docker
# kubectl diff would open what a person has set up to look at differences with.
unset KUBECTL_EXTERNAL_DIFF

say() { printf '%s\n' "$*"; }

# kubectl on this cluster only, whatever the user's current context is; `ask` for a short question.
k() { kubectl --context "$CONTEXT" "$@"; }
ask() { k --request-timeout=15s "$@"; }

# $1 at least $2, both dotted numbers.
at_least() {
    local have=$1 need=$2 a b
    while [ -n "$need" ]; do
        a=${have%%.*} b=${need%%.*}
        [ "${a:-0}" -gt "$b" ] && return 0
        [ "${a:-0}" -lt "$b" ] && return 1
        case $have in *.*) have=${have#*.} ;; *) have= ;; esac
        case $need in *.*) need=${need#*.} ;; *) need= ;; esac
    done
}

# First x.y.z in what a command prints; empty if there is none.
version_of() {
    { "$@" 2>/dev/null || true; } | sed -n 's/^[^0-9]*\([0-9][0-9]*\.[0-9][0-9]*\.[0-9][0-9]*\).*/\1/p' | head -n 1
}

# sha256 of stdin, its first 16 digits: for comparing, not for security.
digest() {
    if command -v sha256sum >/dev/null; then sha256sum; else shasum -a 256; fi | cut -c1-16
}

# sha256 and name of each of the files whose names are on stdin, with a null byte after each.
digest_files() {
    if command -v sha256sum >/dev/null; then xargs -0 sha256sum; else xargs -0 shasum -a 256; fi
}

listed() { kind get clusters 2>/dev/null | grep -qx "$CLUSTER_NAME"; }

minutes() {
    if [ "$1" -ge 60 ] && [ $(($1 % 60)) -eq 0 ]; then
        printf '%d min' $(($1 / 60))
    elif [ "$1" -ge 60 ]; then
        printf '%d min %d s' $(($1 / 60)) $(($1 % 60))
    else
        printf '%d s' "$1"
    fi
}
