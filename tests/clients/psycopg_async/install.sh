# shellcheck shell=bash
# psycopg 3, in a virtual environment.
mapfile -t pins <"$ROOT/tests/clients/psycopg_async/requirements.txt"
need_venv psycopg_async "$CLIENT_DIR" "${pins[@]}"
