"""The model card of an adapter on the Hub: README.md, written anew with every version."""

import re

from huggingface_hub import ModelCardData

from adaptery.types import Version

# Cards carry it so that a registry finds its own repositories among an organisation's.
TAG = "adaptery"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")

_CARD = """\
---
{metadata}
---

# {version.name}

An adapter for `{base.id}`, trained with the method `{manifest.method}`.
This is version {version.number}; every version is a tag, and none ever changes.

| | |
|---|---|
| version | `{version.number}` (tag `v{version.number}`) |
| manifest digest | `sha256:{version.digest}` |
| base model | `{base.id}`{revision} |
| base digest | `sha256:{base.digest}` |
| method | `{manifest.method}` |
{metrics}
## Use it

```sh
adapters pull hf://{repo}@v{version.number}
adapters serve --base {base.id}
```

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained("{base.id}")
model = PeftModel.from_pretrained(base, "{repo}", revision="v{version.number}")
```

Aliases and their history are in `.adapters/registry.json`; what went into this version is in
`manifest.json`. Written by adaptery.
"""


def model_card(repo: str, version: Version) -> str:
    """README.md for `version` in the Hub repository `repo`."""
    base = version.manifest.base
    return _CARD.format(
        metadata=_metadata(version),
        repo=repo,
        version=version,
        manifest=version.manifest,
        base=base,
        revision=f" at `{base.revision}`" if base.revision else "",
        metrics=_metrics(version),
    )


def _metadata(version: Version) -> str:
    """YAML that the Hub reads. A base that is a local path cannot be linked, so it is left out."""
    base = version.manifest.base
    linked = base.id if base.revision and _HUB_ID.fullmatch(base.id) else None
    data = ModelCardData(base_model=linked, library_name="peft", tags=[TAG, "lora"])
    return str(data.to_yaml())


def _metrics(version: Version) -> str:
    metrics = version.manifest.metrics
    if not metrics:
        return ""
    rows = "".join(f"| {name} | {value:.4g} |\n" for name, value in sorted(metrics.items()))
    return f"\n| metric | value |\n|---|---|\n{rows}"
