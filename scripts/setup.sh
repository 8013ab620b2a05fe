# Sourced by the other scripts: makes .venv with everything the project needs, and finds or gets the MQTT broker.
# shellcheck shell=bash
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
ROOT=$PWD
export PATH="$ROOT/.venv/bin:$PATH:/usr/sbin"

say() { printf '\033[1m==> %s\033[0m\n' "$*" >&2; }

find_python() {
    local name
    for name in python3.13 python3.12 python3.11 python3; do
        if command -v "$name" >/dev/null && "$name" -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$name"
            return
        fi
    done
    echo "error: no Python 3.11 or newer with the venv module; install one (Debian: apt-get install python3-venv)" >&2
    exit 2
}

# Installs again only where pyproject.toml or the constraints changed since the last time.
setup_venv() {
    local stamp=.venv/.roadloop-installed wanted
    wanted=$(cat pyproject.toml scripts/constraints.txt | sha256sum)
    [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && return
    say "Installing into .venv (some minutes the first time: torch and the converters are about 2 GB)"
    [ -x .venv/bin/python ] || "$(find_python)" -m venv .venv
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint scripts/constraints.txt \
        torch==2.13.0 --editable '.[agent,can,onnx,tflite,cloud,train,dev]'
    printf '%s\n' "$wanted" >"$stamp"
}

# mosquitto from the PATH, else Debian's package: installed when root, unpacked below .cache/ when not.
setup_broker() {
    command -v mosquitto >/dev/null && command -v mosquitto_sub >/dev/null && return
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        say "Installing mosquitto"
        apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq mosquitto mosquitto-clients >/dev/null
        return
    fi
    use_unpacked_broker
    command -v mosquitto >/dev/null && return
    command -v apt-get >/dev/null || { echo "error: no mosquitto on PATH; install it, 2.0 or newer" >&2; exit 2; }
    say "Unpacking mosquitto below .cache/mosquitto"
    local apt=$ROOT/.cache/apt
    mkdir -p "$apt/lists/partial" "$apt/archives/partial" .cache/mosquitto
    local options=(-qq -o "Dir::State=$apt" -o "Dir::State::Lists=$apt/lists" -o "Dir::State::status=/var/lib/dpkg/status"
        -o "Dir::Cache=$apt" -o "Dir::Cache::archives=$apt/archives" -o "Debug::NoLocking=1")
    apt-get "${options[@]}" update
    (cd "$apt/archives" && apt-get "${options[@]}" download \
        mosquitto mosquitto-clients libmosquitto1 libcjson1 libdlt2 libwrap0)
    local package
    for package in "$apt"/archives/*.deb; do dpkg -x "$package" .cache/mosquitto; done
    use_unpacked_broker
}

use_unpacked_broker() {
    local unpacked=$ROOT/.cache/mosquitto/usr
    [ -x "$unpacked/sbin/mosquitto" ] || return 0
    export PATH="$PATH:$unpacked/sbin:$unpacked/bin"
    LD_LIBRARY_PATH="$(echo "$unpacked"/lib/*-linux-gnu*)${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
    export LD_LIBRARY_PATH
}
