# shellcheck shell=bash
# As Cargo.lock pins it.
quietly tokio_postgres-build cargo build --locked --manifest-path "$ROOT/tests/clients/tokio_postgres/Cargo.toml" \
    --target-dir "$TARGET_DIR"
install -C "$TARGET_DIR/debug/worker" "$CLIENT_DIR/worker"
