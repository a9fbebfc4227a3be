#!/bin/sh
# Starts a pod: ComfyUI on loopback, the gate on the exposed port, the lease keeper above both.
# No secret is ever put on a command line, and none reaches ComfyUI.
set -eu

home=${HYBRID_VIDEO_POD_HOME:-/opt/hybrid-video}
comfyui=${COMFYUI_DIR:-/opt/ComfyUI}
data=${COMFYUI_DATA:-/data/comfyui}

mkdir -p "$data/input" "$data/output" "$data/temp" "$data/user"
if [ "$(id -u)" = 0 ]; then
    # Whatever a workflow makes ComfyUI do, it does as a user without rights: it can read neither the keeper's
    # environment nor the gate's.
    chown -R comfyui:comfyui "$data"
    set -- --comfyui-user comfyui --gate-user gate "$@"
fi

exec python3 "$home/lease_keeper.py" "$@" --data-dir "$data" -- \
    python3 "$comfyui/main.py" \
    --listen 127.0.0.1 --port 8189 \
    --disable-auto-launch --disable-metadata --disable-all-custom-nodes --disable-api-nodes \
    --input-directory "$data/input" --output-directory "$data/output" \
    --temp-directory "$data" --user-directory "$data/user" \
    --extra-model-paths-config "$home/extra_model_paths.yaml"
