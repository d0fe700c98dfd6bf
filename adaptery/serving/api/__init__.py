"""The OpenAI-style HTTP application.

app.py          puts the routes together
service.py      what all routes share: engine, resolver, residency, router, metrics
schemas.py      what requests may say
chat.py         /v1/chat/completions
completions.py  /v1/completions
classify.py     /v1/classify
models.py       /v1/models
status.py       /health, /ready, /metrics
answering.py    one request: resolve, hold, generate, count
streaming.py    server-sent events; the end of requests whose client has gone
errors.py       every error as an OpenAI error object
auth.py         the API key
metrics.py      what Prometheus is told
"""

from adaptery.serving.api.app import create_app

__all__ = ["create_app"]
