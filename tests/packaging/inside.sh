# shellcheck shell=bash
# The cases that install and remove: each is a function, run by root in a fresh copy of the machine (copy.sh) that has
# PostgreSQL and no pgq. /pgq has target/deb/ with the package, and what README.md and the Dockerfiles say.
#
#   bash inside.sh CASE
set -euo pipefail
BIN=/usr/lib/postgresql/$PG_MAJOR/bin
PACKAGE=postgresql-$PG_MAJOR-pgq-jobs
SERVER=/tmp/server

fail() {
    echo "FAILED: $*"
    [[ ! -f $SERVER/log ]] || tail -n 30 "$SERVER/log"
    exit 1
}

# README's commands say sudo; here we are root.
sudo() { "$@"; }

as_postgres() { runuser -u postgres -- "$@"; }
sql() { as_postgres psql -X -A -t -q -v ON_ERROR_STOP=1 -h /tmp -U postgres "$@" postgres; }

# start_server [FILE…]: a new server; what the files say is added to its configuration.
start_server() {
    install -d -o postgres "$SERVER"
    as_postgres "$BIN/initdb" -D "$SERVER/data" -U postgres --auth=trust --no-sync >/dev/null
    { printf "unix_socket_directories = '/tmp'\nlisten_addresses = ''\n" && cat /dev/null "$@"; } |
        as_postgres tee -a "$SERVER/data/postgresql.conf" >/dev/null
    control_server start
}

control_server() {
    as_postgres "$BIN/pg_ctl" -D "$SERVER/data" -l "$SERVER/log" -w -t 60 "$@" >/dev/null </dev/null ||
        fail "pg_ctl $*"
}

postmaster() { head -n 1 "$SERVER/data/postmaster.pid"; }

# What README.md tells a user of Debian to type, but for the build.
install_as_readme_says() {
    # shellcheck source=/dev/null
    source ./install-debian.sh </dev/null
    dpkg --status "$PACKAGE" | grep -qx 'Status: install ok installed' || fail "$PACKAGE is not installed"
}

# README's first example says "done".
first_example_runs() {
    local last
    last=$(sql -f ./first-example.sql 2>/dev/null | tail -n 1)
    [[ $last == 'done|"hello, world"||1' ]] || fail "README's first example says: $last"
}

