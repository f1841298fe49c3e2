# shellcheck shell=bash
# What tests/demo, tests/run and tests/bench/run share: tools, packages, build,
# install, and a private server that runs as an ordinary user and is always
# stopped and removed again. Sourced under `set -euo pipefail`, never run.
#
# From outside: PG_MAJOR (15), PG_CONFIG (that major's Debian path),
# CARGO_TARGET_DIR, PGQ_TIMEOUT (seconds one long command may take; 1500).

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PG_MAJOR=${PG_MAJOR:-15}
PG_CONFIG=${PG_CONFIG:-/usr/lib/postgresql/$PG_MAJOR/bin/pg_config}
TARGET_DIR=${CARGO_TARGET_DIR:-$ROOT/target}
LOG_DIR=$TARGET_DIR/logs
TIMEOUT=${PGQ_TIMEOUT:-1500}
# One source for the version: the library and the cargo command must be equal.
PGRX_VERSION=$(sed -n 's/^pgrx = "=\([0-9.]*\)".*/\1/p' "$ROOT/Cargo.toml")

STARTED=$SECONDS
CHILD=      # process group of the command that `quietly` runs
RUN_DIR=    # everything this run creates outside target/
SERVER_DIR= # the private server, while there is one

# The harness and psql must see this run's server only.
unset PGQ_RUN_DIR PGHOST PGPORT PGUSER PGDATABASE PGSERVICE PGOPTIONS PGPASSWORD PGAPPNAME PGTZ PGDATESTYLE
export PG_CONFIG PGQ_RUN_DIR CARGO_TERM_COLOR=never NO_COLOR=1
# A backtrace buries the message; tests/run -v asks for it.
export RUST_BACKTRACE=0
# su(1) leaves root without the sbin directories, where runuser is.
PATH=$PATH:/usr/sbin:/sbin:${CARGO_HOME:-$HOME/.cargo}/bin

step() { printf '[%4d s] %s\n' $((SECONDS - STARTED)) "$*"; }

die() {
    printf '[%4d s] FAILED: %s\n' $((SECONDS - STARTED)) "$*" >&2
    exit 1
}

# Other programs' output inside ours; pgrx colours it whatever it is asked.
indent() { sed 's/\x1b\[[0-9;]*m//g; s/^/  | /'; }

# quietly NAME COMMAND...: runs it with its output in target/logs/NAME.log, a
# line every 30 s while it works, the tail of the log if it fails.
quietly() {
    local name=$1 log=$LOG_DIR/$1.log began=$SECONDS due=30 status=0
    shift
    mkdir -p "$LOG_DIR"
    # A process group of its own, so that an interrupt reaches all of it.
    set -m
    timeout --kill-after=30 "$TIMEOUT" "$@" >"$log" 2>&1 </dev/null &
    CHILD=$!
    set +m
    while kill -0 "$CHILD" 2>/dev/null; do
        sleep 0.1
        if ((SECONDS - began >= due)); then
            step "  … $name: $((SECONDS - began)) s; $(tail -c 300 "$log" | tail -n 1 | indent | cut -c 5-100)"
            due=$((SECONDS - began + 30))
        fi
    done
    wait "$CHILD" || status=$?
    CHILD=
    ((status == 0)) && return 0
    ((status != 124)) || printf 'stopped after %s s\n' "$TIMEOUT" >>"$log"
    {
        printf "  %s: exit status %s; see %s\n" "$name" "$status" "$log"
        tail -n "${TAIL_LINES:-40}" "$log" | indent
    } >&2
    return "$status"
}

# In front of what only root may do. A list and no function, because `timeout`
# runs programs only.
AS_ROOT=()
((EUID == 0)) || AS_ROOT=(sudo)
APT_GET=("${AS_ROOT[@]}" env DEBIAN_FRONTEND=noninteractive apt-get)

# Asks for the password now, in the foreground, and not in a background command.
need_sudo() {
    ((EUID != 0)) || return 0
    [[ -n "$(command -v sudo)" ]] || die "not root and no sudo: cannot install $*"
    sudo -n true 2>/dev/null || sudo -v || die "sudo is needed to install $*"
}

# PostgreSQL refuses to run as root, so root's servers belong to postgres.
server_user() {
    if ((EUID == 0)); then echo postgres; else id -un; fi
}

as_server_user() {
    if ((EUID == 0)); then (cd / && runuser -u postgres -- "$@"); else "$@"; fi
}

