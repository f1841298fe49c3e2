# shellcheck shell=bash
# The driver is Debian's, 42.5. Compiled here, so that a worker starts at once.
[[ -n "$(command -v javac)" ]] || install_packages default-jdk-headless
[[ -f /usr/share/java/postgresql.jar ]] || install_packages libpostgresql-jdbc-java
if [[ ! -f $CLIENT_DIR/Worker.class || $ROOT/tests/clients/jdbc/Worker.java -nt $CLIENT_DIR/Worker.class ]]; then
    quietly jdbc-javac javac -Xlint:all -Werror -cp /usr/share/java/postgresql.jar -d "$CLIENT_DIR" \
        "$ROOT/tests/clients/jdbc/Worker.java"
fi
