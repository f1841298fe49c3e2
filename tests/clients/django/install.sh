# shellcheck shell=bash
# Django, its tasks as a package of their own (they are part of Django 6), and psycopg, in a virtual environment.
mapfile -t pins <"$ROOT/tests/clients/django/requirements.txt"
need_venv django "$CLIENT_DIR" "${pins[@]}"
