# shellcheck shell=bash
# psycopg 3, in a virtual environment.
mapfile -t pins <"$ROOT/tests/clients/psycopg/requirements.txt"
need_venv psycopg "$CLIENT_DIR" "${pins[@]}"
