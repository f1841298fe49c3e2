# shellcheck shell=bash
# What tests there are, read from their sources: `catalogue` prints a line for each, `list` shows them. Sourced by
# tests/run after tests/lib.sh, never run.

# The names of the test functions in Rust files, as "KIND <tab> GROUP <tab> NAME".
rust_tests() {
    local kind=$1 file
    shift
    for file in "$@"; do
        [[ -f $file ]] || continue
        awk -v kind="$kind" -v group="$(basename "$file" .rs)" '
            /^[ \t]*#\[(pg_)?test[\](]/ { is_test = 1 }
            is_test && match($0, /fn [A-Za-z0-9_]+/) {
                printf "%s\t%s\t%s\n", kind, group, substr($0, RSTART + 3, RLENGTH - 3)
                is_test = 0
            }' "$file"
    done
}

# The torture parts, each a case: its number and its title.
torture_parts() {
    cat "$ROOT"/tests/src/torture/t[0-9]*.rs | awk -F '"' '
        / id: "/ { for (i = 1; i < NF; i++) if ($i ~ / id: $/) id = $(i + 1) }
        / title: "/ { for (i = 1; i < NF; i++) if ($i ~ / title: $/) print "torture\ttorture\t" id " " $(i + 1) }'
}

# The recipes for workers outside, each a directory.
recipes() {
    local directory
    for directory in "$ROOT"/tests/clients/*/; do
        [[ ! -f $directory/run ]] || basename "$directory"
    done
}

# Each case of each recipe; the recipe's own check only of those that have one.
client_cases() {
    local recipe name
    for recipe in $(recipes); do
        while read -r name; do
            printf 'clients\t%s\t%s %s\n' "$recipe" "$recipe" "$name"
        done < <(sed -n 's/^    Case { name: "\([a-z0-9_]*\)".*/\1/p' "$ROOT/tests/src/clients/mod.rs")
        [[ ! -f $ROOT/tests/clients/$recipe/check ]] ||
            printf 'clients\t%s\t%s does_what_its_own_check_asks\n' "$recipe" "$recipe"
    done
}

rust_files() { find "$@" -name '*.rs' 2>/dev/null | LC_ALL=C sort; }

server_binaries() {
    local file name
    for file in "$ROOT"/tests/*.rs; do
        name=$(basename "$file" .rs)
        [[ $name =~ ^(architecture|bench|clients|clock|engine|pg_upgrade|readme|released|torture)$ ]] || echo "$name"
    done
}

# Everything there is: kind, group (a file), name of the test.
catalogue() {
    local name files
    printf 'fmt\tfmt\tfmt\nclippy\tclippy\tclippy\n'
    printf 'pgspot\tpgspot\t%s\n' the_install_script_has_no_finding \
        the_upgrade_scripts_have_no_finding a_planted_fault_is_found
    mapfile -t files < <(rust_files "$ROOT/tests/src")
    rust_tests architecture "$ROOT/tests/architecture.rs" "${files[@]}"
    "$ROOT/tests/model/check" --list | sed 's/^/model\tmodel\t/'
    mapfile -t files < <(rust_files "$ROOT/src/engine")
    rust_tests engine "${files[@]}"
    mapfile -t files < <(rust_files "$ROOT/src" | grep -v "^$ROOT/src/engine/")
    rust_tests sql "${files[@]}"
    for name in "$ROOT"/tests/pg_regress/sql/*.sql; do
        [[ ! -f $name ]] || printf 'golden\tgolden\t%s\n' "$(basename "$name" .sql)"
    done
    for name in "$ROOT"/tests/isolation/specs/*.spec; do
        [[ ! -f $name ]] || printf 'isolation\tisolation\t%s\n' "$(basename "$name" .spec)"
    done
    rust_tests readme "$ROOT/tests/readme.rs"
    sed -n '/^@case$/ { n; s/^def \([a-z_]*\)(.*/cron\tcron\t\1/p }' "$ROOT/tests/cron/compare.py"
    "$ROOT/tests/packaging/check" --list | sed 's/^/packaging\tpackaging\t/'
    for name in $(server_binaries); do
        mapfile -t files < <(rust_files "$ROOT/tests/$name.rs" "$ROOT/tests/$name")
        rust_tests server "${files[@]}" | sed "s/^server\t[^\t]*/server\t$name/"
    done
    rust_tests clock "$ROOT/tests/clock.rs"
    client_cases
    torture_parts
    printf 'newer\tnewer\t%s\n' "${NEWER_PARTS[@]/#/newer_}"
}

list() {
    catalogue | awk -F '\t' '
        $1 != kind { kind = $1; print kind }
        $2 != $3 { print "  " ($1 == "golden" || $1 == "isolation" || $1 == "clients" ? "" : $2 ": ") $3 }'
}
