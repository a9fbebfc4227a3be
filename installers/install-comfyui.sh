#!/usr/bin/env bash
# Installs ComfyUI with the right PyTorch and models on Linux or macOS, keeps it running on 127.0.0.1 and proves that
# it renders. This script only finds (or fetches) a Python and hands over to `hybrid-video install-comfyui`, which does
# the work and takes the same options; install-comfyui.ps1 is the same for Windows. No sudo is used unless you ask for
# --service system, and then each command is shown first.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: installers/install-comfyui.sh [VERB] [OPTIONS]

verbs: install (when none is given), update, repair, rollback, uninstall, resume, cancel,
       start, stop, restart, status, logs, check, models

  --dir FOLDER            folder of the installation
  --bundle NAME           models to fetch; repeat for more; none: no models
  --source URL            git repository of ComfyUI: an address or a folder
  --ref REF               tag, branch or commit; latest: the newest release
  --engine NAME           auto, comfy-cli, or git (with uv)
  --torch BUILD           auto, cpu, cu126, cu128, cu130, rocm7.2, xpu, none
  --torch-index URL       package index for PyTorch
  --python PYTHON         Python for ComfyUI: a path or a version
  --port PORT             port on 127.0.0.1
  --service KIND          auto, background, system, none
  --manifest FILE         TOML file with further bundles
  --mirror PLACE          address or folder asked for models first; repeat for more
  --comfyui-arg ARG       further argument for ComfyUI
  --min-free-gb NUMBER    disk space that must be left over
  --delete-models         for uninstall: also the models
  --keep-models           for uninstall: not the models
  --delete-outputs        for uninstall: also ComfyUI's outputs, inputs and workflows
  --keep-outputs          for uninstall: not those
  --dry-run               say what would be done, and do nothing
  --yes                   do not ask
  --json                  print one JSON object at the end
  --help                  this text

environment: HYBRID_VIDEO_INSTALL_* for each option, HYBRID_VIDEO_MODEL_MIRRORS, HF_TOKEN for gated models,
             HYBRID_VIDEO_UV (path of uv), HYBRID_VIDEO_PACKAGE (wheel or address of hybrid-video), https_proxy
TEXT
}

UV_VERSION="0.13.9"
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
ROOT="$(dirname "$HERE")"
TOOLS="$ROOT/.tools"

say() { printf '%s\n' "$*" >&2; }

stop() {
    say "error: $*"
    exit 2
}

# A hybrid-video that is installed already is the quickest way.
find_hybrid_video() {
    if [ -x "$ROOT/.venv/bin/hybrid-video" ]; then
        printf '%s\n' "$ROOT/.venv/bin/hybrid-video"
    elif command -v hybrid-video >/dev/null 2>&1; then
        command -v hybrid-video
    fi
}

find_uv() {
    local place
    for place in "${HYBRID_VIDEO_UV:-}" "$(command -v uv 2>/dev/null || true)" "$TOOLS/bin/uv" "$HOME/.local/bin/uv" "$HOME/.cargo/bin/uv"; do
        if [ -n "$place" ] && [ -x "$place" ]; then
            printf '%s\n' "$place"
            return
        fi
    done
}

# uv brings a Python of its own where this machine's is missing or too old.
fetch_uv() {
    local python
    for python in python3 python3.13 python3.12 python3.11; do
        if command -v "$python" >/dev/null 2>&1 &&
            "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            say "fetching uv $UV_VERSION with $python"
            if "$python" "$HERE/get_uv.py" "$TOOLS" >&2; then
                return
            fi
        fi
    done
    say "no Python 3.11 or newer here; fetching uv $UV_VERSION, which brings one"
    local address="https://astral.sh/uv/$UV_VERSION/install.sh"
    mkdir -p "$TOOLS/bin"
    if command -v curl >/dev/null 2>&1; then
        curl --proto '=https' --tlsv1.2 -fsSL "$address" -o "$TOOLS/uv-install.sh" || stop "$(no_network)"
    elif command -v wget >/dev/null 2>&1; then
        wget --https-only -qO "$TOOLS/uv-install.sh" "$address" || stop "$(no_network)"
    else
        stop "neither Python 3.11 nor curl nor wget is here. Install one of them (Debian and Ubuntu: sudo apt install curl), then run this again"
    fi
    UV_INSTALL_DIR="$TOOLS/bin" UV_NO_MODIFY_PATH=1 sh "$TOOLS/uv-install.sh" >&2 || stop "$(no_network)"
    rm -f "$TOOLS/uv-install.sh"
}

no_network() {
    printf '%s' "uv could not be fetched. Check the network (a proxy: set https_proxy), or install uv yourself " \
        "(https://docs.astral.sh/uv/) and set HYBRID_VIDEO_UV to its path. Then run this again"
}

hand_over() {
    local uv="$1"
    shift
    if [ -n "${HYBRID_VIDEO_PACKAGE:-}" ]; then
        exec "$uv" tool run --from "$HYBRID_VIDEO_PACKAGE" hybrid-video install-comfyui "$@"
    fi
    [ -f "$ROOT/pyproject.toml" ] || stop "this script needs the repository it comes from; get it whole, or set HYBRID_VIDEO_PACKAGE to a wheel of hybrid-video"
    say "preparing hybrid-video (its own Python packages; a minute the first time)"
    "$uv" sync --project "$ROOT" --frozen --no-dev --inexact --quiet ||
        stop "hybrid-video's packages could not be fetched. Check the network and the package index, then run this again"
    exec "$ROOT/.venv/bin/hybrid-video" install-comfyui "$@"
}

main() {
    local argument found
    for argument in "$@"; do
        if [ "$argument" = "--help" ] || [ "$argument" = "-h" ]; then
            usage
            return
        fi
    done
    case "$(uname -s)" in
        Linux | Darwin) ;;
        *) stop "this script is for Linux and macOS; on Windows run installers\\install-comfyui.ps1 in PowerShell" ;;
    esac
    found="$(find_hybrid_video)"
    if [ -n "$found" ]; then
        exec "$found" install-comfyui "$@"
    fi
    found="$(find_uv)"
    if [ -z "$found" ]; then
        fetch_uv
        found="$(find_uv)"
    fi
    [ -n "$found" ] || stop "$(no_network)"
    hand_over "$found" "$@"
}

main "$@"
