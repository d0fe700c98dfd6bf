"""Every hook of the contract, implemented by an installed plugin and seen to take effect.

A test of the hook `x` has a name that begins with `test_x_`; the last tests hold that there is one.
"""

import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

import adaptery
from adaptery.base_model import open_base
from adaptery.errors import PromotionRefused
from adaptery.plugins import hookspecs
from adaptery.plugins.manager import KINDS, PluginManager, PluginWarning
from adaptery.registry.base import Registry
from adaptery.registry.local import LocalRegistry
from adaptery.serving.api import create_app
from adaptery.serving.config import ServeConfig
from adaptery.types import LIVE, AdapterPackage, AdapterRef
from tests.adapters import make_adapter
from tests.command import adapters, done
from tests.models import write_rows
from tests.plugins.distributions import Site
from tests.trainers.runs import rows

DOCUMENT = Path(__file__).parents[2] / "docs" / "plugins.md"
HOOKS = [name for name, item in vars(hookspecs).items() if hasattr(item, "adapters_spec")]

PARROT = """
from adaptery.serving.engine import Chunk

class Parrot:
    healthy = True
    max_context = 100

    def __init__(self, base, config):
        self.base = base
        self.names = frozenset()

    async def start(self): pass
    async def close(self): pass
    async def load(self, name, directory): self.names |= {name}
    async def unload(self, name): self.names -= {name}
    def loaded(self): return self.names

    async def generate(self, request):
        yield Chunk(token=5, text=f"{request.adapter} squawks", finish_reason="stop")

@hookimpl
def engines():
    return [Spec("parrot", "repeats its name", lambda: Parrot)]
"""


@pytest.fixture
def packages(tiny_base: Path, tmp_path: Path) -> list[AdapterPackage]:
    """Two adapters of the tiny base."""
    base = open_base(str(tiny_base)).identity
    return [make_adapter(tmp_path / f"adapter-{n}", seed=n, base=base) for n in (1, 2)]


@pytest.fixture
def store(tmp_path: Path) -> str:
    return str(tmp_path / "registry")


@pytest.fixture
def registry(site: Site, store: str, packages: list[AdapterPackage]) -> Callable[[], Registry]:
    """Opens a registry with two versions of `support`, all plugins told of what changes."""
    plain = LocalRegistry.open(store)
    for package in packages:
        plain.publish("support", package)
    return lambda: adaptery.open_registry(store)


def train(tiny_base: Path, tmp_path: Path, *more: object) -> tuple[object, ...]:
    """The arguments of a short training run."""
    data = write_rows(tmp_path / "train.jsonl", rows(6))
    return (
        *("train", "--name", "mine", "--base", tiny_base, "--data", data, "--max-steps", 2),
        *("--runs", tmp_path / "runs", "--registry", tmp_path / "registry", "--json", *more),
    )


def test_training_methods_of_a_plugin_are_trained_with(
    site: Site, tiny_base: Path, tmp_path: Path
) -> None:
    source = """
    @hookimpl
    def training_methods():
        def load():
            from adaptery.trainers.method import Method
            class Narrow(Method):
                def peft_config(self, plan):
                    config = super().peft_config(plan)
                    config.r = 3
                    return config
            return Narrow
        return [Spec("narrow", "LoRA of rank 3", load)]
    """
    site.install("narrow-lora", source)
    assert {"name": "narrow", "summary": "LoRA of rank 3", "plugin": "narrow-lora"} in done(
        "methods", "--json"
    ).json
    result = done(*train(tiny_base, tmp_path, "--method", "narrow")).json
    assert result["method"] == "narrow"
    version = LocalRegistry.open(str(tmp_path / "registry")).resolve(AdapterRef("mine", number=1))
    config = LocalRegistry.open(str(tmp_path / "registry")).materialize(version)
    assert '"r": 3' in (config / "adapter_config.json").read_text()


