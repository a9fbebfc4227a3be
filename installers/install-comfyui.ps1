# Installs ComfyUI with the right PyTorch and models on Windows, keeps it running on 127.0.0.1 and proves that it
# renders. This script only finds (or fetches) a Python and hands over to `hybrid-video install-comfyui`, which does the
# work and takes the same options; install-comfyui.sh is the same for Linux and macOS. No administrator is needed.
#
#   powershell -ExecutionPolicy Bypass -File installers\install-comfyui.ps1 install -Bundle video-5b
#
# Environment: HYBRID_VIDEO_INSTALL_* for each option, HYBRID_VIDEO_MODEL_MIRRORS, HF_TOKEN for gated models,
# HYBRID_VIDEO_UV (path of uv), HYBRID_VIDEO_PACKAGE (wheel or address of hybrid-video), https_proxy
[CmdletBinding()]
param(
    [Parameter(Position = 0)]
    [ValidateSet("install", "update", "repair", "rollback", "uninstall", "resume", "cancel",
        "start", "stop", "restart", "status", "logs", "check", "models")]
    [string]$Verb = "install",
    [string]$Dir,
    [string[]]$Bundle,
    [string]$Source,
    [string]$Ref,
    [string]$Engine,
    [string]$Torch,
    [string]$TorchIndex,
    [string]$Python,
    [string]$Port,
    [string]$Service,
    [string]$Manifest,
    [string[]]$Mirror,
    [string[]]$ComfyuiArg,
    [string]$MinFreeGb,
    [switch]$DeleteModels,
    [switch]$KeepModels,
    [switch]$DeleteOutputs,
    [switch]$KeepOutputs,
    [switch]$DryRun,
    [switch]$Yes,
    [switch]$Json,
    [switch]$Help
)
Set-StrictMode -Version 2.0
$ErrorActionPreference = "Stop"

$UvVersion = "0.13.9"
$Root = Split-Path -Parent $PSScriptRoot
$Tools = Join-Path $Root ".tools"
$NoNetwork = "uv could not be fetched. Check the network (a proxy: set https_proxy), or install uv yourself " +
    "(https://docs.astral.sh/uv/) and set HYBRID_VIDEO_UV to its path. Then run this again"

function Write-Message {
    param([string]$Text)
    [Console]::Error.WriteLine($Text)
}

function Stop-Script {
    param([string]$Text)
    Write-Message "error: $Text"
    exit 2
}

# PowerShell's names as the command's: -MinFreeGb 5 becomes --min-free-gb=5.
function ConvertTo-Option {
    param([System.Collections.IDictionary]$Bound)
    $Options = @()
    foreach ($Name in $Bound.Keys) {
        if ($Name -eq "Verb") { continue }
        if ([System.Management.Automation.PSCmdlet]::CommonParameters -contains $Name) { continue }
        $Option = "--" + ([regex]::Replace($Name, "(?<=[a-z])([A-Z])", "-`$1")).ToLowerInvariant()
        $Value = $Bound[$Name]
        if ($Value -is [System.Management.Automation.SwitchParameter]) {
            if ($Value.IsPresent) { $Options += $Option }
        }
        else {
            foreach ($One in @($Value)) { $Options += "$Option=$One" }
        }
    }
    return , $Options
}

# A hybrid-video that is installed already is the quickest way.
function Find-HybridVideo {
    $Local = Join-Path $Root ".venv\Scripts\hybrid-video.exe"
    if (Test-Path -LiteralPath $Local) { return $Local }
    $Found = Get-Command "hybrid-video" -ErrorAction SilentlyContinue
    if ($Found) { return $Found.Source }
    return $null
}

function Find-Uv {
    $Places = @($env:HYBRID_VIDEO_UV)
    $Found = Get-Command "uv" -ErrorAction SilentlyContinue
    if ($Found) { $Places += $Found.Source }
    $Places += (Join-Path $Tools "bin\uv.exe"), (Join-Path $Tools "Scripts\uv.exe")
    $Places += (Join-Path $HOME ".local\bin\uv.exe"), (Join-Path $HOME ".cargo\bin\uv.exe")
    foreach ($Place in $Places) {
        if ($Place -and (Test-Path -LiteralPath $Place)) { return $Place }
    }
    return $null
}

