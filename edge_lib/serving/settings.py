"""What a server listens on, allows and refuses."""

from typing import Annotated

from pydantic import Field, SecretStr

from edge_lib.config.base import Positive, Section
from edge_lib.sources.download.base import LocalPath

Seconds = Annotated[float, Field(gt=0)]
Authority = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+(:[0-9]{1,5})?$")]
Token = Annotated[SecretStr, Field(min_length=1)]


class ServeSettings(Section):
    """The flags of `edge-glass serve`: `max_batch` is `--max-batch`."""

    host: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0 for all networks")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(8000, description="0 for any free one")
    name: str | None = Field(None, description="of the model in the API (default its folder's)")
    index: LocalPath | None = Field(
        None, description="Parquet file of `edge-glass embed`, for /search"
    )
    api_key: Token | None = Field(
        None, description="key that clients send as a bearer token, also from EDGE_GLASS_API_KEY"
    )
    allow_urls: list[Authority] = Field(
        [], description="hosts, or HOST:PORT, to fetch pictures and sounds from (default none)"
    )
    allow_hosts: list[str] = Field(
        [], description="names of this server; on 127.0.0.1 requests for others are refused"
    )

    max_body_bytes: Positive = Field(20_000_000, description="of a request")
    max_bodies_mb: Positive = Field(512, description="of all requests under way")
    max_pixels: Positive = Field(20_000_000, description="of a picture")
    max_clip_seconds: Seconds = Field(60, description="of a sound")
    max_items: Positive = Field(64, description="prompts or items to embed in a request")
    max_images: Positive = Field(16, description="pictures of a prompt, and as many sounds")
    max_prompt_tokens: Positive | None = Field(None, description="default the model's limit")
    max_tokens: Positive = Field(1024, description="to generate for an answer")
    max_n: Positive = Field(8, description="answers to a prompt")
    max_stop: Positive = Field(4, description="stop strings of a prompt")
    max_hits: Positive = Field(100, description="of a search")
    body_timeout: Seconds = Field(
        30, description="seconds for the head of a request, and for its body"
    )

    max_queue: Positive = Field(256, description="waiting prompts, and waiting items to embed")
    max_batch: Positive = Field(32, description="prompts that are generated together")
    max_batch_tokens: Positive = Field(8192, description="of prompts that are read together")
    max_wait_ms: Annotated[float, Field(ge=0)] = Field(
        5, description="milliseconds to wait for more of a batch, if others are under way"
    )
    prefix_cache_mb: Annotated[int, Field(ge=0)] = Field(
        256, description="memory for the soft tokens of recent pictures and sounds"
    )
    shutdown_timeout: Positive = Field(60, description="seconds to finish what runs on SIGTERM")
