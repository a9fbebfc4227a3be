"""All settings, in one typed place, read from the environment, then a `.env` file in the working folder, then
`<home>/settings.env`, which `install-comfyui` writes.

One group per backend. Secrets are `SecretStr` and are registered for redaction the moment they are loaded.
`Settings.load()` turns every validation error into one sentence that names the variable, the value and the remedy.
"""

from __future__ import annotations

import ipaddress
import os
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import unquote, urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import platformdirs
from dotenv import dotenv_values
from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from hybrid_video import redaction
from hybrid_video.errors import ConfigurationError
from hybrid_video.models import MAX_BUDGET_USD, BackendChoice, Preferences, ScoreWeights, Tier

EMULATOR_ENDPOINT = "emulated"
"""Endpoint id the RunPod emulator serves, assumed when its URL names none."""

LOOPBACK = {"127.0.0.1", "localhost", "::1"}

ApiRole = Literal["read", "submit", "admin"]
API_ROLES: dict[str, ApiRole] = {"read": "read", "submit": "submit", "admin": "admin"}
"""What a token may do; each role may also do what the ones before it may."""

SHORTEST_TOKEN = 16


def is_loopback(url: str) -> bool:
    """Whether a URL points at this machine."""
    return (urlsplit(url).hostname or "") in LOOPBACK


def _http_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("is not an http(s) URL; write it like http://127.0.0.1:8188")
    return value.rstrip("/")


def settings_file() -> Path:
    """`<home>/settings.env`, written by the installer; read below `.env`, which is read below the environment."""
    home = os.environ.get("HYBRID_VIDEO_HOME") or dotenv_values(".env").get("HYBRID_VIDEO_HOME")
    return (Path(home) if home else _default_home()) / "settings.env"


def _default_home() -> Path:
    return Path(platformdirs.user_data_dir("hybrid-video", appauthor=False))


def _comma_separated(value: Any) -> Any:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


class _Group(BaseSettings):
    model_config = SettingsConfigDict(
        env_file=".env",
        env_file_encoding="utf-8",
        extra="ignore",
        frozen=True,
        populate_by_name=True,
        allow_inf_nan=False,
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The usual order, and below it what an installation left in `settings.env`."""
        installed = DotEnvSettingsSource(settings_cls, env_file=settings_file())
        return init_settings, env_settings, dotenv_settings, file_secret_settings, installed

    def model_post_init(self, _context: Any) -> None:
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, SecretStr):
                redaction.register(value.get_secret_value())


class ComfyUISettings(_Group):
    """The user's own GPUs."""

    model_config = SettingsConfigDict(env_prefix="HYBRID_VIDEO_COMFYUI_")

    urls: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="ComfyUI addresses, comma-separated; each is one slot (one GPU)."
    )
    gpu: str = Field("", description="GPU model of these machines; found through /system_stats when empty.")
    job_timeout_s: float = Field(3600, gt=0, description="Longest a single clip may take before it counts as wedged.")
    outage_patience_s: float = Field(
        60, ge=0, description="How long an unreachable ComfyUI is waited for while it holds a job."
    )
    poll_interval_s: float = Field(1.0, gt=0, le=60, description="Seconds between two looks at a running prompt.")

    _split = field_validator("urls", mode="before")(_comma_separated)

    @field_validator("urls")
    @classmethod
    def _urls(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(_http_url(url) for url in value))


