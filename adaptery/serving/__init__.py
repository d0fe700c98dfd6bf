"""Serving: one base, many versions of adapters, an OpenAI-style API.

engine.py     what an engine is (torch/ holds the embedded one)
config.py     how a server is run
router.py     which model a request goes to
resolver.py   a model name → an immutable version, once per request
residency.py  which versions the engine knows; a version is proven before it answers
proofs.py     which versions have been proven, kept between starts
pins.py       models whose versions are at hand from the start
probe.py      does the engine answer as the trained model did?
grammar.py    forms that answers can be held to
prompts.py    messages and text → tokens
api/          the HTTP application
server.py     its HTTP server: when it stops, what it says when it is there
run.py        a process that serves it
"""
