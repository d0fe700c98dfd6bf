"""The model card of an adapter on the Hub: README.md, written anew with every version.

A manifest's texts are somebody else's. Here they are code, cells or literals, and stay that.
"""

import json
import re
import shlex

from huggingface_hub import ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from adaptery.types import Version

# Cards carry it so that a registry finds its own repositories among an organisation's.
TAG = "adaptery"
_MAX_SHOWN = 200  # characters

_CARD = """\
---
{metadata}
---

# {version.name}

An adapter for {base}, trained with the method {method}.
This is version {version.number}; every version is a tag, and none ever changes.

| | |
|---|---|
| version | `{version.number}` (tag `v{version.number}`) |
| manifest digest | `sha256:{version.digest}` |
| base model | {base}{revision} |
| base digest | `sha256:{base_digest}` |
| method | {method} |
{metrics}
## Use it

```sh
adapters pull hf://{repo}@v{version.number}
adapters serve --base {base_argument}
```

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained({base_literal})
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
        base=_code(base.id),
        base_digest=base.digest,
        base_argument=shlex.quote(_line(base.id)),
        base_literal=json.dumps(_line(base.id), ensure_ascii=False),
        method=_code(version.manifest.method),
        revision=f" at {_code(base.revision)}" if base.revision else "",
        metrics=_metrics(version),
    )


def _metadata(version: Version) -> str:
    """YAML that the Hub reads. A base that is a local path cannot be linked, so it is left out."""
    base = version.manifest.base
    linked = base.id if base.revision and _is_on_the_hub(base.id) else None
    data = ModelCardData(base_model=linked, library_name="peft", tags=[TAG, "lora"])
    return str(data.to_yaml())


def _is_on_the_hub(base: str) -> bool:
    """Whether it can be: what the Hub's grammar does not take would make it refuse the card."""
    try:
        validate_repo_id(base)
    except HFValidationError:
        return False
    return base.isascii() and base.isprintable() and "/" in base


def _metrics(version: Version) -> str:
    metrics = version.manifest.metrics
    if not metrics:
        return ""
    rows = "".join(f"| {_cell(name)} | {value:.4g} |\n" for name, value in sorted(metrics.items()))
    return f"\n| metric | value |\n|---|---|\n{rows}"


def _cell(name: str) -> str:
    """A metric's name, as code unless it is a plain word."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _code(name)


def _code(text: str) -> str:
    """Text as Markdown code, in a table's cell or outside: no character in it means anything."""
    # No number of backslashes escapes a backtick in code, so it is shown as what looks like one.
    shown = _line(text).replace("`", "ˋ").replace("|", "¦") or " "
    return f"`{shown}`"


def _line(text: str) -> str:
    """Text as one line of printable characters, cut off where nobody reads on."""
    line = "".join(c if c.isprintable() else " " for c in text)
    return line if len(line) <= _MAX_SHOWN else f"{line[:_MAX_SHOWN]}…"