class RunPodSettings(_Group):
    """Rented GPUs: serverless endpoints and pods."""

    model_config = SettingsConfigDict(env_prefix="HYBRID_VIDEO_RUNPOD_")

    api_key: SecretStr | None = Field(
        None,
        validation_alias=AliasChoices("RUNPOD_API_KEY", "HYBRID_VIDEO_RUNPOD_API_KEY"),
        description="RunPod API key.",
    )
    jobs_url: str = Field(
        "https://api.runpod.ai/v2",
        description="Serverless job API; may already contain the endpoint id (…/v2/<endpoint>).",
    )
    pods_url: str = Field("https://api.runpod.io/v2", description="Management API v2: pods, catalogue, billing.")
    endpoint_id: str = Field("", description="Serverless endpoint that runs worker-comfyui.")
    gpu: str = Field("NVIDIA GeForce RTX 4090", description="GPU of the endpoint's workers; decides the price.")
    max_workers: int = Field(3, ge=1, le=100, description="The endpoint's maximum of workers: so many jobs at once.")
    execution_timeout_s: float = Field(
        1800,
        ge=5,
        le=604_800,
        description="Sent as policy.executionTimeout; RunPod's own default of 600 s kills long clips.",
    )
    job_ttl_s: float = Field(86_400, ge=10, le=604_800, description="Sent as policy.ttl: queue and run together.")
    poll_interval_s: float = Field(2.0, gt=0, le=60, description="Seconds between two looks at a job.")
    pod_ids: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Running pods to use, comma-separated; each must serve ComfyUI behind a token-checking proxy."
    )
    pod_port: int = Field(8188, ge=1, le=65535, description="Port of the token-checking proxy on the pods.")
    pod_token: SecretStr | None = Field(None, description="Bearer token that the pods' proxy checks.")
    proxy_url: str = Field(
        "", description="Template of a pod's address with {pod_id} and {port}; RunPod's own proxy when empty."
    )

    _split = field_validator("pod_ids", mode="before")(_comma_separated)
    _url = field_validator("jobs_url", "pods_url")(_http_url)

    @property
    def endpoint_url(self) -> str:
        """`https://api.runpod.ai/v2/<endpoint>`, or "" when no endpoint is configured."""
        parts = [part for part in urlsplit(self.jobs_url).path.split("/") if part]
        if len(parts) >= 2 and parts[-2] == "v2":
            return self.jobs_url
        endpoint = self.endpoint_id or (EMULATOR_ENDPOINT if is_loopback(self.jobs_url) else "")
        if not endpoint:
            return ""
        base = self.jobs_url if parts and parts[-1] == "v2" else f"{self.jobs_url}/v2"
        return f"{base}/{endpoint}"

    @property
    def management_url(self) -> str:
        """`https://api.runpod.io/v2`, with the version added where it was left out."""
        return self.pods_url if self.pods_url.endswith("/v2") else f"{self.pods_url}/v2"

    def pod_url(self, pod_id: str) -> str:
        """Address of a pod's proxy. Loopback management URLs mean the emulator, which serves pods under /_proxy."""
        template = self.proxy_url
        if not template:
            emulated = is_loopback(self.pods_url)
            root = self.management_url.removesuffix("/v2")
            template = root + "/_proxy/{pod_id}-{port}" if emulated else "https://{pod_id}-{port}.proxy.runpod.net"
        return template.format(pod_id=pod_id, port=self.pod_port)


class PodPoolSettings(_Group):
    """Which pods are opened by the product itself, and when."""

    model_config = SettingsConfigDict(env_prefix="HYBRID_VIDEO_PODS_")

    image: str = Field("", description="Container image of the pods (docker/comfyui-pod); pods are opened only if set.")
    template_id: str = Field("", description="RunPod template to use instead of an image.")
    gpus: Annotated[tuple[str, ...], NoDecode] = Field(
        ("NVIDIA GeForce RTX 4090", "NVIDIA GeForce RTX 3090"),
        description="GPU types to try, comma-separated, by RunPod's names; the cheapest that is in stock is taken.",
    )
    clouds: Annotated[tuple[Literal["SECURE", "COMMUNITY"], ...], NoDecode] = Field(
        ("SECURE",), description="RunPod clouds to try, comma-separated: SECURE, COMMUNITY."
    )
    data_centers: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Data centres to try, comma-separated and in order; RunPod chooses when empty."
    )
    network_volume_id: str = Field("", description="Network volume with the models; ties pods to its data centre.")
    disk_gb: int = Field(40, ge=1, le=2000, description="Container disk of a pod in GB.")
    min_cuda_version: str = Field(
        "12.8",
        pattern=r"^(\d+\.\d+)?$",
        description="Oldest CUDA that a pod's host must offer, for the image in docker/comfyui-pod; empty: any.",
    )
    max_pods: int = Field(5, ge=0, le=100, description="Most pods open at once, starting ones included; 0: never any.")
    max_price_usd_per_h: Decimal = Field(
        Decimal("1.50"), gt=0, le=100, description="Dearest pod that may be opened, US dollars per hour."
    )
    policy: Literal["break-even", "threshold"] = Field(
        "break-even",
        description="When pods open: break-even weighs their price against the waiting it saves; threshold opens them "
        "at a queue length.",
    )
    value_of_waiting_usd_per_job_h: float = Field(
        5, ge=0, description="Break-even: what it is worth that one job waits an hour less."
    )
    threshold_queue: int = Field(5, ge=0, description="Threshold: pods open while more jobs than this wait.")
    threshold_idle_s: float = Field(300, ge=0, description="Threshold: a pod is closed after so many idle seconds.")
    cold_start_s: float = Field(90, ge=0, description="Expected seconds from create to the first clip, until measured.")
    ready_timeout_s: float = Field(900, gt=0, description="A pod that renders nothing within this is given up.")
    lease_s: float = Field(
        600, ge=60, le=86_400, description="A pod ends itself when nobody has renewed its lease for so long."
    )
    billing: Literal["second", "hour"] = Field("second", description="How the provider bills a started pod.")

    @property
    def may_open(self) -> bool:
        """Whether the product may open pods by itself: it knows what to run in them, and may have one."""
        return bool(self.image or self.template_id) and self.max_pods > 0

    _split = field_validator("gpus", "clouds", "data_centers", mode="before")(_comma_separated)


