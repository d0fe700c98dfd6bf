"""How fast, how lean and how right a server is: the parts of `benchmarks.serve`.

material.py   a random base of Qwen2.5-0.5B's shape, adapters of it, registries that hold them
servers.py    `adapters serve` and vLLM, started, found ready and ended
load.py       OpenAI-style clients: one stream, closed loops, Poisson arrivals
numbers.py    percentiles, ratios taken in turns, and whether a bar is met
answers.py    are the answers those of transformers + PEFT, asked one by one?
peft_peer.py  transformers + PEFT in a process of its own: mixed batches, or one adapter at a time
rows_*.py     the table: throughput, latency under disturbance, resources, the floor
"""
