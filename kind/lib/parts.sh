# shellcheck shell=bash
# The parts of the cluster, what each needs, and of which others it is a part. The same figures stand in
# kind/README.md; a test compares them. They are estimates: no part has been measured on a cluster.

ALL_PARTS="core eventing monitoring logging"

# GB of memory that the part and the notebooks' pods that use it take, beside what a desktop uses.
memory_of() {
    case $1 in
    core) echo 6 ;;
    eventing) echo 2 ;;
    monitoring) echo 2 ;;
    logging) echo 2 ;;
    esac
}

# GB of disk for its images, in Docker's data folder.
disk_of() {
    case $1 in
    core) echo 20 ;;
    eventing) echo 5 ;;
    monitoring) echo 3 ;;
    logging) echo 2 ;;
    esac
}

needs_of() {
    case $1 in
    core) ;;
    eventing | monitoring) echo core ;;
    # The payload logger gets what it writes from the broker.
    logging) echo "core eventing" ;;
    esac
}

# Notebooks that need it, beside those of the parts that it needs itself.
notebooks_of() {
    case $1 in
    core) echo "01, 02" ;;
    eventing) echo "05, 09" ;;
    monitoring) echo "03" ;;
    logging) echo "04, 06, 07, 08, 10" ;;
    esac
}

has_part() { case " $PARTS " in *" $1 "*) return 0 ;; *) return 1 ;; esac }

sum_of() { # sum_of memory_of|disk_of
    local part sum=0
    for part in $PARTS; do sum=$((sum + $("$1" "$part"))); done
    echo "$sum"
}

# PARTS=core,eventing -> "core eventing", with what they need, in the order of ALL_PARTS; says what it added.
resolve_parts() {
    local part need wanted=" " added=""
    for part in $(printf '%s' "${PARTS:-$ALL_PARTS}" | tr ',' ' '); do
        case " $ALL_PARTS " in
        *" $part "*) wanted="$wanted$part " ;;
        *)
            say "PARTS: there is no part '$part'; the parts are ${ALL_PARTS// /, }." >&2
            return 1
            ;;
        esac
    done
    for part in $wanted; do
        for need in $(needs_of "$part"); do
            case $wanted in
            *" $need "*) ;;
            *)
                wanted="$wanted$need "
                added="$added${added:+, }$need (for $part)"
                ;;
            esac
        done
    done
    PARTS=
    for part in $ALL_PARTS; do
        case $wanted in *" $part "*) PARTS="$PARTS${PARTS:+ }$part" ;; esac
    done
    [ -z "$added" ] || say "PARTS: also installing $added."
}
