"""How a server is run. The command line takes its options, defaults and help from here."""

from typing import Annotated, Any, Literal

from pydantic import ByteSize, Field, SecretStr, field_validator

from adaptery.config import Config


class ServeConfig(Config):
    """Everything that `adapters serve` can be told."""

    base: Annotated[str, Field(description="Base model: a directory or a Hub id.")]
    revision: Annotated[
        str | None, Field(description="Branch, tag or commit of a base on the Hub.")
    ] = None
    served_name: Annotated[
        str | None,
        Field(description="The model name that the base answers to (default: --base as given)."),
    ] = None
    engine: Annotated[str, Field(description="Engine plugin that runs the base.")] = "torch"
    router: Annotated[
        str, Field(description="Router plugin that chooses the model for a request.")
    ] = "by-name"
    host: Annotated[str, Field(description="Address to listen on.")] = "127.0.0.1"
    port: Annotated[
        int, Field(description="Port to listen on; 0 takes a free one.", ge=0, le=65535)
    ] = 8000
    api_keys: Annotated[
        tuple[SecretStr, ...],
        Field(description="Keys, one of which every request must bear (default: none needed)."),
    ] = ()
    device: Annotated[
        Literal["auto", "cpu", "cuda", "mps"],
        Field(description="Where to compute; auto takes CUDA, then MPS, then the CPU."),
    ] = "auto"
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        Field(
            description="Number format; auto is the base's own where the processor is fast in it, "
            "else float32."
        ),
    ] = "auto"
    threads: Annotated[
        int | None,
        Field(description="CPU threads of the engine (default: all cores it may use).", ge=1),
    ] = None
    kernels: Annotated[
        Literal["auto", "off"],
        Field(
            description="What computes on a CPU beside the base's layers; auto is code of our own, "
            "compiled at the first start where there is a C++ compiler, off is PyTorch."
        ),
    ] = "auto"
    max_sequences: Annotated[
        int, Field(description="Requests computed at the same time; others wait.", ge=1)
    ] = 16
    max_waiting: Annotated[
        int, Field(description="Requests that may wait; further ones are refused.", ge=0)
    ] = 1024
    max_context: Annotated[
        int | None,
        Field(
            description="Prompt and answer together, in tokens (default: the base's, up to 4096).",
            ge=32,
        ),
    ] = None
    step_tokens: Annotated[
        int, Field(description="Tokens computed in one step; longer prompts take several.", ge=1)
    ] = 512
    kv_memory: Annotated[
        ByteSize | None,
        Field(
            description="Memory for keys and values, such as 2GB (default: --max-sequences times "
            "--max-context tokens, at most half of what is free).",
            gt=0,
        ),
    ] = None
    prefix_cache: Annotated[
        bool, Field(description="Keep keys and values of prompts for requests that begin alike.")
    ] = True
    adapter_memory: Annotated[
        ByteSize | None,
        Field(
            description="Memory for adapters, such as 512MB; the least recently used goes "
            "(default: a quarter of what is free).",
            gt=0,
        ),
    ] = None
    max_adapters: Annotated[
        int, Field(description="Versions in memory, also if more have room.", ge=1)
    ] = 256
    pins: Annotated[
        tuple[str, ...],
        Field(description="Models whose adapters are loaded at start and stay in memory."),
    ] = ()
    drain_seconds: Annotated[
        int, Field(description="How long requests may take to finish at shutdown.", ge=0)
    ] = 30

    @field_validator("api_keys", "pins", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        """A variable holds several keys with commas between them."""
        return tuple(filter(None, value.split(","))) if isinstance(value, str) else value
