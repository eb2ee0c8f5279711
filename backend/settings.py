"""The one settings object: built once by the program that starts, passed down to everything else."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AliasChoices, BeforeValidator, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from backend.net.hosts import AllowedHosts
from backend.system import gpus
from backend.system.spelling import did_you_mean
from model import TokenLimits

_OTHERS = frozenset({"PARENT", "SKIP_E2E", "TEST_DEVICE"})

LABEL_STUDIO_LIMIT_S = 100
"""Label Studio 1.23 gives a /predict this long (ML_TIMEOUT_PREDICT)."""


def _one_for_each_gpu(value: object) -> object:
    return max(1, len(gpus.visible())) if value == "auto" else value


_REDIS_URLS = "give redis://[:password@]host:port/0, rediss://… for TLS, or unix://path"


class Settings(BaseSettings):
    """Read from the environment, prefix PALLAS_ (and Label Studio's and Redis' customary names where shown)."""

    model_config = SettingsConfigDict(env_prefix="PALLAS_", populate_by_name=True, extra="ignore")

    model: str = Field("tiny", description="a bundled checkpoint, PAM-1.5B, PAM-3B, a folder, or a hub id")
    sam2_checkpoint: Path | None = Field(None, description="SAM 2 weights, where the model's folder has none")
    sam2_config: str | None = Field(None, description="the Hydra config of those weights")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:N, mps")
    dtype: str = Field("auto", description="auto, float32, bfloat16, float16")
    quantize: str = Field("none", description="none; int8: the language model's layers in eight bits, on CPUs only")
    compile: bool = Field(
        False, description="compile what tracks videos too when a worker starts, for GPUs: slower then"
    )
    resident: bool = Field(
        True, description="on CUDA keep encoder and token step compiled and captured; False: a quick start"
    )
    language: str = Field("en", description="language of the texts: en or zh")
    label_threshold: float = Field(0.4, ge=0, le=1, description="probability from which the model's label is set")
    polygon_tolerance: float = Field(1.0, ge=0, le=100, description="how far a polygon may leave the mask's edge, px")
    show_errors: bool = Field(True, description="tell the annotator in the picture why a click got no answer")
    show_suggestions: bool = Field(True, description="show a suggestion's class and caption in the message field")
    max_new_tokens: int | None = Field(
        None, ge=1, le=1024, description="longest text of any kind, in tokens; unset: as the next five say"
    )
    tokens_recognize: int = Field(64, ge=1, le=1024, description="longest class, in tokens")
    tokens_brief: int = Field(128, ge=1, le=1024, description="longest brief caption")
    tokens_detailed: int = Field(512, ge=1, le=1024, description="longest detailed caption")
    tokens_explain: int = Field(256, ge=1, le=1024, description="longest explanation")
    tokens_caption: int = Field(512, ge=1, le=1024, description="longest caption of a video or an event in it")

    host: str = Field("127.0.0.1", description="address the front listens on")
    port: int = Field(9090, ge=0, le=65535, description="port the front listens on")
    threads: int = Field(288, ge=1, le=512, description="requests served at once; seven of eight may wait for workers")
    user: str = Field("pallas", description="who may ask the front, with the password below")
    password: SecretStr | None = Field(
        None, description="Basic auth on every page but /live; needed to listen where other machines reach it"
    )
    allow_open: bool = Field(False, description="listen where other machines reach it without a password")
    workers: Annotated[int, BeforeValidator(_one_for_each_gpu)] = Field(
        1, ge=0, le=64, description="workers that `serve` starts; auto: one for each GPU"
    )

    redis_url: SecretStr | None = Field(
        None,
        validation_alias=AliasChoices("PALLAS_REDIS_URL", "REDIS_URL"),
        description="an own Redis; unset: an embedded one, with its data in state_dir",
    )
    state_dir: Path = Field(Path(".pallas"), description="where the embedded Redis keeps its data")

    label_studio_url: str | None = Field(
        None,
        validation_alias=AliasChoices("PALLAS_LABEL_STUDIO_URL", "LABEL_STUDIO_URL"),
        description="where uploads (/data/...) are fetched",
    )
    label_studio_api_key: SecretStr | None = Field(
        None,
        validation_alias=AliasChoices("PALLAS_LABEL_STUDIO_API_KEY", "LABEL_STUDIO_API_KEY"),
        description="a legacy token or a personal access token; sent to label_studio_url only",
    )
    label_studio_proxy: SecretStr | None = Field(
        None, description="a proxy for whatever is asked of label_studio_url; HTTP_PROXY and the like do not count"
    )
    local_roots: Annotated[tuple[Path, ...], NoDecode] = Field(
        (), description="folders that local pictures may come from, separated by commas; none by default"
    )

    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        ("public",),
        description="hosts that pictures may come from beside Label Studio: public, names, addresses, networks, commas",
    )

    max_body_bytes: int = Field(64 << 20, ge=1 << 10, description="largest request body")
    max_picture_bytes: int = Field(50 << 20, ge=1, description="largest encoded picture")
    max_picture_pixels: int = Field(100_000_000, ge=1, le=178_956_970, description="largest width × height")
    large_side: int = Field(
        2048, ge=0, description="small things in pictures with a longer side are looked at in crops, px; 0: never"
    )
    finder: str | None = Field(
        None, description="hub id or folder of a Grounding DINO or OWLv2 that finds what is named, in place of PAM"
    )
    finder_threshold: float = Field(0.3, ge=0, le=1, description="score from which on its boxes count")
    max_tiles: int = Field(16, ge=1, le=1000, description="most tiles of a large picture; 1: seen as a whole only")
    picture_cache_bytes: int = Field(
        300_000_000, ge=0, description="pixels of large pictures that a worker keeps for crops"
    )
    max_prompts: int = Field(64, ge=1, description="most regions asked in one request")
    max_proposals: int = Field(32, ge=1, le=1000, description="most regions proposed in one picture")
    max_waiting: int = Field(256, ge=1, description="most requests in a queue before new ones are refused")
    picture_queue_bytes: int = Field(
        256 << 20, ge=1, description="Redis' memory for pictures inside requests, and again for bulk jobs' own files"
    )
    embedding_cache_bytes: int = Field(512 << 20, ge=0, description="image features a worker keeps on its device")
    embedding_host_bytes: int = Field(2 << 30, ge=0, description="and a GPU worker in host memory behind it")

    max_video_bytes: int = Field(2 << 30, ge=1, description="largest video file")
    max_video_seconds: float = Field(3600, gt=0, description="longest video")
    max_video_frames: int = Field(250_000, ge=1, description="most frames of a video")
    max_video_objects: int = Field(16, ge=1, description="most objects tracked in one video")
    video_frame_rate: float = Field(
        5, gt=0, description="frames per second that are tracked; Label Studio draws straight lines between"
    )
    video_tolerance: float = Field(
        0.5,
        ge=0,
        le=100,
        description="how far a box between keyframes may lie beside the tracked one, %",
    )
    video_fetch_timeout_s: float = Field(35, gt=0, description="for one video")
    video_slice_s: float = Field(10, gt=0, description="how long a worker stays with a video before it looks up")
    video_checkpoint_s: float = Field(
        5, gt=0, description="so much of the work on a video is lost with its worker at most, about"
    )

    picture_memory_s: float = Field(300, ge=0, description="how long an address is taken to show the same picture")
    fetch_timeout_s: float = Field(15, gt=0, description="for one picture")
    step_s: float = Field(0.5, ge=0, description="jobs nobody clicked for are taken together, for about so long")
    job_timeout_s: int = Field(60, ge=1, description="for one job in the worker")
    wait_s: int = Field(80, ge=1, description="how long the front waits for a job, queueing included")
    batch_wait_s: float | None = Field(
        None, gt=0, description="how long a request for many tasks may take; unset: three quarters of wait_s"
    )
    bulk_tries: int = Field(3, ge=1, le=20, description="how often a bulk job tries a task that may work later")
    remember_days: float = Field(14, gt=0, description="how long answers are remembered, for corrections and review")
    remember_bytes: int = Field(256 << 20, ge=0, description="Redis' memory for them: the oldest are forgotten first")
    fit: bool = Field(True, description="Label Studio's Start Training begins a run of fit")
    fit_minutes: float = Field(
        60, gt=0, le=10_000, description="of training in a run of fit, where nothing else is said"
    )
    shadow_share: float = Field(
        0.1,
        ge=0,
        le=1,
        description="of a project's clicks that a second version of the model answers, where one is set",
    )
    heartbeat_s: float = Field(2, gt=0, description="between a worker's heartbeats; missing five counts as dead")

    learn_labels: bool = Field(True, description="people's annotations teach what a project's labels look like")
    learn_examples: int = Field(10_000, ge=1, le=100_000, description="most examples of a project's label memory")
    learn_bytes: int = Field(64 << 20, ge=1 << 16, description="Redis' memory for a project's label memory")
    learn_confidence: bool = Field(True, description="reviews teach how sure the answers to a project are")
    learn_clusters: bool = Field(True, description="bulk jobs group pictures that look alike, for the order of tasks")

    log_level: str = Field("INFO", description="DEBUG, INFO, WARNING, ERROR")
    log_format: Literal["text", "json"] = Field("text", description="text or json, one object a line")

    @field_validator("local_roots", "allowed_hosts", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @field_validator("allowed_hosts")
    @classmethod
    def _hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        AllowedHosts(value)
        return value

    @field_validator("redis_url")
    @classmethod
    def _known_scheme(cls, value: SecretStr | None) -> SecretStr | None:
        # compose files pass an unset variable on as an empty one
        if value is None or not value.get_secret_value().strip():
            return None
        if not value.get_secret_value().startswith(("redis://", "rediss://", "unix://")):
            raise ValueError(_REDIS_URLS)
        try:
            port = urlsplit(value.get_secret_value()).port
        except ValueError:
            port = 0
        if port == 0:
            raise ValueError(f"its port is no number: {_REDIS_URLS}")
        return value

    @field_validator("label_studio_proxy")
    @classmethod
    def _a_proxy(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None or not value.get_secret_value().strip():
            return None
        if not value.get_secret_value().startswith(("http://", "https://")):
            raise ValueError("give http://[user:password@]host:port")
        return value

    @field_validator("label_studio_api_key", "password")
    @classmethod
    def _not_empty(cls, value: SecretStr | None) -> SecretStr | None:
        return value if value is not None and value.get_secret_value().strip() else None

    @field_validator("user")
    @classmethod
    def _a_user(cls, value: str) -> str:
        if not value or ":" in value:
            raise ValueError("give a name without a colon")
        return value

    @field_validator("label_studio_url")
    @classmethod
    def _with_scheme(cls, value: str | None) -> str | None:
        if not value:
            return None
        # people write `label-studio:8080`; a host without a scheme means http
        return (value if "://" in value else f"http://{value}").rstrip("/")

    @field_validator("language")
    @classmethod
    def _known_language(cls, value: str) -> str:
        from model.values.task import LANGUAGES

        if value not in LANGUAGES:
            raise ValueError(f"give one of {', '.join(LANGUAGES)}")
        return value

    @field_validator("log_level")
    @classmethod
    def _known_level(cls, value: str) -> str:
        if value.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR"):
            raise ValueError("give DEBUG, INFO, WARNING or ERROR")
        return value.upper()

    @model_validator(mode="after")
    def _chain_of_limits(self) -> Settings:
        if not self.fetch_timeout_s < self.job_timeout_s < self.wait_s < LABEL_STUDIO_LIMIT_S:
            raise ValueError(
                f"fetch_timeout_s {self.fetch_timeout_s:g} < job_timeout_s {self.job_timeout_s} < wait_s {self.wait_s} "
                f"< {LABEL_STUDIO_LIMIT_S} s (Label Studio's own limit) must hold, so that each answers before the next"
            )
        if self.batch_patience_s >= self.wait_s:
            raise ValueError(f"batch_wait_s {self.batch_patience_s:g} < wait_s {self.wait_s} must hold")
        return self

    @property
    def batch_patience_s(self) -> float:
        """How long the front works on a request for many tasks before it answers with what is ready."""
        return self.batch_wait_s if self.batch_wait_s is not None else 0.75 * self.wait_s

    @model_validator(mode="after")
    def _room_for_videos(self) -> Settings:
        if not self.video_fetch_timeout_s + self.video_slice_s < self.job_timeout_s:
            raise ValueError(
                f"video_fetch_timeout_s {self.video_fetch_timeout_s:g} + video_slice_s {self.video_slice_s:g} < "
                f"job_timeout_s {self.job_timeout_s} must hold, so that a video's job ends in time"
            )
        return self

    @property
    def checkpoint(self) -> tuple[str, Path | None, str | None, str, str]:
        """What is loaded and how: the first arguments of `PerceiveAnything.from_pretrained`."""
        return self.model, self.sam2_checkpoint, self.sam2_config, self.device, self.dtype

    @property
    def token_limits(self) -> TokenLimits:
        """Of the texts, by what is asked."""
        if self.max_new_tokens is not None:
            return TokenLimits.same(self.max_new_tokens)
        kinds = ("recognize", "brief", "detailed", "explain", "caption")
        return TokenLimits(**{kind: getattr(self, f"tokens_{kind}") for kind in kinds})

    @classmethod
    def variable(cls, field: str) -> str:
        """The environment variable that sets a field, as people know it."""
        alias = cls.model_fields[field].validation_alias if field in cls.model_fields else None
        return str(alias.choices[-1]) if isinstance(alias, AliasChoices) else f"PALLAS_{field.upper()}"

    @classmethod
    def unknown(cls, names: Iterable[str]) -> list[str]:
        """Environment variables that begin like ours and set nothing, each with what may be meant."""
        known = {field.upper() for field in cls.model_fields}
        ours = sorted(name for name in names if name.upper().startswith("PALLAS_"))
        strangers = [name for name in ours if name.upper()[len("PALLAS_") :] not in known | _OTHERS]
        return [f"{name} is no setting{did_you_mean(name[len('PALLAS_') :], known, 'PALLAS_')}" for name in strangers]

    @property
    def heartbeat_ttl_s(self) -> int:
        """A worker without a heartbeat for so long is dead."""
        return max(1, round(self.heartbeat_s * 5))

    @property
    def embedded_redis(self) -> bool:
        return self.redis_url is None

    def to_environment(self) -> dict[str, str]:
        """The settings that differ from the defaults as environment variables, for a child process."""
        out: dict[str, str] = {}
        for name in self.model_fields_set:
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, SecretStr):
                value = value.get_secret_value()
            elif isinstance(value, tuple):
                value = ",".join(str(part) for part in value)
            out[f"PALLAS_{name.upper()}"] = str(value)
        return out
