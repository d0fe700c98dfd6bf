"""A base that is too large for one GPU: each layer's frozen weights are spread over the processes.

That is FSDP (torch's `fully_shard`), with one difference: what is trained stays whole in every
process. An adapter is small, and optimizer, checkpoints, AdaLoRA's pruning and baking then see it
as they always do.
"""

from typing import Any

from adaptery.errors import ConfigError

WAY_OUT = "Launch with --multi_gpu instead, which keeps the whole model in every process."


def shard(model: Any, device: str, processes: int) -> None:
    """Spread the frozen weights of the model's layers; a layer is whole only while it computes.

    Raises:
        ConfigError: this model's weights cannot be spread so.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    trained = {parameter for parameter in model.parameters() if parameter.requires_grad}
    kinds = set(getattr(model, "_no_split_modules", None) or ())
    layers = [module for module in model.modules() if type(module).__name__ in kinds]
    frozen = [p for layer in layers for p in layer.parameters() if p not in trained]
    if not frozen:
        raise ConfigError(f"FSDP spreads frozen layers, and this run has none. {WAY_OUT}")
    if not all(parameter.is_floating_point() for parameter in frozen):
        raise ConfigError(f"FSDP cannot spread weights that are held in 4 bits. {WAY_OUT}")
    mesh = init_device_mesh(device, (processes,))
    for layer in layers:
        fully_shard(layer, mesh=mesh, ignored_params=trained)
