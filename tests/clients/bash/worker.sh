#!/usr/bin/env bash
# A worker for one queue, with bash and psql: `bash worker.sh`. One psql stays connected and is given one
# statement after the other.
#
# Two ways to claim, PGQ_WAY:
#
# transaction  Claim, work and COMMIT are one transaction: what the work does in this psql happens exactly
#              once. A job that kills the worker (out of memory, a machine that goes away) is back at once
#              and nothing is counted, so it can kill one worker after the other, for ever.
# lease        The claim commits at once; the job is done again if this worker does not complete it while
#              the lease lasts: at least once. A job that kills the worker is back when its lease ends, a
#              failure is counted, and at max_attempts the job is dead. For long work, and for work that is
#              not in the database: most of what a shell does.
set -uo pipefail

WAY=${PGQ_WAY:-transaction}
LEASE_SECONDS=${PGQ_LEASE_SECONDS:-30}
POLL_SECONDS=${PGQ_POLL_SECONDS:-30} # for what no notification tells
POOLED=${PGQ_POOLED:-}               # a pooler in transaction mode: no LISTEN

STOP=    # a signal asked for it
LOST=    # psql has ended
HEARD=   # a notification came
ROWS=()  # what the last statement returned
MESSAGE= # what went wrong last

# --- the work: one function for each task of the queue; it fails by its status, and says why in MESSAGE

task_insert() { ask "INSERT INTO effect (job, attempt) VALUES ($ID, $ATTEMPT)"; }

task_sleep() {
    task_insert && ask "SELECT $(quote "$ARGS")::jsonb ->> 'seconds'" && sleep "${ROWS[0]}"
}

task_fail() {
    task_insert || return
    MESSAGE="failed on purpose"
    return 1
}

TASKS="'{insert, sleep, fail}'"

# --- one statement

quote() { printf "'%s'" "${1//\'/\'\'}"; }

# ask STATEMENT: its rows in ROWS; fails when it failed (MESSAGE says how) or psql is gone (LOST).
ask() {
    printf '%s;\n\\echo --end :SQLSTATE\n' "$1" 1>&"$TO_PSQL" 2>/dev/null
    answer || return
    [[ $LINE == *" 00000" ]] && return
    printf '\\echo :LAST_ERROR_MESSAGE\n\\echo --end\n' 1>&"$TO_PSQL" 2>/dev/null
    answer && MESSAGE=${ROWS[*]}
    return 1
}

# Reads up to the mark, which is left in LINE.
answer() {
    ROWS=()
    while IFS= read -ru "$FROM_PSQL" LINE; do
        case $LINE in
        --end*) return 0 ;;
        "Asynchronous notification "*) HEARD=yes ;;
        *) ROWS+=("$LINE") ;;
        esac
    done
    LOST=yes MESSAGE="the connection is lost"
    return 1
}

# --- one job

# claim [LEASE ARGUMENT]: sets ID, ATTEMPT, TASK, ARGS; fails when there is none. In the text of a jsonb
# tabs and line ends are escaped, so that a job is a line.
claim() {
    ask "SELECT id, attempt, task, args FROM pgq.claim(:'queue', tasks => $TASKS ${1:-})" &&
        ((${#ROWS[@]} > 0)) && IFS=$'\t' read -r ID ATTEMPT TASK ARGS <<<"${ROWS[0]}"
}

run_in_transaction() {
    ask "BEGIN" || return
    if ! claim; then
        ask "ROLLBACK"
        return 1
    fi
    if "task_$TASK" && ask "COMMIT"; then return 0; fi
    [[ -z $LOST ]] || return # the server rolls back, and the job is ready again
    local message=$MESSAGE
    ask "ROLLBACK"
    record_failure "$message"
}

run_with_lease() {
    claim ", lease => '$LEASE_SECONDS s'" || return
    heartbeat $$ &
    local beating=$! done_with=0
    "task_$TASK" || done_with=$?
    kill "$beating" 2>/dev/null
    wait "$beating" 2>/dev/null
    [[ -z $LOST ]] || return
    if ((done_with != 0)); then
        record_failure "$MESSAGE"
    elif ask "SELECT pgq.complete($ID, $ATTEMPT)" && [[ ${ROWS[0]} == f ]]; then
        echo "job $ID: attempt $ATTEMPT had lost its lease; it is done again" >&2
    fi
}

# In a transaction of its own: otherwise the failing job would be the next one, at once, for ever.
record_failure() {
    echo "job $ID, attempt $ATTEMPT: $1" >&2
    ask "SELECT pgq.fail($ID, $ATTEMPT, $(quote "$1"))"
}

# heartbeat WORKER: extends the lease every third of it, by a psql of its own. It outlives a worker that is
# killed, so it asks whether that one lives: otherwise the job would never come back.
heartbeat() {
    while sleep "$((LEASE_SECONDS * 1000 / 3))e-3" && kill -0 "$1" 2>/dev/null; do
        psql -XqAt "$PGQ_DSN" -c "SELECT pgq.extend($ID, $ATTEMPT, '$LEASE_SECONDS s')" >/dev/null
    done
}

# --- the loop

# psql ends when its input does: also after a kill -9, when nothing that the worker started runs any more.
connect() {
    local theirs
    LOST='' HEARD=''
    coproc PSQL { exec psql -XqAt -F $'\t' -v queue="$PGQ_QUEUE" "$PGQ_DSN"; }
    # One that could not connect may have ended by now, and bash forgets its descriptors with it.
    theirs=${PSQL[1]-}
    { exec {FROM_PSQL}<&"${PSQL[0]-}" && exec {TO_PSQL}>&"$theirs"; } 2>/dev/null || { LOST=yes && return; }
    exec {theirs}>&-
    [[ -n $POOLED ]] || ask "LISTEN \"pgq_$PGQ_QUEUE\""
}

disconnect() {
    [[ -z ${FROM_PSQL-} ]] || exec {FROM_PSQL}<&-
    [[ -z ${TO_PSQL-} ]] || exec {TO_PSQL}>&-
    unset FROM_PSQL TO_PSQL
}

# psql shows a notification only behind a statement, so it is given an empty one 60 times a second.
wait_for_jobs() {
    local end=$((SECONDS + POLL_SECONDS)) pause=0.015
    [[ -z $POOLED ]] || pause=0.2
    while [[ -z $HEARD$STOP$LOST ]] && ((SECONDS < end)); do
        IFS= read -rt "$pause" -u "$FROM_PSQL" LINE # nothing comes by itself: a sleep that starts no process
        [[ -n $POOLED ]] || ask "SELECT WHERE false"
    done
    HEARD=
}

work() {
    local run_one=run_in_transaction
    [[ $WAY != lease ]] || run_one=run_with_lease
    while [[ -z $STOP$LOST ]]; do
        "$run_one" || wait_for_jobs
    done
}

trap 'STOP=yes' TERM INT
trap '' PIPE # a psql that has ended shows as the end of its output
pause=1
while [[ -z $STOP ]]; do
    connect
    [[ -n $LOST ]] || pause=1
    work
    disconnect
    [[ -n $STOP ]] || { sleep "${pause}e-1" & wait $!; } # a signal ends this wait
    pause=$((pause < 25 ? pause * 2 : 50))
done
