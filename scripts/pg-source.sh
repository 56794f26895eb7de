#!/bin/sh
# The tests that PostgreSQL's sources bring (src/test/regress, src/test/isolation), of the packaged server's version, and
# the header files that their C functions are compiled with: fetched with apt-get, which need not be root, into
# .cache/pg-source. Nothing is installed. Prints the sources' folder.
set -eu
cd "$(dirname "$0")/.."
cache=$PWD/.cache/pg-source
major=$(ls /usr/lib/postgresql | sort -n | tail -n 1)

# The machine's own package sources, asked for sources as well, with lists of their own.
apt() {
    apt-get -qq -o APT::Sandbox::User=root -o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$cache/sources" \
        -o "Dir::State::lists=$cache/lists" -o "Dir::Cache::archives=$cache/archives" "$@" >&2
}

take_sources() {
    rm -rf "$cache/sources"
    mkdir -p "$cache/sources" "$cache/lists/partial" "$cache/archives/partial"
    for list in /etc/apt/sources.list.d/*.sources; do
        [ -e "$list" ] && sed 's/^Types:.*/Types: deb deb-src/' "$list" >"$cache/sources/${list##*/}"
    done
    for list in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
        [ -e "$list" ] && sed -n 's/^deb /deb-src /p; /^deb /p' "$list" >"$cache/sources/${list##*/}.list"
    done
    return 0
}

folder() { ls -d "$cache"/postgresql-"$major".* 2>/dev/null | tail -n 1; }

if [ ! -e "$cache/complete-$major" ]; then
    take_sources
    apt update
    # The installed version's if it is still served, else another of the same major version.
    version=$(dpkg-query -W -f='${Version}' "postgresql-$major")
    (cd "$cache" && { apt source --download-only "postgresql-$major=$version" || apt source --download-only "postgresql-$major"; })
    (cd "$cache" && for package in "postgresql-server-dev-$major" libpq-dev; do
        apt download "$package=$version" || apt download "$package"
    done)
    tar -xf "$(ls "$cache"/postgresql-"$major"_*.orig.tar.* | tail -n 1)" -C "$cache" --wildcards \
        '*/src/test/regress/*' '*/src/test/isolation/*'
    for package in "$cache"/*.deb; do
        dpkg-deb --extract "$package" "$(folder)/headers"
    done
    touch "$cache/complete-$major"
fi
folder
