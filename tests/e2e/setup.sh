#!/bin/sh
# What tests/e2e needs beside the dev requirements: a Chromium, and Label Studio in a virtualenv of its own.
#   tests/e2e/setup.sh PYTHON FOLDER
set -eu
python=$1 folder=$2 here=$(dirname "$0")

fail() {
    echo "The end-to-end tests cannot be set up: $1" >&2
    echo "To run the other tests without them: PALLAS_SKIP_E2E=1 make test" >&2
    exit 1
}

thrice() {
    "$@" || { sleep 5; "$@"; } || { sleep 20; "$@"; }
}

has_browser() {
    command -v chromium || command -v chromium-browser || command -v google-chrome
}

if ! has_browser > /dev/null; then
    if command -v apt-get > /dev/null && [ "$(id -u)" = 0 ]; then
        echo "Installing Chromium with apt-get."
        thrice apt-get update -qq -o Acquire::Retries=3 || fail "apt-get update failed"
        DEBIAN_FRONTEND=noninteractive thrice apt-get install -y -qq --no-install-recommends \
            -o Acquire::Retries=3 chromium fonts-liberation > "$here/../../.chromium.log" 2>&1 ||
            { tail -5 "$here/../../.chromium.log" >&2; fail "apt-get install chromium failed"; }
        rm -f "$here/../../.chromium.log"
    else
        fail "there is no browser. Install Chromium (Debian and Ubuntu: sudo apt-get install chromium) or Google Chrome"
    fi
    has_browser > /dev/null || fail "chromium was installed and is not on the path"
fi

echo "Setting up $folder: about 1 GB with Label Studio, a few minutes the first time."
"$python" -m venv "$folder" || fail "$python -m venv failed"
thrice "$folder/bin/python" -m pip install --disable-pip-version-check -q --retries 5 \
    -c "$here/constraints.txt" -r "$here/requirements.txt" || fail "pip could not install Label Studio"

# its migrations take half a minute of the processor: done here once, in a world without settings of somebody's own
echo "Making an empty database of Label Studio's, which the tests begin with."
database=$(cd "$folder" && pwd)/database
rm -rf "$database" "$database.part"
mkdir "$database.part"
(cd "$database.part" && env -i PATH="$PATH" HOME="$database.part" LABEL_STUDIO_BASE_DATA_DIR="$database.part" \
    DATABASE_NAME="$database.part/label-studio.sqlite3" LATEST_VERSION_CHECK=False COLLECT_ANALYTICS=False \
    SENTRY_DSN= FRONTEND_SENTRY_DSN= ../bin/label-studio version > log 2>&1) ||
    { tail -5 "$database.part/log" >&2; fail "Label Studio could not make a database"; }
mv "$database.part" "$database"
