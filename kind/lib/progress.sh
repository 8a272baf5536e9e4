# shellcheck shell=bash disable=SC2153
# One step after the other: what is waited for and since when, a limit for each, and on failure what the
# cluster says about it. A step is `begin NAME LIMIT NAMESPACE`, any number of `run` and `rollouts`, `end`.

POLL=${POLL:-0.5} # seconds between two looks
STEP=0            # its number; STEPS is how many there will be
CHILD=            # process group of the command that runs

SAID=             # whether the reader has been told why the script ends
if [ -t 1 ]; then TTY=yes WIDTH=$(tput cols 2>/dev/null || echo 100); else TTY='' WIDTH=100; fi

# begin NAME SECONDS [NAMESPACE]
begin() {
    STEP=$((STEP + 1)) NAME=$1 LIMIT=$2 NAMESPACE=${3:-} STARTED=$SECONDS DONE=unchanged SPOKEN=$SECONDS
    printf '\n== %s\n' "$NAME" >>"$LOG"
}

# What the step has done, for its last line; the first to say so counts.
did() { [ "$DONE" != unchanged ] || DONE=$1; }

end() {
    line "$DONE$([ $((SECONDS - STARTED)) -lt 2 ] || printf ', %s' "$(minutes $((SECONDS - STARTED)))")"
    [ -z "$TTY" ] || printf '\n'
}

line() {
    local text
    text=$(printf '%2d/%d %-11s %s' "$STEP" "$STEPS" "$NAME" "$1")
    if [ -n "$TTY" ]; then printf '\r\033[K%.*s' "$((WIDTH - 1))" "$text"; else printf '%s\n' "$text"; fi
}

# waiting WHAT [AND SO ON]: what is waited for; on a terminal all the time in one line, in a log every half minute.
waiting() {
    if [ -n "$TTY" ] || [ $((SECONDS - SPOKEN)) -ge 30 ]; then
        line "waits ($(minutes $((SECONDS - STARTED))) of $(minutes "$LIMIT")) for $1${2:-}"
        SPOKEN=$SECONDS
    fi
}

over() { [ $((SECONDS - STARTED)) -ge "$LIMIT" ]; }

# What is left of the step's time, for commands with a limit of their own: a little more, so that ours is
# reached first, which reports more.
left() { printf '%ds' $((LIMIT - (SECONDS - STARTED) + 10)); }

# The pods of the step that are not well, for the line of `waiting`: "; minio-0 ImagePullBackOff".
unwell() {
    [ -n "$NAMESPACE" ] || return 0
    { ask get pods -n "$NAMESPACE" --no-headers 2>/dev/null || true; } |
        awk '$3 !~ /^(Running|Completed|ContainerCreating|PodInitializing|Pending|Terminating|Init:[0-9]+\/[0-9]+)$/ { printf "; %s %s", $1, $3; exit }'
}

# run WHAT COMMAND...: its output goes to the log; ends the script where it fails or the step's time is over.
run() {
    local what=$1 status=0 looks=0 pods=""
    shift
    printf '+ %s\n' "$*" >>"$LOG"
    set -m # a process group of its own, so that all of it can be ended
    "$@" </dev/null >>"$LOG" 2>&1 &
    CHILD=$!
    set +m
    while kill -0 "$CHILD" 2>/dev/null; do
        if over; then
            stop_child
            failed "it waited for $what, and $(minutes "$LIMIT") had passed."
        fi
        # Asking for pods takes longer than looking at a process.
        [ $((looks % 20)) -ne 10 ] || pods=$(unwell)
        looks=$((looks + 1))
        waiting "$what" "$pods"
        sleep "$POLL"
    done
    # Bash would say by itself that a signal has ended it.
    { wait "$CHILD" || status=$?; } 2>/dev/null
    CHILD=
    [ "$status" -eq 0 ] || failed "it waited for $what, and that ended with status $status; the end of the log:
$(tail -n 5 "$LOG" | sed 's/^/    /')"
}