# One more job of the handler of the first example.
job_runs() {
    local state
    state=$(sql 2>&1 <<<"SELECT pgq.put('hello', '{\"name\": \"again\"}') AS job \gset
        SELECT state FROM pgq.wait(:job)" || true)
    [[ $state == "done" ]] || fail "a job $1: $state"
}

# PostgreSQL looks for the file even where the library is preloaded.
the_library_is_missed() {
    local said
    said=$(sql -c "SELECT pgq.put('hello')" 2>&1) && fail "put works without the library: $said"
    # From 18 on it leaves the path out.
    [[ $said =~ could\ not\ (access\ file\ \"\$libdir/pgq|load\ library\ \"pgq)\" ]] || fail "put says: $said"
}

# The same postmaster as before, and none of its processes died.
nothing_crashed() {
    [[ $(postmaster) == "$1" && $(sql -c 'SELECT 1') == 1 ]] || fail "the server is not the same"
    ! grep -E 'was terminated by signal|reinitializing|PANIC' "$SERVER/log" || fail "a process crashed"
}

# Files and new directories of which the machine has none, but for those of dpkg and apt themselves and the server's.
changed() {
    local path server
    server=$(dpkg --listfiles "postgresql-$PG_MAJOR")
    (cd /changes && find . \( -path ./var/lib/dpkg -o -path ./var/lib/apt -o -path ./var/cache -o -path ./var/log \
        -o -path ./machine -o -path ./changes -o -path ./pgq \) -prune -o \( -type f -o -type l -o -type d \) -printf '%P\n') |
        while read -r path; do
            [[ -d /changes/$path && -d /machine/$path ]] || grep -qxF "/$path" <<<"$server" || echo "$path"
        done
}

# What somebody installed by hand on this machine is not the package's.
remove_pgq() {
    local package
    for package in "$PACKAGE" "postgresql-$PG_MAJOR-pgq3"; do
        ! dpkg --status "$package" >/dev/null 2>&1 || dpkg --purge "$package"
    done
    rm -f "/usr/lib/postgresql/$PG_MAJOR/lib/pgq.so" "/usr/share/postgresql/$PG_MAJOR"/extension/pgq{.control,--*.sql}
    [[ -x $BIN/postgres ]] || fail "this copy of the machine has no PostgreSQL $PG_MAJOR: is /usr a file system of its own?"
}

# What the image must have: the library, and what the package has of the extension, upgrade scripts too.
image_files() {
    echo ./lib/pgq.so
    dpkg-deb --fsys-tarfile target/deb/*.deb | tar -t | sed -n 's|.*/\(extension/pgq.*\)|./share/\1|p'
}

# Cases

it_installs_and_a_job_runs() {
    install_as_readme_says
    start_server ./preload.conf
    first_example_runs
    [[ $(sql -c 'SELECT pgq.version()') == "$(dpkg-query -W -f '${source:Upstream-Version}' "$PACKAGE")" ]] ||
        fail "the package has another version than the library"
}

it_is_replaced_and_removed_under_a_running_server() {
    local pid
    install_as_readme_says
    start_server ./preload.conf
    first_example_runs
    pid=$(postmaster)
    dpkg --install target/deb/*.deb
    job_runs "after the package was replaced"
    apt-get remove -y "$PACKAGE"
    the_library_is_missed
    nothing_crashed "$pid"
    install_as_readme_says
    job_runs "after the package came back"
    nothing_crashed "$pid"
    control_server restart
    job_runs "after a restart"
}

a_server_without_preloading_outlives_it() {
    local pid
    install_as_readme_says
    start_server
    first_example_runs
    pid=$(postmaster)
    apt-get remove -y "$PACKAGE"
    the_library_is_missed
    nothing_crashed "$pid"
    control_server restart
    nothing_crashed "$(postmaster)"
    install_as_readme_says
    job_runs "after the package came back"
}

nothing_is_left_when_it_is_removed() {
    local left
    apt-get remove -y "$PACKAGE" 2>/dev/null || true
    install_as_readme_says
    left=$(changed)
    for file in "usr/lib/postgresql/$PG_MAJOR/lib/pgq.so" "usr/share/postgresql/$PG_MAJOR/extension/pgq.control"; do
        grep -qxF "$file" <<<"$left" || fail "the list of changes does not have $file, which was installed"
    done
    apt-get remove -y "$PACKAGE"
    left=$(changed)
    [[ -z $left ]] || fail "left behind: $left"
    ! dpkg --status "$PACKAGE" 2>/dev/null || fail "dpkg still knows the package"
}

it_cannot_stand_beside_the_older_pgq() {
    local older=postgresql-$PG_MAJOR-pgq3 said from
    mkdir -p older/DEBIAN
    printf 'Package: %s\nVersion: 3.5-1\nArchitecture: all\nMaintainer: nobody <nobody@example.org>\nDescription: stands for the older PgQ\n' \
        "$older" >older/DEBIAN/control
    dpkg-deb --build older older.deb
    # Debian's own where it has one.
    from=$(apt-cache show "$older" >/dev/null 2>&1 && echo "$older" || echo ./older.deb)
    said=$(apt-get --simulate install ./target/deb/*.deb "$from" 2>&1) && fail "apt installs both"
    [[ $said == *"$PACKAGE : Conflicts: $older"* ]] || fail "apt does not say why: $said"
    dpkg --install older.deb
    said=$(dpkg --install target/deb/*.deb 2>&1) && fail "dpkg installs pgq beside the older PgQ"
    [[ $said == *"$PACKAGE conflicts with $older"* ]] || fail "dpkg says: $said"
    [[ ! -e /usr/lib/postgresql/$PG_MAJOR/lib/pgq.so ]] || fail "it was unpacked all the same"
    dpkg --purge "$older"
    dpkg --install target/deb/*.deb
    said=$(dpkg --install older.deb 2>&1) && fail "dpkg installs the older PgQ beside pgq"
    [[ $said == *"$PACKAGE conflicts with $older"* ]] || fail "dpkg says: $said"
}

# The image's own steps, on Debian's packages instead of those in the official image. What initdb makes is preloaded.
the_dockerfile_makes_a_server_with_pgq() {
    # shellcheck source=/dev/null
    (cd target/deb && source /pgq/Dockerfile.sh)
    start_server
    [[ $(sql -c 'SHOW shared_preload_libraries') == pgq ]] || fail "a new server does not preload pgq"
    [[ $(sql -c 'SHOW max_worker_processes') == 16 ]] || fail "a new server has other worker processes"
    sql -f /docker-entrypoint-initdb.d/pgq.sql
    sed -i '/^CREATE EXTENSION pgq;$/d' ./first-example.sql
    first_example_runs
    [[ -z $(compgen -G '/tmp/*.deb') ]] || fail "the package stays in the image"
}

the_extension_image_is_laid_out_for_cloudnativepg() {
    local version
    # shellcheck source=/dev/null
    (cd target/deb && source /pgq/cloudnativepg.Dockerfile.sh)
    version=$(dpkg-deb -f target/deb/*.deb Version)
    diff <(cd /image && find . -type f | LC_ALL=C sort) <(image_files | LC_ALL=C sort) || fail "the image has other files"
    [[ -f /image/share/extension/pgq--${version%-*}.sql ]] || fail "the image cannot create the extension"
    cmp /image/lib/pgq.so <(dpkg-deb --fsys-tarfile target/deb/*.deb | tar -xO "./usr/lib/postgresql/$PG_MAJOR/lib/pgq.so") ||
        fail "the image has another library than the package"
}

# Where this Debian has no such version, the server is a package that stands for it.
[[ ! -f server.deb ]] || dpkg --install server.deb >/dev/null
remove_pgq
"$1"
echo "it holds"