class GeminiSettings(_Group):
    """Google's paid models: Gemini Omni by API key, Veo on Google Cloud by OAuth."""

    model_config = SettingsConfigDict(env_prefix="HYBRID_VIDEO_GEMINI_")

    api_key: SecretStr | None = Field(
        None,
        validation_alias=AliasChoices("GEMINI_API_KEY", "GOOGLE_API_KEY", "HYBRID_VIDEO_GEMINI_API_KEY"),
        description="Gemini API key (AI Studio).",
    )
    url: str = Field("", description="Base URL instead of Google's, for example the emulator's.")
    model: str = Field("auto", description="Model id, or auto: the cheapest the key offers that can make the job.")
    resolution: Literal["360p", "720p", "1080p"] = Field("720p", description="Smallest resolution class to buy.")
    max_concurrent: int = Field(10, ge=1, le=100, description="Operations under way at once (preview quota: 10).")
    poll_interval_s: float = Field(5.0, gt=0, le=60, description="Seconds between two looks at an operation.")
    operation_timeout_s: float = Field(
        1800, gt=0, description="After this the operation is left as uncertain, never started again."
    )
    project: str = Field("", description="Google Cloud project; set it to offer Veo 3.1 there.")
    location: str = Field("us-central1", description="Google Cloud region for Veo.")
    charge_filtered: bool = Field(
        False, description="Whether a result blocked by the content filter is charged (Google's own text says not)."
    )

    @field_validator("url")
    @classmethod
    def _url(cls, value: str) -> str:
        return _http_url(value) if value else value


