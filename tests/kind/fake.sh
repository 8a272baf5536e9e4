#!/bin/sh
# A stand-in for docker, kind, kubectl and helm, by the name it is called by. It writes every call down, and keeps
# in files what a cluster would remember, so that a second kind/up finds what the first has made.
#
#   $FAKE/calls            one call a line
#   $FAKE/fail, hang       parts of calls, one a line: a call with one of them fails (with what is in $FAKE/error),
#                          or never returns
#   $FAKE/version-NAME     what a program says its version is
#   $FAKE/pods, events     what kubectl get shows of them
set -eu
name=${0##*/}
call="$name $*"
printf '%s\n' "$call" >>"$FAKE/calls"

listed() { # listed FILE: whether one of its lines is part of this call
    [ -f "$FAKE/$1" ] || return 1
    while IFS= read -r part; do
        case $call in *"$part"*) return 0 ;; esac
    done <"$FAKE/$1"
    return 1
}
if listed fail; then
    cat "$FAKE/error" >&2 2>/dev/null || echo "the fake was told to fail" >&2
    exit 1
fi
if listed hang; then
    echo $$ >>"$FAKE/hanging"
    exec sleep 60
fi

# The value of an option of this call.
option() {
    wanted=$1
    shift
    while [ $# -gt 0 ]; do
        [ "$1" != "$wanted" ] || { printf '%s' "$2"; return; }
        shift
    done
}
known() { [ -f "$FAKE/$1" ]; }
remember() { mkdir -p "$FAKE/${1%/*}" && printf '%s' "${2:-}" >"$FAKE/$1"; }
# Image names as names of files.
image() {
    image=$1
    while :; do
        case $image in
        */*) image=${image%%/*}_${image#*/} ;;
        *:*) image=${image%%:*}_${image#*:} ;;
        *) break ;;
        esac
    done
    printf 'images/%s' "$image"
}
# A name for a manifest's file or a kustomization's folder as it is now.
manifest() {
    path=$(option -f "$@")$(option -k "$@")
    sum=
    if [ -f "$path" ]; then
        sum=$(cksum <"$path")
    elif [ -d "$path" ]; then
        sum=$(cat "$path"/*.yaml | cksum)
    fi
    printf '%s-%s' "${path##*/}" "${sum%% *}"
}

docker() {
    case "$*" in
    --version) cat "$FAKE/version-docker" ;;
    version*) cat "$FAKE/version-docker" ;;
    info*) cat "$FAKE/docker-info" ;;
    "image inspect --format"*)
        for image; do :; done
        known "$(image "$image")" || exit 1
        cat "$FAKE/$(image "$image")"
        ;;
    "image inspect"*) known "$(image "$3")" ;;
    "image rm"*) rm "$FAKE/$(image "$3")" ;;
    build*)
        label=$(option --label "$@")
        remember "$(image "$(option --tag "$@")")" "${label#*=}"
        ;;
    "network inspect"*) known networks/kind ;;
    "network rm"*) rm "$FAKE/networks/kind" ;;
    inspect*) if known stopped; then echo false; else echo true; fi ;;
    start*) rm -f "$FAKE/stopped" ;;
    *) echo "the fake docker knows no: $*" >&2 && exit 64 ;;
    esac
}

kind() {
    case "$*" in
    version*) cat "$FAKE/version-kind" ;;
    "get clusters") known docker-info || { echo "ERROR: no docker" >&2; exit 1; }
        if known cluster; then echo walkthrough; else echo "No kind clusters found." >&2; fi ;;
    "get nodes"*) printf 'walkthrough-worker\nwalkthrough-control-plane\n' ;;
    "create cluster"*)
        ! known cluster || { echo "ERROR: node(s) already exist for a cluster with the name walkthrough" >&2; exit 1; }
        remember images/kindest_node@sha256_44e222ee2132dab25ff87301682f89eb82c7880ea3a1bf543bfe9708fd08d67d
        remember networks/kind
        : >"$FAKE/cluster"
        ;;
    "delete cluster"*)
        rm -rf "$FAKE/cluster" "$FAKE/applied" "$FAKE/marks" "$FAKE/helm" "$FAKE/ready"
        ;;
    "load docker-image"* | "export kubeconfig"*) ;;
    *) echo "the fake kind knows no: $*" >&2 && exit 64 ;;
    esac
}

kubectl() {
    case "$*" in "version --client") cat "$FAKE/version-kubectl" && return ;; esac
    [ "$1 $2" = "--context kind-walkthrough" ] || { echo "a call without the context: $*" >&2; exit 64; }
    shift 2
    case $1 in --request-timeout*) shift ;; esac
    [ "$1" = config ] || known cluster || { echo "The connection to the server was refused" >&2; exit 1; }
    case "$*" in
    "config get-contexts"*) ;;
    diff*) known "applied/$(manifest "$@")" ;;
    apply* | replace*) remember "applied/$(manifest "$@")" ;;
    annotate*) remember "marks/$3-$4-${5%%=*}" "${5#*=}" ;;
    *annotations*)
        key=${5##*.annotations.}
        file=$(printf 'marks/%s-%s-%s' "$2" "$3" "${key%\}}")
        ! known "$file" || cat "$FAKE/$file"
        ;;
    "rollout status"*--watch=false)
        if known "ready/$5"; then echo "deployment \"$5\" successfully rolled out"; else echo "Waiting for $5 to finish: 0 of 1"; fi ;;
    "rollout status"*) remember "ready/$5" ;;
    "get pods -n"*) cat "$FAKE/pods" 2>/dev/null ;;
    "get events"*) cat "$FAKE/events" 2>/dev/null ;;
    wait* | get*) ;;
    *) echo "the fake kubectl knows no: $*" >&2 && exit 64 ;;
    esac
}

helm() {
    release="helm/$(option --namespace "$@")-${2:-}"
    case "$*" in
    version*) cat "$FAKE/version-helm" ;;
    history*) known "$release" || { echo "Error: release: not found" >&2; exit 1; }
        cat "$FAKE/$release" ;;
    "upgrade --install"*)
        [ "$(option --kube-context "$@")" = kind-walkthrough ] || exit 64
        remember "helm/$(option --namespace "$@")-$3" \
            "[{\"revision\":1,\"status\":\"deployed\",\"description\":\"$(option --description "$@")\"}]"
        ;;
    uninstall*) rm "$FAKE/$release" ;;
    rollback*) remember "$release" '[{"revision":1,"status":"deployed","description":"Rollback to 1"}]' ;;
    *) echo "the fake helm knows no: $*" >&2 && exit 64 ;;
    esac
}

"$name" "$@"
