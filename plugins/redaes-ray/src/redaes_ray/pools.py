"""Pools of actors for plug-ins that hold a model: editors and judges on GPUs of their own, asked by all workers.

In: a crew whose plug-ins read their weights at the first question. Out: the same crew, in which those that run a model
themselves are asked in an actor of their pool: same name, same identity, same answers. What they note of a call (its
words, tokens, images) travels back with the answer, and so does the kind of a failure, so that the ledger, the limits
and the retries of a call are those of any other.

An actor that dies - for want of memory, or by an image that crashes a library - is started anew. The question goes to
the next one; after `MOST` deaths it is declined, and its source left out.
"""

import itertools
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import ray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ray.exceptions import RayActorError, RayError

from redaes.calls import CallError, Declined, Receipt, Role, Usage, collecting, note
from redaes.engine.config import EngineConfig
from redaes.engine.stages import Crew, Member
from redaes.errors import UserError
from redaes.redaction import redact
from redaes.registry import PluginSpec, create, split_spec
from redaes_ray.cluster import enter_folder, resources

MOST = 4
"""Actors that may die on one question [ours]; others ask them too, so that a death may be of their making."""


class PoolSettings(BaseModel):
    """How many actors a plug-in gets, and what each of them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    actors: int | None = Field(None, ge=1, description="None: as many as the cluster's GPUs allow, else one")
    num_gpus: float | None = Field(None, ge=0, description="for each actor; None: one where the cluster has any")
    num_cpus: float = Field(0.0, ge=0, description="for each actor")
    threads: int = Field(8, ge=1, description="questions that an actor takes at once; a local judge batches them")


Key = tuple[str, int]
"""Kind of a plug-in, and its place among those of its kind in the configuration."""


@dataclass(frozen=True)
class Pools:
    """Actors by plug-in."""

    actors: Mapping[Key, tuple[Any, ...]]

    def close(self) -> None:
        """End all actors."""
        for actor in itertools.chain.from_iterable(self.actors.values()):
            ray.kill(actor)


class Answered(NamedTuple):
    """What came of a question in an actor: a value or a failure, and what was noted."""

    value: Any
    failure: Exception | None
    receipt: Receipt


class PluginActor:
    """One plug-in in a process of its own.

    Args:
        kind: of the plug-in.
        spec: what it is made from.
        folder: that the driver works in.
    """

    def __init__(self, kind: str, spec: PluginSpec, folder: str) -> None:
        enter_folder(folder)
        self.kind, self.spec = kind, spec
        self.plugin: Any = None

    def ask(self, role: Role, arguments: Sequence[Any]) -> Answered:
        """Ask the plug-in; what is wrong comes back as an answer, for an error's traceback may hold a key."""
        with collecting() as receipt:
            try:
                if self.plugin is None:
                    self.plugin = create(self.kind, self.spec)
                return Answered(getattr(self.plugin, role)(*arguments), None, receipt)
            except (CallError, UserError) as failure:
                return Answered(None, failure.with_traceback(None), receipt)
            except Exception as fault:  # whatever a third party's plug-in raises; the engine stops and names it
                return Answered(None, RuntimeError(redact(f"{type(fault).__name__}: {fault}")), receipt)


class Pooled:
    """A plug-in that is asked in the actors of its pool.

    Args:
        member: the plug-in as this process made it; its weights are not read here.
        actors: of its pool.
    """

    def __init__(self, member: Member, actors: Sequence[Any]) -> None:
        self._member = member
        self._actors = actors
        self._turn = itertools.count(random.randrange(len(actors)))  # workers begin at different ones

    def __getattr__(self, name: str) -> Any:
        if name not in self._member.roles:
            return getattr(self._member.plugin, name)
        return lambda *arguments: self._ask(name, arguments)

    def identity(self, role: Role) -> Mapping[str, Any]:
        """What answers depend on: as of the plug-in itself."""
        return self._member.identity(role)

    def _ask(self, role: str, arguments: Sequence[Any]) -> Any:
        for death in range(MOST):
            actor = self._actors[next(self._turn) % len(self._actors)]
            try:
                answered: Answered = ray.get(actor.ask.remote(role, arguments))
            except RayActorError:
                # It may be on its way back. A random pause parts this question from those that died with it.
                time.sleep(random.uniform(0.5, 2.0) * (death + 1))
                continue
            except RayError as error:
                raise RuntimeError(f"{self._member.plugin.name}: {str(error).splitlines()[0]}") from None
            _note(answered.receipt)
            if answered.failure is not None:
                raise answered.failure
            return answered.value
        raise Declined(f"{self._member.plugin.name}: its process ended {MOST} times on this question")


