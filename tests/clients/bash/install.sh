# shellcheck shell=bash
# psql comes with the server, whose packages tests/run has installed.
[[ -n "$(command -v psql)" ]] || install_packages postgresql-client
