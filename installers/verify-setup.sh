#!/usr/bin/env bash
# Checks the whole setup: a thin call to `hybrid-video doctor`, which takes the same options.
set -euo pipefail
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
if [ -x "$ROOT/.venv/bin/hybrid-video" ]; then
    exec "$ROOT/.venv/bin/hybrid-video" doctor "$@"
elif command -v hybrid-video >/dev/null 2>&1; then
    exec hybrid-video doctor "$@"
fi
printf '%s\n' "error: hybrid-video is not installed; run installers/install-comfyui.sh or make setup first" >&2
exit 2
