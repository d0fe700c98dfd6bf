"""Whatever is done to a registry, in whatever order: it agrees with a model in a few dicts."""

from collections import defaultdict
from itertools import count

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from adaptery.errors import Conflict, PromotionRefused, ReferenceNotFound, UsageError
from adaptery.types import AdapterRef
from tests.adapters import make_adapter

SEEDS = 4
SHORT, LONG = (6, 15), (100, 40)  # examples, and steps of each

texts = st.sampled_from(["", "Good.", "Käse ü"])
adapters = st.integers(0, 1)
seeds = st.integers(0, SEEDS - 1)
numbers = st.integers(1, SEEDS + 1)
alias_names = st.sampled_from(["live", "canary"])
opened = st.integers(0, 1)


class Model:
    """One adapter: what was published, where aliases point and pointed, what was said."""

    def __init__(self):
        self.versions, self.yanked, self.events = {}, {}, []
        self.meant, self.generations = defaultdict(list), defaultdict(int)
        self.tags, self.notes = defaultdict(dict), defaultdict(list)

    def now(self, alias):
        return self.meant[alias][-1] if self.meant[alias] else None

    def happened(self, kind, number, alias=None):
        previous = self.now(alias) if alias else None
        if alias:
            self.generations[alias] += 1
        generation = self.generations[alias] if alias else None
        self.events.append((len(self.events) + 1, kind, number, alias, previous, generation))

    def move(self, alias, number):
        if self.now(alias) != number:
            self.meant[alias].append(number)

    def move_back(self, alias, number):
        *earlier, _ = self.meant[alias]
        while earlier and earlier[-1] != number:
            earlier.pop()
        self.meant[alias] = earlier or [*self.meant[alias][:-1], number]

    def earlier(self, alias):
        """What a rollback without a number means, None if there is nothing."""
        known = [n for n in self.meant[alias][:-1] if n not in self.yanked]
        while known and known[-1] == self.now(alias):
            known.pop()
        return known[-1] if known else None

    def pointing(self, number):
        return tuple(alias for alias in ("canary", "live") if self.now(alias) == number)

    def latest(self):
        return max(self.versions.keys() - self.yanked.keys(), default=None)