def test_engines_of_a_plugin_answer(
    site: Site, registry: Callable[[], Registry], store: str
) -> None:
    site.install("parrots", PARROT)
    said = done(
        "chat", "support@2", "--engine", "parrot", "--prompt", "hello", "--registry", store
    ).out
    assert said == f"{registry().resolve(AdapterRef.parse('support@2')).engine_name} squawks\n"


def test_registry_backends_of_a_plugin_are_opened_by_their_scheme(
    site: Site, registry: Callable[[], Registry], store: str
) -> None:
    source = """
    from pathlib import Path
    from adaptery.registry.local import LocalRegistry

    class Shelf(LocalRegistry):
        @classmethod
        def open(cls, url, hooks=None):
            return super().open(url.removeprefix("shelf://"), hooks)

    @hookimpl
    def registry_backends():
        return [Spec("shelf", "a folder by another name", lambda: Shelf)]
    """
    site.install("shelves", source)
    listed = done("list", "support", "--registry", f"shelf://{store}", "--json").json
    assert [version["version"] for version in listed] == [1, 2]
    assert type(adaptery.open_registry(f"shelf://{store}")).__name__ == "Shelf"


def test_exporters_of_a_plugin_export(
    site: Site, registry: Callable[[], Registry], store: str, tmp_path: Path
) -> None:
    source = """
    def export(job):
        job.output.write_text(f"{job.version} on {job.base.identity.id} as {job.dtype}")
        return {"letters": 5}

    @hookimpl
    def exporters():
        return [Spec("note", "a note of what it was", lambda: export)]
    """
    site.install("notes", source)
    output = tmp_path / "note.txt"
    told = done(
        "export", "support@2", "--to", "note", "--output", output, "--registry", store, "--json"
    ).json
    assert told["letters"] == 5
    assert output.read_text().startswith("support@2 on ")


def test_metrics_of_a_plugin_score_answers(site: Site, tiny_base: Path, tmp_path: Path) -> None:
    source = """
    def vowels(predictions, references):
        return float(sum(text.count("e") for text in references))

    @hookimpl
    def metrics():
        return [Spec("vowels", "how many e there are", lambda: vowels)]
    """
    site.install("vowels", source)
    held_out = write_rows(tmp_path / "eval.jsonl", rows(3, start=40))
    result = done(
        *train(tiny_base, tmp_path, "--eval-data", held_out),
        *("--set", "evaluation.metrics=[vowels]"),
    ).json
    assert result["metrics"]["vowels"] == 3.0  # blue, yellow, red


