# shellcheck shell=bash disable=SC2034,SC2153
# The steps of kind/up that are more than installing something.

# What was not there before this `up`, and so is kind/down's to remove.
remember() { grep -qxF "$1" "$STATE/made" 2>/dev/null || say "$1" >>"$STATE/made"; }

make_cluster() {
    local config nodes node
    config=$(digest <"$KIND_DIR/cluster.yaml")
    if listed && [ -f "$STATE/creating" ]; then
        run "the half-made cluster of an interrupted run to go" kind delete cluster --name "$CLUSTER_NAME"
    fi
    if ! listed; then
        # kind pulls it by its digest, without the tag.
        node=${KIND_NODE_IMAGE%%:*}@${KIND_NODE_IMAGE#*@}
        docker image inspect "$node" >/dev/null 2>&1 || remember "image $node"
        docker network inspect kind >/dev/null 2>&1 || remember "network kind"
        : >"$STATE/creating"
        did made
        run "the nodes, and the image they are made of" kind create cluster --name "$CLUSTER_NAME" --config "$KIND_DIR/cluster.yaml"
        rm -f "$STATE/creating"
        mark namespace kube-system config "$config"
    else
        rm -f "$STATE/creating"
        nodes=$(kind get nodes --name "$CLUSTER_NAME" 2>/dev/null)
        for node in $nodes; do
            # Docker has been restarted since.
            if [ "$(docker inspect --format '{{.State.Running}}' "$node" 2>/dev/null)" = false ]; then
                did started
                run "$node to start" docker start "$node"
            fi
        done
        # Its context may have been lost with another kubeconfig.
        k config get-contexts "$CONTEXT" >/dev/null 2>&1 || run "the context $CONTEXT" kind export kubeconfig --name "$CLUSTER_NAME"
    fi
    until ask get nodes -o name >>"$LOG" 2>&1; do
        ! over || failed "the cluster's API had not answered when $(minutes "$LIMIT") had passed: docker ps -a shows its nodes; make kind-down, then make kind-up, makes it anew."
        waiting "the cluster's API"
        sleep "$POLL"
    done
    run "the nodes to be ready" k wait node --all --for=condition=Ready --timeout="$(left)"
    case $(marked namespace kube-system config) in
    "$config" | "") ;;
    *) DONE="$DONE; kind/cluster.yaml has changed since it was made: make kind-down first, for that to count" ;;
    esac
    apply "the namespaces" -f "$KIND_DIR/components/namespaces.yaml"
}

# What the image is made of, but for the folders that .dockerignore names.
image_inputs() (
    cd "$ROOT" || exit
    excluded=(-name __pycache__)
    while read -r folder; do excluded+=(-o -path "$folder"); done < <(grep -E '^(helpers|artifacts)/[^*]+$' .dockerignore)
    {
        cat kind/Dockerfile .dockerignore
        find kind/image helpers artifacts \( "${excluded[@]}" \) -prune -o -type f ! -name '.*' -print0 |
            LC_ALL=C sort -z | digest_files
    } | digest
)

make_image() {
    local inputs node
    inputs=$(image_inputs)
    if again || [ "$(docker image inspect --format '{{index .Config.Labels "walkthrough.inputs"}}' "$IMAGE_SERVING" 2>/dev/null)" != "$inputs" ]; then
        docker image inspect "$IMAGE_SERVING" >/dev/null 2>&1 || remember "image $IMAGE_SERVING"
        did built
        # Without attestations the image is one manifest, as `kind load` wants it.
        run "docker to build $IMAGE_SERVING" env BUILDX_NO_DEFAULT_ATTESTATIONS=1 ENGINE=docker \
            "$KIND_DIR/image/build.sh" "$IMAGE_SERVING" --label "walkthrough.inputs=$inputs"
    fi
    # Everything runs on the worker, so the image, of some GB, is there only.
    node=$(kind get nodes --name "$CLUSTER_NAME" 2>/dev/null | awk '/-worker/ { print; exit }')
    [ -n "$node" ] || failed "the cluster $CLUSTER_NAME has no worker, so it was not made of kind/cluster.yaml: make kind-down, then make kind-up."
    if again || [ "$(marked node "$node" image)" != "$inputs" ]; then
        if [ "$DONE" = built ]; then DONE="built and loaded"; else did loaded; fi
        run "$IMAGE_SERVING to be on $node" kind load docker-image "$IMAGE_SERVING" --name "$CLUSTER_NAME" --nodes "$node"
        mark node "$node" image "$inputs"
        # They name the tag, which is the same, and so keep the old image.
        if ask get pods --all-namespaces -o 'jsonpath={.items[*].spec.containers[*].image}' 2>/dev/null | grep -qF "$IMAGE_SERVING"; then
            DONE="$DONE; pods that run keep the old one: kubectl --context $CONTEXT -n walkthrough delete pods --all"
        fi
    fi
}

# Once for every image, since that is where the artefacts come from.
fill_bucket() {
    local inputs
    inputs=$(image_inputs)
    if ! again && [ "$(marked namespace minio-system bucket)" = "$inputs" ]; then return 0; fi
    did installed
    run "the job that fills the bucket" k replace --force -f "$KIND_DIR/components/minio-fill.yaml"
    run "artifacts/ to be in the bucket" k wait job/minio-fill -n minio-system --for=condition=Complete --timeout="$(left)"
    mark namespace minio-system bucket "$inputs"
}