class RoutingSettings(_Group):
    """System-wide preferences and limits."""

    model_config = SettingsConfigDict(env_prefix="HYBRID_VIDEO_")

    prices: Literal["current", "seed"] = Field("current", description="Price profile.")
    backend: BackendChoice = Field("auto", description="Preferred tier for every batch.")
    max_cost_per_job_usd: Decimal | None = Field(
        None, ge=0, le=1000, description="Hard limit per job, all attempts together."
    )
    daily_budget_usd: Decimal | None = Field(None, ge=0, description="Hard limit per UTC day.")
    monthly_budget_usd: Decimal | None = Field(None, ge=0, description="Hard limit per UTC month.")
    monthly_tier_budgets_usd: Annotated[dict[Tier, Decimal], NoDecode] = Field(
        default_factory=dict, description="Hard limits per tier and UTC month, for example cloud=20,gemini=10."
    )
    prioritize_speed: bool = Field(False, description="Prefer the earliest finish over the lowest price.")
    allow_cloud_fallback: bool = Field(True, description="Whether paid tiers may be used at all.")
    prefer_serverless: bool = Field(False, description="Within the cloud tier, prefer serverless over pods.")
    weight_priority: float = Field(40, ge=0, le=1000, description="Weight of the tier order in the score.")
    weight_cost: float = Field(30, ge=0, le=1000, description="Weight of the price in the score.")
    weight_speed: float = Field(20, ge=0, le=1000, description="Weight of the expected finish in the score.")
    weight_queue: float = Field(10, ge=0, le=1000, description="Weight of the expected wait in the score.")
    max_attempts: int = Field(3, ge=1, le=10, description="Attempts per job over all backends.")
    retry_base_s: float = Field(
        2.0, ge=0, le=300, description="First back-off; doubles with each attempt, with jitter."
    )
    backend_patience_s: float = Field(
        120, ge=0, description="How long a job that no backend can take now waits before it fails."
    )
    value_of_time_usd_per_h: float = Field(
        10, ge=0, description="With neither deadline nor budget: what an hour of waiting is worth to you."
    )
    time_scale: float = Field(
        1.0, gt=0, description="Beside emulators only: how much faster than real time they run (expected waits shrink)."
    )
    uncertain_rule: Literal["keep", "charge"] = Field(
        "keep",
        description="What `reconcile` does with an attempt whose outcome stays unknown: keep its reservation until a "
        "person decides, or book the reservation as spent.",
    )
    uncertain_after_h: float = Field(
        48, gt=0, description="Age from which the rule applies; 48 h is the longest that a vendor keeps a result."
    )
    simulated: bool = Field(False, description="Marks everything this installation writes as simulated (the demo).")
    allow_private_urls: bool = Field(False, description="Allow image URLs on private addresses.")

    @field_validator("monthly_tier_budgets_usd", mode="before")
    @classmethod
    def _pairs(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        pairs = [part.partition("=") for part in value.split(",") if part.strip()]
        if not all(name.strip() in set(Tier) and amount.strip() for name, _, amount in pairs):
            raise ValueError("is not understood; write tiers and dollars like cloud=20,gemini=10")
        return {name.strip(): amount.strip() for name, _, amount in pairs}

    @field_validator("monthly_tier_budgets_usd")
    @classmethod
    def _amounts(cls, value: dict[Tier, Decimal]) -> dict[Tier, Decimal]:
        if any(not amount.is_finite() or amount < 0 for amount in value.values()):
            raise ValueError("holds an amount below 0; write tiers and dollars like cloud=20,gemini=10")
        return value

    @model_validator(mode="after")
    def _some_weight(self) -> Self:
        if self.weight_priority + self.weight_cost + self.weight_speed + self.weight_queue <= 0:
            raise ValueError(
                "HYBRID_VIDEO_WEIGHT_PRIORITY, _COST, _SPEED and _QUEUE are all 0, so nothing would decide; "
                "set at least one above 0"
            )
        return self

    @property
    def preferences(self) -> Preferences:
        """The system level of `Preferences`."""
        return Preferences(
            backend=self.backend,
            max_cost_usd=self.max_cost_per_job_usd,
            prioritize_speed=self.prioritize_speed,
            allow_cloud_fallback=self.allow_cloud_fallback,
            prefer_serverless=self.prefer_serverless,
            weights=ScoreWeights(
                priority=self.weight_priority,
                cost=self.weight_cost,
                speed=self.weight_speed,
                queue=self.weight_queue,
            ),
        )


class StorageSettings(_Group):
    """Where state lives."""

    model_config = SettingsConfigDict(env_prefix="HYBRID_VIDEO_")

    home: Path = Field(
        default_factory=_default_home,
        description="Folder of the ledger, history and logs.",
    )
    out: Path | None = Field(None, description="Folder for finished clips; <home>/clips when not set.")
    clips_url: str = Field(
        "", description="Where the clips folder can be reached over http, for links in Prefect; file links when empty."
    )
    ledger_url: SecretStr | None = Field(
        None, description="SQLAlchemy URL of the ledger; SQLite under home when not set."
    )
    min_free_disk_mb: int = Field(500, ge=0, description="Refuse to start a batch with less free space than this.")

    @property
    def ledger_path(self) -> Path:
        """The SQLite file used when no URL is set."""
        return self.home / "ledger.sqlite3"

    @property
    def history_path(self) -> Path:
        """The DuckDB file."""
        return self.home / "history.duckdb"

    @property
    def clips_dir(self) -> Path:
        """Where finished clips go unless a command names another folder."""
        return self.out or self.home / "clips"


class ScheduleSettings(_Group):
    """What runs by itself: the nightly batch, the daily report, and the time zone both keep to."""

    model_config = SettingsConfigDict(env_prefix="HYBRID_VIDEO_")

    time_zone: str = Field(
        "", description="The studio's time zone, like Asia/Bangkok; this machine's own when empty. Budgets stay UTC."
    )
    inbox: Path | None = Field(None, description="Folder watched for batch files; <home>/inbox when not set.")
    inbox_budget_usd: Decimal | None = Field(
        None, ge=0, le=MAX_BUDGET_USD, description="Hard limit for one night over all batch files of the inbox."
    )
    inbox_ready_by: str = Field(
        "07:00",
        pattern=r"^(([01]\d|2[0-3]):[0-5]\d)?$",
        description="When the night's clips are to be ready, by the studio's clock; no such time when empty.",
    )
    inbox_settle_s: float = Field(
        5.0, ge=0, le=600, description="A batch file is taken once it has not changed for so many seconds."
    )

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        try:
            return ZoneInfo(value).key if value else value
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError("is no time zone; write it like Europe/Berlin or Asia/Bangkok") from None


class DashboardSettings(_Group):
    """The dashboard, as `hybrid-video dashboard` starts it."""

    model_config = SettingsConfigDict(env_prefix="HYBRID_VIDEO_DASHBOARD_")

    host: str = Field(
        "127.0.0.1", min_length=1, description="Address to listen on; others than loopback need a password."
    )
    port: int = Field(8501, ge=0, le=65535, description="Port to listen on; 0: any free one.")
    password: SecretStr | None = Field(None, description="Asked of every visitor; none is asked for when not set.")


class LogSettings(_Group):
    """Log lines on standard error; commands speak for themselves without them."""

    model_config = SettingsConfigDict(env_prefix="HYBRID_VIDEO_LOG_")

    format: Literal["off", "text", "json"] = Field(
        "off", description="Form of log lines: off, text for people, json with batch, job and attempt for machines."
    )
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Least severe lines to write.")


class ObservingSettings(_Group):
    """Where unexpected errors and traces are sent; nothing is without an address."""

    sentry_dsn: SecretStr | None = Field(
        None,
        validation_alias=AliasChoices("HYBRID_VIDEO_SENTRY_DSN", "SENTRY_DSN"),
        description="Project of Sentry that unexpected errors are reported to, without prompts, paths and keys.",
    )
    sentry_environment: str = Field(
        "production",
        min_length=1,
        max_length=64,
        validation_alias=AliasChoices("HYBRID_VIDEO_SENTRY_ENVIRONMENT", "SENTRY_ENVIRONMENT"),
        description="What Sentry shows as the environment, for example studio-2.",
    )
    otlp_endpoint: str = Field(
        "",
        validation_alias=AliasChoices("OTEL_EXPORTER_OTLP_ENDPOINT"),
        description="OpenTelemetry collector that traces are sent to (OTLP over HTTP), like http://127.0.0.1:4318.",
    )
    otlp_traces_endpoint: str = Field(
        "",
        validation_alias=AliasChoices("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"),
        description="The same with its full path, where traces go elsewhere, like https://host/v1/traces.",
    )
    otlp_headers: SecretStr | None = Field(
        None,
        validation_alias=AliasChoices("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS"),
        description="Headers for the collector, comma-separated, like authorization=Bearer%20….",
    )

    @field_validator("sentry_dsn", "otlp_headers", mode="before")
    @classmethod
    def _nothing(cls, value: Any) -> Any:
        return None if isinstance(value, str) and not value.strip() else value

    @field_validator("otlp_endpoint", "otlp_traces_endpoint")
    @classmethod
    def _address(cls, value: str) -> str:
        return _http_url(value) if value.strip() else ""

    def model_post_init(self, context: Any) -> None:
        super().model_post_init(context)
        for value in self.header_pairs.values():
            redaction.register(value)
            redaction.register(value.rpartition(" ")[2])

    @property
    def traces_url(self) -> str:
        """Where traces are posted to; "" where none are sent."""
        return self.otlp_traces_endpoint or (f"{self.otlp_endpoint}/v1/traces" if self.otlp_endpoint else "")

    @property
    def header_pairs(self) -> dict[str, str]:
        """The headers, decoded as the OpenTelemetry specification has them."""
        text = self.otlp_headers.get_secret_value() if self.otlp_headers else ""
        pairs = (pair.partition("=") for pair in text.split(",") if "=" in pair)
        return {unquote(name).strip().lower(): unquote(value).strip() for name, _, value in pairs}


class ApiSettings(_Group):
    """The REST API, as `hybrid-video api` starts it."""

    model_config = SettingsConfigDict(env_prefix="HYBRID_VIDEO_API_")

    host: str = Field("127.0.0.1", min_length=1, description="Address to listen on; others than loopback need a token.")
    port: int = Field(8321, ge=0, le=65535, description="Port to listen on; 0: any free one.")
    read_token: SecretStr | None = Field(None, description="Token that may look at everything and change nothing.")
    submit_token: SecretStr | None = Field(None, description="Token that may also submit, re-run and cancel batches.")
    admin_token: SecretStr | None = Field(
        None, description="Token that may also change preferences and limits, and open and close pods."
    )
    tokens: SecretStr | None = Field(
        None, description="Further tokens as role:token pairs, comma-separated, for example read:…,submit:…."
    )
    origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Web pages that may call the API (CORS), comma-separated, like https://studio.example.com."
    )
    hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Further host names under which the API is reached, comma-separated; * allows any."
    )
    trusted_proxies: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Addresses or networks of reverse proxies, comma-separated, like 127.0.0.1 or 172.30.83.0/24: only "
        "these are believed when they say who the caller is.",
    )
    reads_per_minute: int = Field(6000, ge=1, le=1_000_000, description="Requests a minute that only look, per caller.")
    writes_per_minute: int = Field(
        120, ge=1, le=1_000_000, description="Requests a minute that change something, per caller."
    )
    max_body_mb: int = Field(50, ge=1, le=2000, description="Largest request body in MB (10^6 bytes).")
    max_runs: int = Field(
        4,
        ge=1,
        le=100,
        description="Batches run at once in processes of their own, where no Prefect server queues them.",
    )
    max_clients: int = Field(200, ge=1, le=10_000, description="Requests handled at once; more are refused with 503.")

    _split = field_validator("origins", "hosts", "trusted_proxies", mode="before")(_comma_separated)

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for proxy in value:
            try:
                ipaddress.ip_network(proxy)
            except ValueError:
                raise ValueError("holds what is no address or network; write for example 127.0.0.1") from None
        return value

    @field_validator("origins")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            parts = urlsplit(origin)
            if parts.scheme not in {"http", "https"} or not parts.hostname or parts.path or parts.query:
                raise ValueError("holds what is no origin; write scheme and host only, like https://studio.example.com")
        return value

    @field_validator("read_token", "submit_token", "admin_token")
    @classmethod
    def _long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value()) < SHORTEST_TOKEN:
            raise ValueError(f"is shorter than {SHORTEST_TOKEN} characters; make one with `openssl rand -hex 24`")
        return value

    @field_validator("tokens")
    @classmethod
    def _pairs(cls, value: SecretStr | None) -> SecretStr | None:
        for pair in filter(None, (part.strip() for part in (value.get_secret_value() if value else "").split(","))):
            role, _, token = pair.partition(":")
            if role not in API_ROLES or len(token) < SHORTEST_TOKEN:
                raise ValueError(
                    f"is not understood; write pairs of role (read, submit, admin) and token of at least "
                    f"{SHORTEST_TOKEN} characters, like read:…,admin:…"
                )
        return value

    def model_post_init(self, context: Any) -> None:
        super().model_post_init(context)
        for _role, token in self.role_tokens:
            redaction.register(token)

    @property
    def role_tokens(self) -> tuple[tuple[ApiRole, str], ...]:
        """Every token with its role."""
        named = {"read": self.read_token, "submit": self.submit_token, "admin": self.admin_token}
        found = [(API_ROLES[role], token.get_secret_value()) for role, token in named.items() if token is not None]
        for pair in filter(
            None, (p.strip() for p in (self.tokens.get_secret_value() if self.tokens else "").split(","))
        ):
            role, _, token = pair.partition(":")
            found.append((API_ROLES[role], token))
        return tuple(found)


