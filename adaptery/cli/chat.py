"""`adapters chat`."""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import click

from adaptery.base_model import LocalBase, open_base
from adaptery.cli.context import open_registry, plugins, registry_option, stderr
from adaptery.cli.params import ref_argument
from adaptery.types import AdapterRef

if TYPE_CHECKING:
    from adaptery.registry.base import Registry
    from adaptery.serving.engine import Engine, SamplingParams
    from adaptery.types import Version


@click.command("chat")
@ref_argument
@click.option("--base", help="Where the base model is, if not where it was for training.")
@click.option("--prompt", help="Ask this one question and end.")
@click.option("--system", help="A system message before the first question.")
@click.option(
    "--max-tokens",
    default=256,
    show_default=True,
    type=click.IntRange(1),
    help="Longest answer, in tokens.",
)
@click.option(
    "--temperature",
    default=0.0,
    show_default=True,
    type=click.FloatRange(0, 2),
    help="How freely tokens are chosen; 0 takes the likeliest.",
)
@click.option("--engine", "engine_name", default="torch", show_default=True, help="Engine plugin.")
@registry_option
def chat_command(
    ref: str,
    base: str | None,
    prompt: str | None,
    system: str | None,
    max_tokens: int,
    temperature: float,
    engine_name: str,
    registry: str,
) -> None:
    """Talk to a version on this machine.

    Questions are read from the terminal or from a pipe, a line each; an empty line or Ctrl-D ends.
    """
    from adaptery.serving.config import ServeConfig
    from adaptery.serving.engine import SamplingParams

    store = open_registry(registry)
    version = store.resolve(AdapterRef.parse(ref))
    where = version.manifest.base
    found = open_base(base or where.id, None if base else where.revision)
    found.require(version.manifest, str(version))
    make_engine = plugins().load("engines", engine_name)
    engine = make_engine(found, ServeConfig(base=where.id, max_sequences=1))
    sampling = SamplingParams(max_tokens=max_tokens, temperature=temperature)
    chat = Chat(engine, found, store, version, sampling)
    if system:
        chat.add("system", system)
    asyncio.run(chat.run(iter([prompt]) if prompt else questions()))


def questions() -> Iterator[str]:
    """Lines from the terminal, until an empty one or the end."""
    interactive = sys.stdin.isatty()
    while True:
        try:
            line = input("> " if interactive else "").strip()
        except EOFError:
            return
        if not line:
            return
        yield line


@dataclass
class Chat:
    """One conversation with one version."""

    engine: "Engine"
    base: LocalBase
    store: "Registry"
    version: "Version"
    sampling: "SamplingParams"
    messages: list[dict[str, str]] = field(default_factory=list)

    def add(self, role: str, content: str) -> None:
        self.messages.append({"role": role, "content": content})

    async def run(self, asked: Iterator[str]) -> None:
        """Answer each question, token by token, on stdout."""
        from adaptery.serving.prompts import chat_template
        from adaptery.serving.residency import Residency

        try:
            with stderr().status(f"loading {self.version} …"):
                await self.engine.start()
            async with Residency(self.engine, self.store).hold(self.version) as directory:
                template = chat_template(directory)
                for question in asked:
                    self.add("user", question)
                    self.add("assistant", await self.answer(template))
        finally:
            await self.engine.close()

    async def answer(self, template: str | None) -> str:
        """Print the answer as it comes, and return it whole."""
        from adaptery.serving.engine import GenerationRequest
        from adaptery.serving.prompts import render_chat

        prompt = render_chat(self.base, self.messages, template)
        request = GenerationRequest(prompt, self.sampling, self.version.engine_name)
        text = ""
        async with aclosing(self.engine.generate(request)) as chunks:
            async for chunk in chunks:
                click.echo(chunk.text, nl=False)
                text += chunk.text
        click.echo()
        return text
