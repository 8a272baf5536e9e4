# shellcheck shell=bash disable=SC2034
# What has to be there before anything is made. Every problem is found before the first is reported:
# nobody likes to mend one, wait, and be told the next.

PROBLEMS=

problem() { PROBLEMS="$PROBLEMS
  - $*"; }

# Of resources, not of programs: FORCE=1 turns these into warnings.
shortage() {
    if [ -n "${FORCE:-}" ]; then say "  Warning, ignored because of FORCE: $*"; else problem "$*"; fi
}

# check_program NAME MINIMUM HOW-TO-GET-IT COMMAND...
check_program() {
    local name=$1 minimum=$2 how=$3 have
    shift 3
    if ! command -v "$name" >/dev/null; then
        problem "$name is not installed: $how"
        return
    fi
    have=$(version_of "$@")
    if [ -z "$have" ]; then
        problem "\`$*\` says no version of $name (needed: $minimum or later): $how"
    elif ! at_least "$have" "$minimum"; then
        problem "$name $have is older than $minimum, which this cluster needs: $how"
    fi
}

# Sets DOCKER to docker's own figures: bytes of memory|CPUs|architecture|system|data folder.
check_docker() {
    DOCKER=
    local how="https://docs.docker.com/get-docker/"
    if ! command -v docker >/dev/null; then
        problem "docker is not installed: $how"
        return
    fi
    case $(docker --version 2>/dev/null) in
    *[Pp]odman*)
        problem "The program docker is podman in disguise, which kind supports only in part and this script not at all: install Docker itself, $how"
        return
        ;;
    esac
    if ! DOCKER=$(docker info --format '{{.MemTotal}}|{{.NCPU}}|{{.Architecture}}|{{.OperatingSystem}}|{{.DockerRootDir}}' 2>"$STATE/docker-info"); then
        DOCKER=
        if grep -qi 'permission denied' "$STATE/docker-info"; then
            problem "You may not talk to docker: sudo usermod -aG docker \"\$USER\", then log in again."
        else
            problem "docker is installed but does not answer: start Docker Desktop, or sudo systemctl start docker (docker info: $(grep -v '^$' "$STATE/docker-info" | tail -n 1))."
        fi
        return
    fi
    check_program docker "$DOCKER_MIN_VERSION" "$how" docker version --format '{{.Server.Version}}'
}

check_programs() {
    check_docker
    check_program kind "$KIND_MIN_VERSION" "https://kind.sigs.k8s.io/docs/user/quick-start/#installation, or brew install kind." kind version
    check_program kubectl "$KUBECTL_MIN_VERSION" "https://kubernetes.io/docs/tasks/tools/, or brew install kubectl." kubectl version --client
    check_program helm "$HELM_MIN_VERSION" "https://helm.sh/docs/intro/install/, or brew install helm." helm version --short
}

field() { printf '%s' "$DOCKER" | cut -d'|' -f"$1"; }

# Docker Desktop runs in a machine of its own; what this machine's kernel says is then not about it.
docker_is_here() { case $(field 4) in *"Docker Desktop"*) return 1 ;; *) [ -r "$PROC/meminfo" ] ;; esac }

# The way out of every shortage, unless it has been taken already.
or_less() { [ "$PARTS" = core ] || printf '; or install less, such as PARTS=core'; }

check_memory() {
    local need have
    need=$(sum_of memory_of)
    have=$(($(field 1) / 1000000000))
    if [ "$have" -lt "$need" ]; then
        if docker_is_here; then
            shortage "This machine has $have GB of memory, ${PARTS// /, } need about $need: use a larger one$(or_less)."
        else
            shortage "Docker has $have GB of memory, ${PARTS// /, } need about $need: Docker Desktop, Settings, Resources$(or_less)."
        fi
    elif docker_is_here; then
        have=$(($(sed -n 's/^MemAvailable: *\([0-9]*\) kB$/\1/p' "$PROC/meminfo") * 1024 / 1000000000))
        [ "$have" -ge "$need" ] ||
            shortage "Only $have GB of memory are free, ${PARTS// /, } need about $need: close something$(or_less)."
    fi
    [ "$(field 2)" -ge 4 ] || shortage "Docker has $(field 2) CPUs; at least 4 are needed (Docker Desktop, Settings, Resources)."
}

check_disk() {
    local need have folder
    need=$(sum_of disk_of)
    folder=$(field 5)
    # Docker Desktop keeps its disk in one growing file below the home folder.
    if ! docker_is_here || [ ! -d "$folder" ]; then folder=$HOME; fi
    have=$(df -Pk "$folder" | awk 'NR == 2 { print int($4 * 1024 / 1e9) }')
    [ "$have" -ge "$need" ] ||
        shortage "Only $have GB of disk are free where Docker keeps its images ($folder), ${PARTS// /, } need about $need: docker system prune$(or_less)."
}

check_inotify() {
    docker_is_here || return 0
    local name need have
    for name in max_user_watches=524288 max_user_instances=512; do
        need=${name#*=} name=${name%%=*}
        have=$(cat "$PROC/sys/fs/inotify/$name" 2>/dev/null || echo "$need")
        [ "$have" -ge "$need" ] ||
            shortage "fs.inotify.$name is $have; with this many pods some die of \"too many open files\" below $need: sudo sysctl fs.inotify.$name=$need (for good: in /etc/sysctl.d/)."
    done
}

check_architecture() {
    case $(field 3) in
    x86_64 | amd64) ;;
    *) shortage "Docker runs on $(field 3): TensorFlow Serving and Seldon publish their images for x86_64 only; use such a machine (FORCE=1 leaves them to emulation, which is untried)." ;;
    esac
}

check_ports() {
    local name port
    for name in INGRESS BROKER PROMETHEUS GRAFANA ELASTICSEARCH; do
        eval "port=\$PORT_$name"
        if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
            problem "Port $port of this machine, for $(printf '%s' "$name" | tr '[:upper:]' '[:lower:]'), is taken: end what listens there (lsof -i :$port; the local stack: make down), or change it in kind/versions.env and kind/cluster.yaml."
        fi
    done
}

# Exits unless everything is there.
check_all() {
    PROC=${PROC:-/proc}
    check_programs
    if [ -n "$DOCKER" ]; then
        check_architecture
        check_inotify
        # What a cluster that is there already uses of memory, disk and ports is its own.
        if ! { command -v kind >/dev/null && listed; }; then
            check_memory
            check_disk
            check_ports
        fi
    fi
    [ -z "$PROBLEMS" ] && return
    say "Not ready to make the cluster:$PROBLEMS"
    say "Nothing was changed. Mend these, and run make kind-up again."
    SAID=yes
    exit 1
}