class Settings:
    """Every group together. Build it with `Settings.load()`."""

    def __init__(
        self,
        *,
        comfyui: ComfyUISettings | None = None,
        runpod: RunPodSettings | None = None,
        pods: PodPoolSettings | None = None,
        gemini: GeminiSettings | None = None,
        routing: RoutingSettings | None = None,
        storage: StorageSettings | None = None,
        schedule: ScheduleSettings | None = None,
        dashboard: DashboardSettings | None = None,
        api: ApiSettings | None = None,
        log: LogSettings | None = None,
        observing: ObservingSettings | None = None,
    ) -> None:
        self.comfyui = comfyui or ComfyUISettings()
        self.runpod = runpod or RunPodSettings()
        self.pods = pods or PodPoolSettings()
        self.gemini = gemini or GeminiSettings()
        self.routing = routing or RoutingSettings()
        self.storage = storage or StorageSettings()
        self.schedule = schedule or ScheduleSettings()
        self.dashboard = dashboard or DashboardSettings()
        self.api = api or ApiSettings()
        self.log = log or LogSettings()
        self.observing = observing or ObservingSettings()
        self.base: Settings | None = None
        """What these were before stored preferences were put above them; None where they are the environment's own."""

    def with_groups(self, *, routing: RoutingSettings, pods: PodPoolSettings) -> Settings:
        """The same settings with these two groups instead of their own; `base` remembers what they were."""
        groups = {name: getattr(self, name) for name in _NAMES}
        made = Settings(**{**groups, "routing": routing, "pods": pods})
        made.base = self
        return made

    @classmethod
    def load(cls) -> Settings:
        """Reads the environment.

        Raises:
            ConfigurationError: naming every variable that is wrong, its value (never a secret's) and the remedy.
        """
        groups: dict[str, Any] = {}
        problems: list[str] = []
        for name, group in zip(_NAMES, GROUPS, strict=True):
            try:
                groups[name] = group()
            except ValidationError as error:
                problems += problems_of(group, error)
        if problems:
            raise ConfigurationError("\n".join(problems))
        return cls(**groups)


