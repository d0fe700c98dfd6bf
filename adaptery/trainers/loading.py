"""The model that is trained: the base as the method wants it, with a fresh adapter."""

from typing import TYPE_CHECKING, Any

from adaptery.base_model import LocalBase
from adaptery.errors import ConfigError, DoesNotFit
from adaptery.trainers.config import RunConfig
from adaptery.trainers.method import AdapterPlan, BaseRequest, Method
from adaptery.trainers.targets import head_modules, resolve_targets
from adaptery.trainers.tasks.base import Task

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel


def precision(wanted: str) -> "torch.dtype":
    """The arithmetic for `bf16`, `fp16`, `fp32` or `auto`: bf16 where the hardware has it."""
    import torch

    if wanted == "auto":
        fast = torch.cuda.is_bf16_supported() if torch.cuda.is_available() else cpu_has_bf16()
        wanted = "bf16" if fast else "fp32"
    return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[wanted]


def arithmetic(wanted: str, device: str) -> "tuple[torch.autocast, torch.amp.GradScaler]":
    """What makes a model compute in that precision, and what keeps small fp16 gradients above 0."""
    import torch

    dtype = precision(wanted)
    autocast = torch.autocast(device, dtype, enabled=dtype != torch.float32)
    return autocast, torch.amp.GradScaler(device, enabled=dtype == torch.float16)


def cpu_has_bf16() -> bool:
    """Whether this processor has AMX or AVX-512 BF16."""
    import torch

    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


def load_base(base: LocalBase, task: Task, method: Method, wanted: str) -> "PreTrainedModel":
    """The base with frozen weights, as task and method want it, in the precision `wanted`.

    Raises:
        DoesNotFit: there is not enough memory for it.
        ConfigError: the base is no model that transformers knows for this task.
    """
    import torch
    from transformers import GenerationConfig

    gpu = torch.cuda.is_available()
    device = f"cuda:{torch.cuda.current_device()}" if gpu else "cpu"  # of this process
    try:
        dtype = precision(wanted)
        model = method.load_base(BaseRequest(base.directory, dtype, device, task.head_labels))
    except (torch.OutOfMemoryError, MemoryError) as error:
        who = base.identity.id
        raise DoesNotFit(f"The base model {who} does not fit into memory: {error}") from error
    except ValueError as error:
        raise ConfigError(f"{base.identity.id} cannot be used for this task: {error}") from error
    model.config.use_cache = False
    model.config.pad_token_id = task.forward.pad_token  # a head looks for the last token by it
    if task.head_labels:
        return model
    # Bases come with penalties and temperatures of their own; greedy answers must be without.
    model.generation_config = GenerationConfig(eos_token_id=end_tokens(model, base))
    return model


def end_tokens(model: "PreTrainedModel", base: LocalBase) -> list[int]:
    """The tokens that end an answer: the tokenizer's, and those that the model's files name."""
    listed: int | list[int] | None = model.generation_config.eos_token_id
    named = listed if isinstance(listed, list) else [listed]
    return sorted({token for token in [*named, base.tokenizer.eos_token_id] if token is not None})


def adapter_plan(
    model: "PreTrainedModel", task: Task, config: RunConfig, total_steps: int
) -> AdapterPlan:
    """What the adapter of this model, of which an outline will do, is to be.

    Raises:
        UnknownName, ConfigError: the targets are no layers of this model.
    """
    targets = resolve_targets(model, config.lora.targets)
    heads = head_modules(model) if task.head_labels else ()
    seed = config.training.seed
    return AdapterPlan(config.lora, targets, total_steps, seed, task.task_type, heads)


def add_adapter(
    model: "PreTrainedModel", task: Task, method: Method, config: RunConfig, total_steps: int
) -> "PeftModel":
    """Put a fresh adapter on the base; its parameters are fp32 and the only trainable ones."""
    adapted = method.adapt(model, adapter_plan(model, task, config, total_steps))
    if config.training.gradient_checkpointing:
        adapted.enable_input_require_grads()  # else nothing below the first layer is recomputed
        adapted.gradient_checkpointing_enable({"use_reentrant": False})
    return adapted


def speed_up(model: Any, packing: str) -> str | None:
    """Fuse the adapter's layers, and prepare the model for packed rows.

    Returns:
        Why rows cannot be packed, or are not to be; None if they are.
    """
    from adaptery.trainers.compute import enabling, lora, memory, parts

    memory.keep_freed_memory()
    lora.fuse(model)
    parts.slim(model)
    return "packing is off" if packing == "off" else enabling.enable_packing(model)
