# shellcheck shell=bash
# As package-lock.json pins it.
need_node_packages "$ROOT/tests/clients/postgres_js" "$CLIENT_DIR"
