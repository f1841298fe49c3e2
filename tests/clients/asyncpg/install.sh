# shellcheck shell=bash
# asyncpg, in a virtual environment.
mapfile -t pins <"$ROOT/tests/clients/asyncpg/requirements.txt"
need_venv asyncpg "$CLIENT_DIR" "${pins[@]}"
