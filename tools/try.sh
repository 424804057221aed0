#!/bin/sh
# Installs Laconic into .venv of this folder, and runs its main job once: python3 under `laconic run`.
. "$(dirname "$0")/python.sh"
environment .
exec .venv/bin/laconic run -- .venv/bin/python3 -c 'import json; print(json.dumps({"hello": "from python3"}))'
