"""What all routes share."""

from collections.abc import Mapping
from typing import Any

from adaptery.errors import NotReady
from adaptery.serving.api.auth import tenant_of
from adaptery.serving.api.metrics import Metrics
from adaptery.serving.config import ServeConfig
from adaptery.serving.engine import Engine
from adaptery.serving.pins import Pins
from adaptery.serving.proofs import open_proofs
from adaptery.serving.residency import Residency
from adaptery.serving.resolver import Resolver
from adaptery.serving.router import Router
from adaptery.types import Version, VersionSource


class Service:
    """One engine and one registry behind one API."""

    def __init__(
        self, engine: Engine, registry: VersionSource, config: ServeConfig, router: Router
    ) -> None:
        self.engine = engine
        self.base = engine.base
        self.registry = registry
        self.resolver = Resolver(registry, engine.base, config.served_name or config.base)
        proofs = open_proofs(config, engine.base.identity.digest)
        self.residency = Residency(engine, registry, proofs=proofs)
        self.pins = Pins(config.pins, self.resolver, self.residency, engine)
        self.metrics = Metrics(engine)
        self._router = router

    def require_ready(self) -> None:
        """Do nothing if the engine answers. Raises `NotReady`."""
        if not self.engine.healthy or not self.pins.ready:
            raise NotReady("The engine is not ready. Ask /ready until it is, then try again.")

    async def route(
        self, model: str, body: Mapping[str, Any], headers: Mapping[str, str]
    ) -> "Target":
        """What answers this request; decided once."""
        chosen = self._router.route(model, body, headers)
        version = await self.resolver.resolve(chosen)
        self.pins.saw(chosen, version)
        return Target(version, self.resolver.base_name, tenant_of(headers))


class Target:
    """A version, or the base where `version` is None, asked by `tenant`."""

    def __init__(self, version: Version | None, base_name: str, tenant: str = "") -> None:
        self.version = version
        self.tenant = tenant
        self.model = str(version) if version else base_name

    @property
    def headers(self) -> dict[str, str]:
        """Which adapter made an answer; an answer of the base has none."""
        if self.version is None:
            return {}
        return {
            "x-adapter": self.version.name,
            "x-adapter-version": str(self.version.number),
            "x-adapter-digest": self.version.digest,
        }
