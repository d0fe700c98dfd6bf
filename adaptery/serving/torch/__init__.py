"""The embedded engine: plain PyTorch over the decoders that `transformers` can load.

model.py      load the base, choose device and number format
trial.py      before serving: does the base answer through our attention as it does by itself?
attention.py  one batch of many sequences through transformers' attention interface
cache.py      keys and values, a slot for each sequence
lora.py       many adapters in one batch
weights.py    an adapter's files, applied in full or refused
sequence.py   a request's tokens, and how far they are computed
scheduler.py  who computes how many tokens in the next step
runner.py     one step: pieces of sequences in, scores of the next tokens out
answer.py     scores in, tokens and text out: penalties.py changes the scores, constraints.py rules
              tokens out, sampling.py draws one, text.py decodes
loop.py       the thread that takes step after step
engine.py     the `Engine` that the server sees
"""