def _note(receipt: Receipt) -> None:
    """Note here what was noted in an actor; what it was billed stands with the first reply."""
    usage = receipt.usage
    for reply in receipt.replies:
        note(reply, model=receipt.model, **usage._asdict())
        usage = Usage()


def start_pools(crew: Crew, config: EngineConfig, settings: Mapping[str, Any], folder: str) -> Pools:
    """Start the actors of every plug-in that runs a model itself, or that the settings name.

    Args:
        crew: of the driver.
        config: of the build.
        settings: `PoolSettings` by the name of a plug-in, as records have it, or by its class path.
        folder: that the driver works in.

    Raises:
        UserError: a setting that cannot be, or for a plug-in that is not there.
    """
    wanted = {name: _settings(name, values) for name, values in settings.items()}
    members = {key: member for key, member in keyed(crew, config) if _is_pooled(member, wanted)}
    unknown = set(wanted) - {name for member in members.values() for name in _names(member)}
    if unknown:
        known = sorted({member.plugin.name for _, member in keyed(crew, config)})
        raise UserError(f"pools: no plug-in is called {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    gpus = resources().get("GPU", 0.0)
    actors = {}
    for key, member in members.items():
        chosen = next((wanted[name] for name in _names(member) if name in wanted), PoolSettings())
        each = chosen.num_gpus if chosen.num_gpus is not None else float(gpus > 0)
        count = chosen.actors or max(1, int(gpus / len(members) / each) if each else 1)
        made = ray.remote(PluginActor).options(
            num_cpus=chosen.num_cpus, num_gpus=each, max_concurrency=chosen.threads, max_restarts=-1, max_task_retries=0
        )
        actors[key] = tuple(made.remote(member.kind, member.spec, folder) for _ in range(count))
    return Pools(actors)


def with_pools(crew: Crew, config: EngineConfig, pools: Pools) -> Crew:
    """The crew, with those that have a pool asked there."""
    plugins = {key: member.plugin for key, member in keyed(crew, config)}
    for key, member in keyed(crew, config):
        if key in pools.actors:
            plugins[key] = Pooled(member, pools.actors[key])

    def of(kind: str) -> tuple[Any, ...]:
        return tuple(plugin for (known, _), plugin in plugins.items() if known == kind)

    return replace(
        crew,
        editors=of("editors"),
        judges=of("judges"),
        verifiers=of("verifiers"),
        instructor=plugins["instructors", 0],
    )


def keyed(crew: Crew, config: EngineConfig) -> "list[tuple[Key, Member]]":
    """The members of a crew by kind and place."""
    places: dict[str, itertools.count[int]] = {}
    return [((m.kind, next(places.setdefault(m.kind, itertools.count()))), m) for m in crew.members(config)]


def _is_pooled(member: Member, wanted: Mapping[str, PoolSettings]) -> bool:
    return getattr(member.plugin, "endpoint", "") == "local" or any(name in wanted for name in _names(member))


def _names(member: Member) -> tuple[str, str]:
    return member.plugin.name, split_spec(member.spec)[0]


def _settings(name: str, values: Any) -> PoolSettings:
    try:
        return PoolSettings.model_validate(values)
    except ValidationError as error:
        problem = error.errors()[0]
        raise UserError(f"pools.{name}: {'.'.join(map(str, problem['loc']))}: {problem['msg']}") from error
