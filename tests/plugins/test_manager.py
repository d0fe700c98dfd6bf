import warnings
from pathlib import Path

import pytest

from adaptery.errors import PluginError, UnknownName
from adaptery.plugins.manager import KINDS, PluginManager, PluginWarning
from tests.plugins.distributions import Site

METRIC = """
@hookimpl
def metrics():
    return [Spec("{name}", "a score", lambda: len)]
"""


def warned(site: Site, *hooks: str) -> list[str]:
    """What a manager warns of while it is made and while each of the hooks is asked, twice."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        manager = PluginManager()
        for hook in hooks * 2:
            manager.registered(hook)
    assert all(issubclass(warning.category, PluginWarning) for warning in caught)
    return [str(warning.message) for warning in caught]


def test_an_installed_plugin_is_found_and_known_by_its_distribution(site: Site) -> None:
    site.install("my-metrics", METRIC.format(name="mine"))
    found = PluginManager().registered("metrics")["mine"]
    assert found.owner == "my-metrics"
    assert found.spec.summary == "a score"
    assert ("my-metrics", "my_metrics", ["metrics"]) in PluginManager().plugins()


METHODS = ["lora", "qlora", "loraplus", "adalora", "rslora", "dora", "pissa", "olora", "full"]


def test_the_built_in_plugins_are_ordinary_ones() -> None:
    manager = PluginManager(entry_points=[])
    assert list(manager.registered("training_methods")) == METHODS
    assert all(manager.registered(hook) for hook in KINDS)
    assert {item.owner for hook in KINDS for item in manager.registered(hook).values()} == {
        "adaptery"
    }
    assert warned_nothing()


def warned_nothing() -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        manager = PluginManager(entry_points=[])
        return all(manager.load(hook, name) for hook in KINDS for name in manager.registered(hook))


@pytest.mark.parametrize(
    "source",
    ["import nowhere_to_be_found", "1 / 0", "raise SystemExit(3)", "def", "import os; os.nonsense"],
)
def test_a_plugin_that_cannot_be_imported_is_one_warning_that_names_it(
    site: Site, source: str
) -> None:
    site.install("broken-one", source)
    (message,) = warned(site, "metrics", "engines")
    assert "The plugin of broken-one is broken and was left out" in message


@pytest.mark.parametrize(
    "source",
    [
        "@hookimpl\ndef metric(): return []",
        "@hookimpl\ndef before_promote(version, nickname): return None",
    ],
    ids=["unknown hook", "unknown argument"],
)
def test_a_plugin_that_misreads_the_contract_is_left_out_as_a_whole(
    site: Site, source: str
) -> None:
    site.install("careless", METRIC.format(name="mine") + source)
    (message,) = warned(site, "metrics")
    assert "careless" in message
    with pytest.warns(PluginWarning):
        manager = PluginManager()
    assert "mine" not in manager.registered("metrics")
    assert "accuracy" in manager.registered("metrics")
    assert not any(owner == "careless" for owner, _, _ in manager.plugins())


@pytest.mark.parametrize(
    "body",
    ["raise OSError('no network')", "yield Spec('a', 'b', len); 1 / 0", "return None", "return 5"],
)
def test_a_hook_that_fails_is_one_warning_and_the_others_go_on(site: Site, body: str) -> None:
    site.install("broken-one", f"@hookimpl\ndef metrics():\n    {body}\n")
    site.install("good-one", METRIC.format(name="mine"))
    (message,) = warned(site, "metrics", "engines")
    assert "metrics of broken-one is broken and was left out" in message
    builtin = PluginManager(entry_points=[]).registered("metrics").keys()
    with pytest.warns(PluginWarning):
        assert PluginManager().registered("metrics").keys() == {*builtin, "mine"}


def test_something_that_is_no_spec_is_one_warning_that_names_it(site: Site) -> None:
    site.install("broken-one", "@hookimpl\ndef metrics(): return ['accuracy']")
    (message,) = warned(site, "metrics")
    assert message == "metrics of broken-one returned 'accuracy', which is no Spec."


def test_a_name_claimed_twice_names_both_owners(site: Site) -> None:
    site.install("first-one", METRIC.format(name="mine"))
    site.install("second-one", METRIC.format(name="mine"))
    with pytest.raises(PluginError) as error:
        PluginManager().registered("metrics")
    for part in ("first-one", "second-one", "metric named 'mine'"):
        assert part in str(error.value)


def test_a_built_in_name_cannot_be_claimed(site: Site) -> None:
    site.install("second-one", METRIC.format(name="accuracy"))
    with pytest.raises(PluginError, match="Both adaptery and second-one"):
        PluginManager().load("metrics", "accuracy")


def test_one_plugin_under_two_names_is_registered_once(site: Site) -> None:
    site.install("first-one", METRIC.format(name="mine"), module="shared")
    info = site.folder / "second_one-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: second-one\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[adapters]\nshared = shared\n")
    with pytest.warns(PluginWarning, match="second-one|first-one"):
        assert "mine" in PluginManager().registered("metrics")


@pytest.mark.parametrize("hook", KINDS)
def test_an_unknown_name_says_which_there_are(hook: str) -> None:
    manager = PluginManager(entry_points=[])
    name = next(iter(manager.registered(hook)))
    with pytest.raises(UnknownName) as error:
        manager.load(hook, name[:-1] + "x" + name[-1:])
    message = str(error.value)
    assert message.startswith(f"There is no {KINDS[hook]} ")
    assert f"Did you mean {name!r}?" in message
    assert "`adapters plugins`" in message


@pytest.mark.parametrize(
    ("body", "hint"),
    [("import nowhere_to_be_found", True), ("1 / 0", False), ("raise SyntaxError('x')", False)],
)
def test_something_that_cannot_be_loaded_names_who_brought_it(
    site: Site, body: str, hint: bool
) -> None:
    source = f"""
    def load():
        {body}

    @hookimpl
    def metrics():
        return [Spec("mine", "a score", load)]
    """
    site.install("half-there", source)
    with pytest.raises(PluginError) as error:
        PluginManager().load("metrics", "mine")
    assert "The metric 'mine' of half-there cannot be loaded" in str(error.value)
    assert ("pip install" in str(error.value)) is hint


def test_a_registry_of_an_unknown_scheme_says_which_there_are() -> None:
    with pytest.raises(UnknownName, match=r"no registry backend 's3'.*file, hf"):
        PluginManager(entry_points=[]).open_registry("s3://bucket/prefix")


@pytest.mark.parametrize("url", ["registry", "./registry", "~/registry", "file:///tmp/x"])
def test_a_path_is_a_directory_registry(url: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    registry = PluginManager(entry_points=[]).open_registry(url)
    assert type(registry).__name__ == "LocalRegistry"
    assert not list(tmp_path.iterdir())