# What the build and the server need. Looks for the files and not for the
# packages, so that other ways to install them do too.
need_packages() {
    local missing=() bin
    bin=$(dirname "$PG_CONFIG")
    [[ -x $bin/postgres && -x $bin/initdb ]] || missing+=("postgresql-$PG_MAJOR")
    [[ -x $PG_CONFIG && -f $("$PG_CONFIG" --includedir-server)/postgres.h ]] ||
        missing+=("postgresql-server-dev-$PG_MAJOR")
    [[ -n "$(command -v clang)" ]] || missing+=(clang)
    [[ -n ${LIBCLANG_PATH:-} || -n "$(compgen -G '/usr/lib/llvm-*/lib/libclang*.so*')" ]] ||
        missing+=(libclang-dev)
    [[ -n "$(command -v cc)" ]] || missing+=(build-essential)
    [[ -n "$(command -v pkg-config)" ]] || missing+=(pkg-config)
    ((${#missing[@]} == 0)) || install_packages "${missing[@]}"
    [[ -n "$(command -v cargo)" ]] || die "cargo is not here: install Rust first (https://rustup.rs)"
    PG_BIN=$("$PG_CONFIG" --bindir)
    PKGLIBDIR=$("$PG_CONFIG" --pkglibdir)
    EXTENSION_DIR=$("$PG_CONFIG" --sharedir)/extension
}

# The checker of install scripts, of exactly these versions, in a place of its own.
PGSPOT=(pgspot==0.9.4 pglast==7.21)
PGSPOT_DIR=$TARGET_DIR/pgspot
need_pgspot() { need_venv pgspot "$PGSPOT_DIR" "${PGSPOT[@]}"; }

# One pip for all environments: to install it takes longer than what it installs.
PIP=("$TARGET_DIR/pip/bin/pip" --disable-pip-version-check)
need_pip() {
    [[ ! -x ${PIP[0]} ]] || return 0
    python3 -c 'import ensurepip, venv' 2>/dev/null || install_packages python3 python3-venv
    quietly pip-venv python3 -m venv "$TARGET_DIR/pip"
}

# need_venv NAME DIRECTORY NAME==VERSION...: a Python with exactly these packages in a place of its own.
need_venv() {
    local name=$1 directory=$2
    shift 2
    [[ "$(cat "$directory/versions" 2>/dev/null)" != "$*" ]] || return 0
    need_pip
    step "installing $1 for $name"
    rm -rf "$directory"
    quietly "$name-venv" python3 -m venv --without-pip "$directory"
    quietly "$name-install" "${PIP[@]}" --python "$directory/bin/python" install --no-deps "$@"
    quietly "$name-check" "${PIP[@]}" --python "$directory/bin/python" check
    echo "$*" >"$directory/versions"
}

# need_node_packages SOURCE DIRECTORY: what SOURCE/package-lock.json pins, in a place of its own.
need_node_packages() {
    local source=$1 directory=$2
    [[ -n "$(command -v npm)" ]] || install_packages nodejs npm
    ! cmp -s "$source/package-lock.json" "$directory/installed" || return 0
    step "installing Node.js packages for $(basename "$source")"
    cp "$source/package.json" "$source/package-lock.json" "$directory/"
    (cd "$directory" && quietly "$(basename "$source")-install" npm ci --ignore-scripts --no-audit --no-fund)
    cp "$source/package-lock.json" "$directory/installed"
}

# A library that gives a server a clock of its own: for PGQ_FAKETIME.
need_faketime() {
    local directory=$TARGET_DIR/faketime
    PGQ_FAKETIME=$(compgen -G "$directory/usr/lib/*/faketime/libfaketimeMT.so.1" | head -n 1 || true)
    if [[ -z $PGQ_FAKETIME ]]; then
        apt-cache show libfaketime >/dev/null 2>&1 || quietly apt-update "${APT_GET[@]}" update
        step "unpacking libfaketime"
        rm -rf "$directory"
        mkdir -p "$directory"
        (cd "$directory" && quietly faketime-download apt-get download libfaketime)
        quietly faketime-unpack dpkg -x "$directory"/libfaketime_*.deb "$directory"
        PGQ_FAKETIME=$(compgen -G "$directory/usr/lib/*/faketime/libfaketimeMT.so.1")
    fi
    export PGQ_FAKETIME
}

# PgBouncer, unpacked and not installed: its package starts a service. Exports PGQ_PGBOUNCER, where it is.
need_pgbouncer() {
    local directory=$TARGET_DIR/clients/pgbouncer
    PGQ_PGBOUNCER=$(command -v pgbouncer || true)
    export PGQ_PGBOUNCER=${PGQ_PGBOUNCER:-$directory/usr/sbin/pgbouncer}
    [[ ! -x $PGQ_PGBOUNCER ]] || return 0
    # What it is linked with, besides what the server needs too.
    install_packages libc-ares2 libevent-2.1-7
    step "unpacking pgbouncer"
    rm -rf "$directory"
    mkdir -p "$directory"
    (cd "$directory" && quietly pgbouncer-download apt-get download pgbouncer)
    quietly pgbouncer-unpack dpkg -x "$directory"/pgbouncer_*.deb "$directory"
}

install_packages() {
    [[ -n "$(command -v apt-get)" ]] || die "missing, and no apt-get here: $*"
    need_sudo "$*"
    step "installing packages: $*"
    quietly apt-update "${APT_GET[@]}" update
    no_stray_server
    quietly apt-install "${APT_GET[@]}" install -y --no-install-recommends "$@"
}

# Debian starts a server with every postgresql package unless told before.
no_stray_server() {
    local conf=/etc/postgresql-common/createcluster.conf
    [[ ! -x $(dirname "$PG_CONFIG")/postgres ]] || return 0
    quietly apt-common "${APT_GET[@]}" install -y --no-install-recommends postgresql-common
    grep -qs '^create_main_cluster = false' "$conf" ||
        "${AS_ROOT[@]}" sh -c "echo 'create_main_cluster = false' >> $conf"
}

need_pgrx() {
    local home=${PGRX_HOME:-$HOME/.pgrx}
    if [[ "$(cargo pgrx --version 2>/dev/null)" != "cargo-pgrx $PGRX_VERSION" ]]; then
        step "installing cargo-pgrx $PGRX_VERSION (5 minutes on two cores)"
        quietly cargo-pgrx cargo install cargo-pgrx --version "$PGRX_VERSION" --locked --force
    fi
    grep -qsxF "pg$PG_MAJOR = \"$PG_CONFIG\"" "$home/config.toml" && return 0
    if [[ ! -f $home/config.toml ]]; then
        step "telling cargo-pgrx where PostgreSQL $PG_MAJOR is"
        mkdir -p "$home"
        quietly pgrx-init cargo pgrx init "--pg$PG_MAJOR" "$PG_CONFIG"
    elif grep -qs "^pg$PG_MAJOR *=" "$home/config.toml"; then
        # Somebody's own set-up with another server: leave it alone.
        export PGRX_HOME=$TARGET_DIR/pgrx
        mkdir -p "$PGRX_HOME"
        printf '[configs]\npg%s = "%s"\n' "$PG_MAJOR" "$PG_CONFIG" >"$PGRX_HOME/config.toml"
    else
        sed -i "/^\[configs\]/a pg$PG_MAJOR = \"$PG_CONFIG\"" "$home/config.toml"
    fi
}

# One line that changes when anything changes that ends up in the extension.
source_fingerprint() {
    {
        find src sql tests/upgrade Cargo.toml Cargo.lock pgq.control -type f -print0 |
            LC_ALL=C sort -z | xargs -0 sha256sum
        "$PG_CONFIG" --version
        rustc --version
    } | sha256sum
}

installed_fingerprint() {
    { sha256sum "$PKGLIBDIR/pgq.so" "$EXTENSION_DIR"/pgq.control "$EXTENSION_DIR"/pgq--*.sql 2>&1 || true; } | sha256sum
}

# Installs the release build unless it is what is installed: `cargo pgrx test`
# puts a debug build with test functions into the same place.
build_and_install() {
    local stamp=$TARGET_DIR/installed-pg$PG_MAJOR.stamp source sudo=()
    source=$(source_fingerprint)
    if [[ "$(cat "$stamp" 2>/dev/null)" == "$source $(installed_fingerprint) $PKGLIBDIR" ]]; then
        step "the release build is installed already"
        return 0
    fi
    if [[ ! -w $PKGLIBDIR || ! -w $EXTENSION_DIR ]]; then
        need_sudo "the extension into $PKGLIBDIR"
        sudo=(--sudo)
    fi
    [[ -z "$(command -v dpkg)" ]] || ! dpkg -S "$EXTENSION_DIR/pgq.control" >/dev/null 2>&1 ||
        die "the older PgQ, also named pgq, is installed in $EXTENSION_DIR: the two cannot live together"
    step "building and installing the extension (release; two minutes the first time)"
    # Removed first: a copy over a mapped library would break servers that run.
    "${AS_ROOT[@]}" rm -f "$PKGLIBDIR/pgq.so"
    quietly install cargo pgrx install --release --pg-config "$PG_CONFIG" \
        --no-default-features --features "pg$PG_MAJOR" "${sudo[@]}" || die "the extension does not build"
    # What earlier versions installed, for tests of the way from there: cargo pgrx installs its own only.
    "${AS_ROOT[@]}" cp tests/upgrade/pgq--*.sql "$EXTENSION_DIR"
    echo "$source $(installed_fingerprint) $PKGLIBDIR" >"$stamp"
}

# What cargo-pgrx tells cargo when it builds: with the same, what was built for the one serves the other.
PGRX_FLAGS='target.'\''cfg(all(target_family = "unix", not(target_os = "macos")))'\''.rustflags = ["-C", "link-arg=-Wl,--no-gc-sections"]'

# The build with points at which tests let it die; never installed. Exports PGQ_HOOKS, where it is.
build_hooks() {
    export PGQ_HOOKS=$TARGET_DIR/hooks/$PG_MAJOR/pgq.so
    step "building the library with hooks for the tests"
    quietly hooks cargo --config "$PGRX_FLAGS" build --lib --release --no-default-features --features "pg$PG_MAJOR test-hooks"
    mkdir -p "$(dirname "$PGQ_HOOKS")"
    cp "$TARGET_DIR/release/libpgq.so" "$PGQ_HOOKS"
}

# Directly under /tmp: a Unix socket's path may have 107 bytes at most.
make_run_dir() {
    [[ -z $RUN_DIR ]] || return 0
    RUN_DIR=$(mktemp -d /tmp/pgq.XXXXXX)
    PGQ_RUN_DIR=$RUN_DIR
    # The server's user must get in, and create directories of its own.
    chmod 711 "$RUN_DIR"
}

# server_start [NAME=VALUE...]: a private server with these settings; exports
# the variables by which psql and the harness find it.
server_start() {
    local setting value
    make_run_dir
    SERVER_DIR=$(mktemp -d "$RUN_DIR/XXXXXX")
    ((EUID != 0)) || chown postgres: "$SERVER_DIR"
    as_server_user "$PG_BIN/initdb" -D "$SERVER_DIR/data" -U postgres --auth=trust --no-sync \
        --encoding=UTF8 --locale=C.UTF-8 >"$RUN_DIR/initdb.log" 2>&1 ||
        { cat "$RUN_DIR/initdb.log" >&2 && die "initdb failed"; }
    PGPORT=$((20000 + RANDOM % 10000))
    {
        printf "%s\n" "listen_addresses = ''" "unix_socket_directories = '$SERVER_DIR'" "port = $PGPORT" \
            "lc_messages = 'C'" "max_worker_processes = 32" "log_line_prefix = '%m [%p] %b '"
        for setting in "$@"; do
            value=${setting#*=}
            printf "%s = '%s'\n" "${setting%%=*}" "${value//\'/\'\'}"
        done
    } | as_server_user tee -a "$SERVER_DIR/data/postgresql.conf" >/dev/null
    export PGHOST=$SERVER_DIR PGPORT PGUSER=postgres PGDATABASE=postgres
    as_server_user "$PG_BIN/pg_ctl" -D "$SERVER_DIR/data" -l "$SERVER_DIR/log" -w -t 60 start \
        >/dev/null </dev/null || die "the private server did not start"
}

# stop_in DATA_DIRECTORY: stops the server there, if one runs.
stop_in() {
    as_server_user "$PG_BIN/pg_ctl" -D "$1" -w -t 20 -m fast stop >/dev/null 2>&1 ||
        as_server_user "$PG_BIN/pg_ctl" -D "$1" -w -t 20 -m immediate stop >/dev/null 2>&1 || true
}

server_stop() {
    [[ -n $SERVER_DIR ]] || return 0
    stop_in "$SERVER_DIR/data"
    rm -rf "$SERVER_DIR"
    SERVER_DIR=
    unset PGQ_RUN_DIR PGHOST PGPORT PGUSER PGDATABASE
}

server_log_tail() {
    printf '  the end of the server log:\n'
    as_server_user tail -n 30 "$SERVER_DIR/log" | indent
}

# Runs on every way out: stops what this run started and nothing else.
cleanup() {
    local status=$? pidfile
    trap - EXIT INT TERM
    if [[ -n $CHILD ]] && kill -TERM -- "-$CHILD" 2>/dev/null; then
        wait "$CHILD" 2>/dev/null || true
    fi
    if [[ -n $SERVER_DIR ]]; then
        ((status == 0)) || server_log_tail >&2 || true
        server_stop
    fi
    # What a test binary left that was killed before it could clean up.
    [[ -n $RUN_DIR ]] || exit "$status"
    for pidfile in "$RUN_DIR"/*/postmaster.pid "$RUN_DIR"/*/*/postmaster.pid; do
        [[ ! -f $pidfile ]] || stop_in "$(dirname "$pidfile")"
    done
    # The small disk of a server whose test was killed.
    grep -o " $RUN_DIR/[^ ]* " /proc/mounts 2>/dev/null | xargs -r -n 1 "${AS_ROOT[@]}" umount -l || true
    rm -rf "$RUN_DIR" 2>/dev/null || true
    exit "$status"
}

sql() { "$PG_BIN/psql" -X -v ON_ERROR_STOP=1 "$@"; }

trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
cd "$ROOT" || exit
