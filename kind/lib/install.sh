# shellcheck shell=bash disable=SC2034,SC2153
# How the steps of kind/up install something: a chart, YAML of ours, YAML of others. Each looks first, and
# does nothing where what is there is what is wanted; AGAIN=step,... does it all the same.

again() { case ",${AGAIN:-}," in *",$NAME,"*) return 0 ;; *) return 1 ;; esac }

# Marks on objects of the cluster, which go when the object goes: mark TYPE NAME KEY, then the same with a VALUE.
marked() { ask get "$1" "$2" -o "jsonpath={.metadata.annotations.walkthrough/$3}" 2>/dev/null || true; }
mark() { run "the mark of this step" k annotate --overwrite "$1" "$2" "walkthrough/$3=$4"; }

# helm_release NAME REPO CHART VERSION: in the step's namespace, with kind/values/CHART.yaml.
helm_release() {
    local name=$1 repo=$2 chart=$3 version=$4 values=$KIND_DIR/values/$3.yaml wanted state fields=
    # helm 4 applies on the server, and stops at a field that a controller has set since (istio/istio#59367):
    # Istio and Prometheus' operator set some in their webhooks. helm 3 overwrites them, and has no such flags.
    case $(version_of helm version --short) in 3.*) ;; *) fields="--server-side=true --force-conflicts" ;; esac
    wanted=kind-up-$({ say "$repo $chart $version" && cat "$values"; } | digest)
    state=$(helm history "$name" --kube-context "$CONTEXT" --namespace "$NAMESPACE" --max 1 -o json 2>/dev/null | tr -d ' \n') || state=
    case $state in
    *'"status":"pending-install"'* | *'"status":"uninstalling"'*)
        # Left by an interrupted run; helm itself would refuse to go on from there.
        run "what is half installed of $name to go" helm uninstall "$name" --kube-context "$CONTEXT" --namespace "$NAMESPACE" --timeout "$(left)"
        ;;
    *'"status":"pending-'*)
        # shellcheck disable=SC2086
        run "$name to go back to its last version" helm rollback "$name" --kube-context "$CONTEXT" --namespace "$NAMESPACE" --timeout "$(left)" $fields
        ;;
    *'"status":"deployed"'*)
        case $state in *"\"description\":\"$wanted\""*) again || return 0 ;; esac
        ;;
    esac
    did installed
    # shellcheck disable=SC2086
    run "chart $chart $version" helm upgrade --install "$name" "$chart" --repo "$repo" --version "$version" \
        --kube-context "$CONTEXT" --namespace "$NAMESPACE" --create-namespace --values "$values" \
        --description "$wanted" --history-max 3 --timeout "$(left)" $fields
}

# apply WHAT -f FILE | -k FOLDER: our own YAML, unless the cluster has it already.
apply() {
    local what=$1
    shift
    # kubectl diff: 0 the same, 1 different, more: not to be compared, as where its namespace is new.
    if ! again && ask diff --server-side --force-conflicts --field-manager=kind-up "$@" >>"$LOG" 2>&1; then return 0; fi
    did installed
    run "$what" k apply --server-side --force-conflicts --field-manager=kind-up "$@"
}

# Everything of a namespace that has pods of its own.
workloads() {
    ask get deployments,statefulsets,daemonsets -n "$NAMESPACE" -o name 2>>"$LOG" || true
}
