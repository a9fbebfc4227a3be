# Checks the whole setup: a thin call to `hybrid-video doctor`, which takes the same options.
$ErrorActionPreference = "Stop"
$Root = Split-Path -Parent $PSScriptRoot
$Local = Join-Path $Root ".venv\Scripts\hybrid-video.exe"
if (Test-Path -LiteralPath $Local) {
    & $Local doctor @args
    exit $LASTEXITCODE
}
if (Get-Command "hybrid-video" -ErrorAction SilentlyContinue) {
    & hybrid-video doctor @args
    exit $LASTEXITCODE
}
[Console]::Error.WriteLine("error: hybrid-video is not installed; run installers\install-comfyui.ps1 first")
exit 2