# uv brings a Python of its own where this machine's is missing or too old.
function Get-Uv {
    # Windows PowerShell 5.1 takes what a program writes to standard error for an error of its own.
    $ErrorActionPreference = "Continue"
    foreach ($Name in "python", "python3", "py") {
        if (-not (Get-Command $Name -ErrorAction SilentlyContinue)) { continue }
        & $Name -c "import sys; sys.exit(sys.version_info < (3, 11))" 2>$null
        if ($LASTEXITCODE -ne 0) { continue }
        Write-Message "fetching uv $UvVersion with $Name"
        & $Name (Join-Path $PSScriptRoot "get_uv.py") $Tools | Out-Null
        if ($LASTEXITCODE -eq 0) { return }
    }
    Write-Message "no Python 3.11 or newer here; fetching uv $UvVersion, which brings one"
    $Installer = Join-Path $Tools "uv-install.ps1"
    New-Item -ItemType Directory -Force -Path (Join-Path $Tools "bin") | Out-Null
    try {
        [Net.ServicePointManager]::SecurityProtocol = [Net.SecurityProtocolType]::Tls12
        $ErrorActionPreference = "Stop"
        Invoke-WebRequest -UseBasicParsing -Uri "https://astral.sh/uv/$UvVersion/install.ps1" -OutFile $Installer
        $ErrorActionPreference = "Continue"
        $env:UV_INSTALL_DIR = Join-Path $Tools "bin"
        $env:UV_NO_MODIFY_PATH = "1"
        & powershell -NoProfile -ExecutionPolicy Bypass -File $Installer | Out-Null
        if ($LASTEXITCODE -ne 0) { Stop-Script $NoNetwork }
    }
    catch {
        Stop-Script $NoNetwork
    }
    Remove-Item -LiteralPath $Installer -Force -ErrorAction SilentlyContinue
}

function Invoke-HandOver {
    param([string]$Uv, [string[]]$Rest)
    if ($env:HYBRID_VIDEO_PACKAGE) {
        & $Uv tool run --from $env:HYBRID_VIDEO_PACKAGE hybrid-video install-comfyui @Rest
        exit $LASTEXITCODE
    }
    if (-not (Test-Path -LiteralPath (Join-Path $Root "pyproject.toml"))) {
        Stop-Script "this script needs the repository it comes from; get it whole, or set HYBRID_VIDEO_PACKAGE to a wheel of hybrid-video"
    }
    Write-Message "preparing hybrid-video (its own Python packages; a minute the first time)"
    & $Uv sync --project $Root --frozen --no-dev --inexact --quiet
    if ($LASTEXITCODE -ne 0) {
        Stop-Script "hybrid-video's packages could not be fetched. Check the network and the package index, then run this again"
    }
    & (Join-Path $Root ".venv\Scripts\hybrid-video.exe") install-comfyui @Rest
    exit $LASTEXITCODE
}

function Invoke-Main {
    param([string[]]$Arguments)
    if ($Help) {
        Get-Content -LiteralPath $PSCommandPath -TotalCount 10
        Write-Output "Options: as in installers/install-comfyui.sh --help, in PowerShell's spelling (-DryRun, -Bundle a,b)."
        exit 0
    }
    $Found = Find-HybridVideo
    if ($Found) {
        & $Found install-comfyui @Arguments
        exit $LASTEXITCODE
    }
    $Uv = Find-Uv
    if (-not $Uv) {
        Get-Uv
        $Uv = Find-Uv
    }
    if (-not $Uv) { Stop-Script $NoNetwork }
    Invoke-HandOver -Uv $Uv -Rest $Arguments
}

$Given = @($Verb) + (ConvertTo-Option -Bound $PSBoundParameters)
Invoke-Main -Arguments $Given