stop_child() {
    [ -n "$CHILD" ] || return 0
    kill -TERM -- "-$CHILD" 2>/dev/null || true
    local waited=0
    while kill -0 "$CHILD" 2>/dev/null && [ "$waited" -lt 20 ]; do
        waited=$((waited + 1))
        sleep 0.25
    done
    kill -KILL -- "-$CHILD" 2>/dev/null || true
    wait "$CHILD" 2>/dev/null || true
    CHILD=
}

# rollouts WORKLOAD...: until each of them is there and all its pods are ready.
rollouts() {
    local workload
    for workload in "$@"; do
        until ask get -n "$NAMESPACE" "$workload" -o name >>"$LOG" 2>&1; do
            ! over || failed "it waited for $workload in $NAMESPACE to be made, and $(minutes "$LIMIT") had passed."
            waiting "$workload to be made"
            sleep "$POLL"
        done
        # A look that costs nothing: the second `up` finds everything ready.
        ask rollout status -n "$NAMESPACE" "$workload" --watch=false 2>/dev/null | grep -qE 'successfully rolled out|roll out complete|rolling update complete' ||
            run "$workload in $NAMESPACE to be ready" k rollout status -n "$NAMESPACE" "$workload" --timeout="$(left)"
    done
}

# What is known of this kind of failure; the table in kind/README.md says more.
advice() {
    case $1 in
    *ImagePull* | *ErrImage*) say "An image could not be pulled: is the network there, is the registry's limit used up (docker login), does the tag still exist (kind/versions.env)?" ;;
    *"Insufficient memory"* | *OOMKilled*) say "Memory ran out: give Docker more, or install less (PARTS=core,eventing)." ;;
    *"Insufficient cpu"*) say "The pods ask for more CPUs than there are: give Docker more, or install less (PARTS=core,eventing)." ;;
    *"too many open files"* | *inotify*) say "The limits of inotify are too low: sudo sysctl fs.inotify.max_user_watches=524288 fs.inotify.max_user_instances=512" ;;
    *"no space left"* | *DiskPressure*) say "The disk is full: docker system df, docker system prune." ;;
    *"no such host"* | *"i/o timeout"* | *"connection refused"* | *"Could not resolve"*) say "Something could not be reached; its address stands in the log." ;;
    *"x509"*) say "A certificate was not accepted: an expired webhook (AGAIN=seldon make kind-up makes a new one), or a proxy that intercepts." ;;
    esac
}

# failed WHY: everything that helps, and the way on.
failed() {
    local report=""
    [ -z "$TTY" ] || printf '\n'
    say
    say "Step $STEP of $STEPS, $NAME, failed: $1"
    if [ -n "$NAMESPACE" ] && ask get namespace "$NAMESPACE" >/dev/null 2>&1; then
        report=$(
            say "Pods in $NAMESPACE:"
            { ask get pods -n "$NAMESPACE" 2>&1 || true; } | sed 's/^/    /'
            say "Last events in $NAMESPACE:"
            { ask get events -n "$NAMESPACE" --sort-by=.lastTimestamp 2>&1 || true; } | tail -n 12 | sed 's/^/    /'
        )
        say
        say "$report"
    fi
    say
    advice "$1 $report"
    say "The whole log: $LOG. Failures and remedies: kind/README.md."
    say "Then run make kind-up again: it goes on from here. make kind-down removes everything."
    SAID=yes
    exit 1
}

# On every exit: a command that nothing above has foreseen to fail ends the script silently otherwise.
unforeseen() {
    local status=$?
    [ "$status" -eq 0 ] || [ -n "$SAID" ] ||
        say "Step $STEP of $STEPS, ${NAME:-check}, ended unexpectedly (status $status). The whole log: $LOG. make kind-up goes on from here."
}

interrupted() {
    trap - INT TERM
    SAID=yes
    stop_child
    say
    say "Interrupted in step $STEP of $STEPS, ${NAME:-check}. make kind-up goes on from here; make kind-down removes everything."
    exit 130
}
