#!/bin/sh
# MariaDB 10.11 (Debian 12), two servers on one machine, each with a data folder and a socket of its own, and one folder
# for temporary files, as both have unless told (/tmp): as one starts, it deletes the files of every temporary table
# there, also those of the other, which is running. A session that has such a table open still reads its rows, and is
# told "Unknown table" when it drops it (error 1051; in other moments error 6, "Error on delete").
#
# One would expect a server to tell its own remains from a neighbour's files, which are named after another process. Who
# meets it first runs tests in parallel: mariadb-install-db works with temporary tables, and of four that ran at once,
# again and again, 7 of 56 failed with one of these errors, and none with a --tmpdir of its own. With that, as the
# second half shows, such neighbours leave each other alone.
#
# Needs Debian 12 (amd64) and its package sources, and python3. Takes about 20 s. Exits with 0 if it is as said.
set -eu
folder=$(mktemp -d)
pids=
trap 'for p in $pids; do kill "$p" 2>/dev/null || true; done; wait; rm -rf "$folder"' EXIT
trap 'exit 130' INT TERM HUP
cd "$folder"
for package in mariadb-server-core=1:10.11.19-0+deb12u1 liburing2=2.3-3 libaio1=0.3.113-4 libnuma1=2.0.16-1; do
    apt-get -o APT::Sandbox::User=root download "$package" >/dev/null
done
for package in *.deb; do dpkg-deb --extract "$package" .; done
python3 -m venv venv
venv/bin/pip install -q --disable-pip-version-check PyMySQL==1.1.2
export LD_LIBRARY_PATH="$folder/usr/lib/x86_64-linux-gnu"
mkdir shared apart
start() { # NAME, FOLDER FOR TEMPORARY FILES
    mkdir -p "$1/data"
    rm -f "$1/socket"
    usr/sbin/mariadbd --no-defaults --user="$(id -un)" --lc-messages-dir="$folder/usr/share/mysql" \
        --character-sets-dir="$folder/usr/share/mysql/charsets" --datadir="$folder/$1/data" --tmpdir="$folder/$2" \
        --socket="$folder/$1/socket" --pid-file="$folder/$1/pid" --skip-networking --skip-grant-tables 2>"$1/log" &
    pids="$! $pids"
    for _ in $(seq 300); do
        [ -S "$1/socket" ] && return
        sleep 0.1
    done
    cat "$1/log"
    exit 1
}
cat >hold.py <<'PYTHON'
import sys

import pymysql

cursor = pymysql.connect(unix_socket="one/socket", user="root", autocommit=True).cursor()
cursor.execute("SELECT VERSION(), @@tmpdir = %s", (sys.argv[1],))
print(*cursor.fetchone())
cursor.execute("CREATE DATABASE IF NOT EXISTS work")
cursor.execute("CREATE TEMPORARY TABLE work.held (id INT) ENGINE=Aria")
cursor.execute("INSERT INTO work.held VALUES (1)")
print("held", flush=True)
input()
cursor.execute("SELECT COUNT(*) FROM work.held")
print("rows:", *cursor.fetchone())
try:
    cursor.execute("DROP TEMPORARY TABLE work.held")
    print("dropped")
except pymysql.Error as error:
    print("error", *error.args)
PYTHON
for where in shared apart; do
    mkfifo "go-$where"
    start one shared
    venv/bin/python hold.py "$folder/shared" <"go-$where" >"said-$where" &
    holder=$!
    exec 3>"go-$where"
    until grep -qx held "said-$where"; do kill -0 "$holder"; sleep 0.1; done
    start two "$where"
    echo >&3
    exec 3>&-
    wait "$holder"
    for p in $pids; do kill "$p"; done
    for p in $pids; do wait "$p" || true; done
    pids=
    echo "$where: $(grep -vx held "said-$where" | tr '\n' ';')"
done | tee seen
grep -q "^shared: 10.11.19.*rows: 1;error 1051 Unknown table .work.held.;" seen
grep -q "^apart: 10.11.19.*rows: 1;dropped;" seen