class Machine(RuleBasedStateMachine):
    """Two programs that use one registry, step by step beside the model."""

    example = count()  # adapters are named anew in each, so that all share one registry

    def __init__(self, registries, packages):
        super().__init__()
        self.registries, self.packages = registries, packages
        example = next(self.example)
        self.names = [f"m{example}-{letter}" for letter in "ab"]
        self.models = [Model(), Model()]

    def refused(self, error, act, *arguments, **options):
        with pytest.raises(error):
            act(*arguments, **options)

    def ref(self, adapter, number):
        return AdapterRef(self.names[adapter], number=number)

    @rule(adapter=adapters, seed=seeds, number=st.none() | numbers, by=opened)
    def publish(self, adapter, seed, number, by):
        model, package = self.models[adapter], self.packages[seed]
        arguments = self.registries[by].publish, self.names[adapter], package
        digest = package.manifest.digest
        if digest in model.versions.values():
            assert model.versions[arguments[0](*arguments[1:], number=number).number] == digest
        elif number in model.versions:
            self.refused(Conflict, *arguments, number=number)
        else:
            first = not model.versions
            wanted = number or max(model.versions, default=0) + 1
            version = arguments[0](*arguments[1:], number=number)
            assert (version.number, version.digest) == (wanted, digest)
            model.versions[wanted] = digest
            model.happened("published", wanted, "live" if first else None)
            if first:
                model.move("live", wanted)

    @rule(
        adapter=adapters, number=numbers, alias=alias_names, expect=st.none() | numbers, by=opened
    )
    def promote(self, adapter, number, alias, expect, by):
        model = self.models[adapter]
        act = self.registries[by].promote, self.ref(adapter, number), alias
        if number not in model.versions:
            self.refused(ReferenceNotFound, *act, expect=expect)
        elif expect is not None and expect != model.now(alias):
            self.refused(Conflict, *act, expect=expect)
        elif number in model.yanked:
            self.refused(PromotionRefused, *act, expect=expect)
        else:
            act[0](*act[1:], expect=expect)
            model.happened("promoted", number, alias)
            model.move(alias, number)

    @rule(adapter=adapters, alias=alias_names, to=st.none() | numbers, by=opened)
    def rollback(self, adapter, alias, to, by):
        model = self.models[adapter]
        act = self.registries[by].rollback, self.names[adapter], alias
        wanted = to if to is not None else model.earlier(alias)
        if model.now(alias) is None or wanted is None or wanted not in model.versions:
            self.refused(ReferenceNotFound, *act, to=to)
        elif wanted in model.yanked:
            self.refused(PromotionRefused, *act, to=to)
        else:
            assert act[0](*act[1:], to=to).number == wanted
            model.happened("rolled back", wanted, alias)
            model.move_back(alias, wanted)

    @rule(adapter=adapters, number=numbers, reason=st.sampled_from(["", "bad"]), by=opened)
    def yank(self, adapter, number, reason, by):
        model = self.models[adapter]
        act = self.registries[by].yank, self.ref(adapter, number), reason
        if number not in model.versions:
            self.refused(ReferenceNotFound, *act)
        elif not reason:
            self.refused(UsageError, *act)
        elif number in model.yanked or model.pointing(number):
            self.refused(Conflict, *act)
        else:
            act[0](*act[1:])
            model.happened("yanked", number)
            model.yanked[number] = reason

    @rule(adapter=adapters, number=numbers, by=opened)
    def unyank(self, adapter, number, by):
        model = self.models[adapter]
        act = self.registries[by].unyank, self.ref(adapter, number)
        if number not in model.versions:
            self.refused(ReferenceNotFound, *act)
        elif number not in model.yanked:
            self.refused(Conflict, *act)
        else:
            act[0](*act[1:])
            model.happened("unyanked", number)
            del model.yanked[number]

    @rule(
        adapter=adapters,
        number=numbers,
        tags=st.dictionaries(st.sampled_from("pq"), st.sampled_from(["", "x", "y"]), min_size=1),
        by=opened,
    )
    def tag(self, adapter, number, tags, by):
        model = self.models[adapter]
        act = self.registries[by].tag, self.ref(adapter, number), tags
        if number not in model.versions:
            self.refused(ReferenceNotFound, *act)
        else:
            act[0](*act[1:])
            model.happened("tagged", number)
            model.tags[number] |= tags

    @rule(adapter=adapters, number=numbers, text=texts, by=opened)
    def note(self, adapter, number, text, by):
        model = self.models[adapter]
        act = self.registries[by].note, self.ref(adapter, number), text
        if number not in model.versions:
            self.refused(ReferenceNotFound, *act)
        elif not text:
            self.refused(UsageError, *act)
        else:
            act[0](*act[1:])
            model.happened("noted", number)
            model.notes[number].append(text)

    @rule(adapter=adapters, number=numbers, by=opened)
    def resolve(self, adapter, number, by):
        model, name = self.models[adapter], self.names[adapter]
        digest = model.versions.get(number)
        asked = [
            (AdapterRef(name, alias="live"), model.now("live")),
            (AdapterRef(name, alias="canary"), model.now("canary")),
            (AdapterRef(name, alias="latest"), model.latest()),
            (AdapterRef(name, number=number), number if digest else None),
            (AdapterRef(name, digest=(digest or "0" * 64)[:12]), number if digest else None),
        ]
        for ref, wanted in asked:
            if wanted is None:
                self.refused(ReferenceNotFound, self.registries[by].resolve, ref)
            else:
                found = self.registries[by].resolve(ref)
                assert (found.number, found.digest) == (wanted, model.versions[wanted])

    @invariant()
    def agrees(self):
        registry = self.registries[len(self.models[0].events) % 2]
        for name, model in zip(self.names, self.models, strict=True):
            found = registry.versions(name)
            assert {version.number: version.digest for version in found} == model.versions
            pointing = {alias.name: alias.number for alias in registry.aliases(name)}
            assert pointing == {a: stack[-1] for a, stack in model.meant.items() if stack}
            if model.versions:
                self.agrees_in_what_was_said(registry, name, model)

    def agrees_in_what_was_said(self, registry, name, model):
        assert [
            (
                event.id,
                event.kind.value,
                event.number,
                event.alias,
                event.previous,
                event.generation,
            )
            for event in registry.history(name)
        ] == model.events
        for number, standing in registry.standing(name).items():
            assert standing.aliases == model.pointing(number)
            assert standing.yanked == model.yanked.get(number)
            assert standing.tags == {k: v for k, v in model.tags[number].items() if v}
            assert list(standing.notes) == model.notes[number]


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("examples", "steps"), [SHORT, pytest.param(*LONG, marks=pytest.mark.torture)]
)
def test_a_registry_agrees_with_a_model_of_it(open_registry, tmp_path, examples, steps):
    packages = [make_adapter(tmp_path / f"made-{seed}", seed=seed) for seed in range(SEEDS)]
    registries = [open_registry(None), open_registry(None)]
    run_state_machine_as_test(
        lambda: Machine(registries, packages),
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    assert list(registries[0].fsck()) == []
