"""How much memory a device still has."""

import torch


def available_memory(device: torch.device) -> int:
    """Bytes that can be allocated on `device` now."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    import psutil

    return int(psutil.virtual_memory().available)


def gigabytes(size: int) -> str:
    """Bytes as messages show them."""
    return f"{size / 1e9:.1f} GB"
