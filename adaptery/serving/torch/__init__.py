"""The embedded engine: PyTorch over the decoders that `transformers` can load.

In the server's process, which imports no torch:

engine.py     the `Engine` that the server sees; starts a worker, and another when it ends
link.py       one worker as the server sees it
process.py    where the worker runs: in a process of its own, or in a thread
channel.py    what the two say to one another
imports.py    what neither needs to import

In the worker:

worker.py     hears what is asked for, tells what came of it
assembly.py   puts the parts together
model.py      load the base, choose device and number format
trial.py      before serving: does the base answer through our attention as it does by itself?
memory.py     how much there is, and how much keys and values get
layers.py     linear layers, those of one input together
batch.py      the rows of a step: whose they are, where their past is
attention.py  one batch of many sequences through transformers' attention interface
cache.py      keys and values in blocks
blocks.py     who has which blocks; beginnings that are computed already
lora.py       many adapters in one batch
kernels/      all that by code of our own, on a CPU: build.py compiles it, calls.py calls it,
              segments.py (adapters) and modules.py (parts of decoders) use it
store.py      which adapters are in memory (residents.py), read when they are wanted
weights.py    an adapter's files (tensorfile.py, declaration.py), applied in full or refused
sequence.py   a request's tokens, and how far they are computed
scheduler.py  who computes how many tokens in the next step; pace.py: how many stall nobody
runner.py     one step: pieces of sequences in, scores of the next tokens out
answer.py     scores in, tokens and text out: penalties.py changes the scores, constraints.py rules
              tokens out, sampling.py draws one, text.py decodes
loop.py       step after step
"""