GROUPS: tuple[type[_Group], ...] = (
    ComfyUISettings,
    RunPodSettings,
    PodPoolSettings,
    GeminiSettings,
    RoutingSettings,
    StorageSettings,
    ScheduleSettings,
    DashboardSettings,
    ApiSettings,
    LogSettings,
    ObservingSettings,
)
_NAMES = (
    "comfyui",
    "runpod",
    "pods",
    "gemini",
    "routing",
    "storage",
    "schedule",
    "dashboard",
    "api",
    "log",
    "observing",
)
"""The keyword of each group in `Settings`, in the order of `GROUPS`."""


def variable_name(group: type[_Group], field: str) -> str:
    """The environment variable that sets a field."""
    alias = group.model_fields[field].validation_alias
    if isinstance(alias, AliasChoices):
        return str(alias.choices[0])
    return f"{group.model_config.get('env_prefix', '')}{field}".upper()


def problems_of(group: type[_Group], error: ValidationError) -> list[str]:
    """One sentence for each problem of a group."""
    lines = []
    for problem in error.errors(include_url=False):
        reason = problem["msg"].removeprefix("Value error, ")
        if not problem["loc"]:
            lines.append(f"{reason}.")
            continue
        field = str(problem["loc"][0])
        name = variable_name(group, field) if field in group.model_fields else field.upper()
        secret = any(word in name for word in ("KEY", "TOKEN", "SECRET", "PASSWORD", "LEDGER_URL", "DSN", "HEADERS"))
        value = "" if secret else f" is {problem['input']!r}, but"
        lines.append(f"{name}{value} {reason[0].lower()}{reason[1:]}. Change or unset it.")
    return lines