def test_data_formats_of_a_plugin_are_read(site: Site, tiny_base: Path, tmp_path: Path) -> None:
    source = """
    from adaptery.trainers.data.rows import Conversation, Message

    class Arrows:
        needs = "arrow (question -> answer)"

        def recognizes(self, record):
            return "arrow" in record

        def parse(self, record, origin):
            question, answer = record["arrow"].split(" -> ")
            messages = Message("user", question), Message("assistant", answer)
            return Conversation(messages, origin)

    @hookimpl
    def data_formats():
        return [Spec("arrows", "question -> answer", Arrows)]
    """
    site.install("arrows", source)
    rows = ({"arrow": "the sky -> blue"}, {"arrow": "the sun -> yellow"})
    arguments = train(tiny_base, tmp_path)
    (tmp_path / "train.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert done(*arguments).json["version"] == 1
    report = done("data", "check", tmp_path / "train.jsonl", "--json").json
    assert report["files"][0]["format"] == "arrows"


def test_request_routers_of_a_plugin_choose_the_model(
    site: Site, registry: Callable[[], Registry], tiny_base: Path
) -> None:
    source = """
    class ByHeader:
        def route(self, model, body, headers):
            return f"{model}@{headers['x-cohort']}" if "x-cohort" in headers else model

    @hookimpl
    def request_routers():
        return [Spec("by-header", "a version by cohort", lambda: ByHeader)]
    """
    site.install("cohorts", source)
    site.install("parrots", PARROT)
    plugins = PluginManager()
    config = ServeConfig(base=str(tiny_base), router="by-header", engine="parrot")
    engine = plugins.load("engines", "parrot")(open_base(str(tiny_base)), config)
    router = plugins.load("request_routers", config.router)()
    with TestClient(create_app(engine, registry(), config, router)) as client:
        body = {"model": "support", "messages": [{"role": "user", "content": "hello"}]}
        versions = [
            client.post("/v1/chat/completions", json=body, headers=headers).headers[
                "x-adapter-version"
            ]
            for headers in ({}, {"X-Cohort": "2"})
        ]
    assert versions == ["1", "2"]


def test_commands_of_a_plugin_are_commands_of_ours(site: Site) -> None:
    source = """
    import click

    @click.command("hello")
    @click.argument("whom")
    def hello(whom):
        \"\"\"Greet somebody.\"\"\"
        click.echo(f"hello {whom}")

    @hookimpl
    def commands():
        return [hello]
    """
    site.install("greetings", source)
    assert done("hello", "you").out == "hello you\n"
    help_text = done("--help").out
    assert "Greet somebody." in help_text
    assert help_text.index("pull") < help_text.index("hello")
    assert "Did you mean 'hello'?" in adapters("helo").err


@pytest.mark.parametrize(
    ("name", "owners"), [("train", "adaptery and (first|second)"), ("hello", "-one and .*-one")]
)
def test_commands_that_are_there_already_name_both_owners(
    site: Site, name: str, owners: str
) -> None:
    source = f"""
    import click

    @hookimpl
    def commands():
        return [click.Command("{name}")]
    """
    site.install("first-one", source)
    site.install("second-one", source)
    outcome = adapters("--help")
    assert outcome.code == 1
    assert re.search(f"Both .*{owners}.* add a command named '{name}'", outcome.err)


GATE = """
@hookimpl
def before_promote(version, alias):
    if version.number == 2 and alias == "live":
        return "Version 2 was not reviewed."
"""


def test_before_promote_of_a_plugin_may_refuse(
    site: Site, registry: Callable[[], Registry], store: str
) -> None:
    site.install("reviews", GATE)
    with pytest.raises(PromotionRefused) as error:
        registry().promote(AdapterRef("support", number=2))
    assert "support@2" in str(error.value)
    assert "Version 2 was not reviewed." in str(error.value)
    assert registry().resolve(AdapterRef("support", alias=LIVE)).number == 1
    assert [event.kind for event in registry().history("support")] == ["published", "published"]
    refused = adapters("promote", "support@2", "--registry", store)
    assert refused.code == 5
    assert "not reviewed" in refused.err
    registry().promote(AdapterRef("support", number=2), "canary")


def test_before_promote_of_every_plugin_is_asked(
    site: Site, registry: Callable[[], Registry]
) -> None:
    site.install("reviews", GATE)
    site.install("weekdays", GATE.replace("Version 2 was not reviewed.", "Not on a Friday."))
    with pytest.raises(PromotionRefused, match=r"not reviewed\..*Friday|Friday\..*not reviewed"):
        registry().promote(AdapterRef("support", number=2))


def test_before_promote_that_fails_keeps_the_gate_shut(
    site: Site, registry: Callable[[], Registry]
) -> None:
    site.install("reviews", "@hookimpl\ndef before_promote(version):\n    1 / 0\n")
    with pytest.raises(PromotionRefused, match=r"reviews could not check it.*ZeroDivisionError"):
        registry().promote(AdapterRef("support", number=2))
    assert registry().resolve(AdapterRef("support", alias=LIVE)).number == 1


def test_before_promote_is_asked_when_a_first_version_would_become_live(
    site: Site, registry: Callable[[], Registry], packages: list[AdapterPackage]
) -> None:
    site.install("reviews", "@hookimpl\ndef before_promote(): return 'Nothing is reviewed yet.'")
    store = registry()
    store.publish("news", packages[0])
    assert not store.aliases("news")
    assert "Nothing is reviewed yet." in store.history("news")[0].reason


def observer(hook: str, path: Path) -> str:
    return f"""
    @hookimpl
    def {hook}(event, version):
        with open({str(path)!r}, "a") as file:
            print("{hook}", event.kind, event.alias, event.previous, version, file=file)
    """


def test_after_publish_of_a_plugin_hears_of_new_versions(
    site: Site, registry: Callable[[], Registry], tmp_path: Path, packages: list[AdapterPackage]
) -> None:
    site.install("listener", observer("after_publish", tmp_path / "heard"))
    store = registry()
    store.publish("news", packages[1])
    store.publish("news", packages[1])  # is there already: no news
    store.promote(AdapterRef("support", number=2))
    assert (tmp_path / "heard").read_text() == "after_publish published live None news@1\n"


def test_after_promote_of_a_plugin_hears_of_promotions(
    site: Site, registry: Callable[[], Registry], tmp_path: Path, store: str
) -> None:
    site.install("listener", observer("after_promote", tmp_path / "heard"))
    done("promote", "support@2", "--registry", store)
    done("rollback", "support", "--registry", store)
    assert (tmp_path / "heard").read_text() == "after_promote promoted live 1 support@2\n"


def test_after_rollback_of_a_plugin_hears_of_rollbacks(
    site: Site, registry: Callable[[], Registry], tmp_path: Path, store: str
) -> None:
    site.install("listener", observer("after_rollback", tmp_path / "heard"))
    done("promote", "support@2", "--registry", store)
    done("rollback", "support", "--registry", store)
    assert (tmp_path / "heard").read_text() == "after_rollback rolled back live 2 support@1\n"


@pytest.mark.parametrize("hook", ["after_publish", "after_promote", "after_rollback"])
def test_an_observer_that_fails_is_only_warned_about(
    site: Site,
    registry: Callable[[], Registry],
    packages: list[AdapterPackage],
    hook: str,
    recwarn: pytest.WarningsRecorder,
) -> None:
    site.install("listener", f"@hookimpl\ndef {hook}(version): raise OSError('no network')")
    store = registry()
    store.publish("news", packages[0])
    store.promote(AdapterRef("support", number=2))
    store.rollback("support")
    assert [(warning.category, str(warning.message)) for warning in recwarn] == [
        (PluginWarning, f"{hook} of listener failed: OSError: no network")
    ]
    assert store.resolve(AdapterRef("support", alias=LIVE)).number == 1
    assert len(store.history("support")) == 4
    assert store.resolve(AdapterRef("news", number=1))


def test_every_hook_has_a_test_of_its_effect() -> None:
    assert len(HOOKS) == 12
    for hook in HOOKS:
        assert any(name.startswith(f"test_{hook}_") for name in globals()), hook


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_is_documented_with_its_signature(hook: str) -> None:
    specification = getattr(hookspecs, hook)
    arguments = ", ".join(inspect.signature(specification).parameters)
    text = DOCUMENT.read_text(encoding="utf-8")
    assert f"### `{hook}({arguments})`\n" in text
    section = text.split(f"### `{hook}({arguments})`\n")[1].split("\n##")[0]
    summary = " ".join(str(specification.__doc__).split())
    assert summary in " ".join(section.split()), "its docstring opens its section"


@pytest.mark.parametrize("hook", HOOKS)
def test_every_example_of_the_document_is_a_plugin(
    site: Site, hook: str, recwarn: pytest.WarningsRecorder
) -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    section = text.split(f"### `{hook}(")[1].split("\n##")[0]
    (example,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    site.install("from-the-document", example)
    manager = PluginManager()
    assert not [warning for warning in recwarn if warning.category is PluginWarning]
    assert ("from-the-document", "from_the_document", [hook]) in manager.plugins()
    if hook in KINDS:
        owned = [i for i in manager.registered(hook).values() if i.owner == "from-the-document"]
        assert len(owned) == 1
        if "adapters_" not in example:
            loaded = owned[0].spec.load()
            assert callable(loaded) or callable(loaded.parse)  # a format is no function


def test_no_hook_is_documented_that_is_not_there() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    documented = [line.split("`")[1].split("(")[0] for line in text.splitlines() if "### `" in line]
    assert documented == HOOKS
