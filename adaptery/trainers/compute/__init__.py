"""Fast training: rows laid end to end, losses only where labels are, low-rank layers fused.

    memory.keep_freed_memory()                 # on a CPU: no page faults for every tensor
    lora.fuse(model)                           # plain LoRA layers compute in one operation
    parts.slim(model)                          # norms and gated parts keep less
    reason = enabling.enable_packing(model)    # None: rows may be packed; else why they may not
    packed = packing.pack([(ids, labels), ...], share=losses.may_share(model))
    per_token, row = losses.token_losses(model, packed)    # (learned,), (learned,)
    logits = losses.label_logits(model, packed)            # (learned, vocabulary)

The modules import torch: import them where they are used.
"""
