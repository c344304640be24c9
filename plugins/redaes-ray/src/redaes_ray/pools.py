"""Pools of actors for plug-ins that hold a model: editors and judges on GPUs of their own, asked by all workers.

In: a crew whose plug-ins read their weights at the first question. Out: the same crew, in which those that run a model
themselves are asked in an actor of their pool: same name, same identity, same answers. What they note of a call (its
words, tokens, images) travels back with the answer, and so does the kind of a failure, so that the ledger, the limits
and the retries of a call are those of any other.

An actor that dies - for want of memory, or by an image that crashes a library - is started anew, and the questions that
it had begun go to the next one. A question that was there at `CARELESS` deaths is then asked alone, so that it takes no
other with it and none takes it along; after `MOST` deaths it is declined, and its source left out. An actor that is
still on its way back is no death: it is waited for.
"""

import itertools
import logging
import math
import random
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import ray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from ray.exceptions import RayActorError, RayError

from redaes.calls import CallError, Declined, Receipt, Role, Transient, Usage, collecting, note
from redaes.engine.config import EngineConfig
from redaes.engine.stages import Crew, Member
from redaes.errors import UserError, nearest
from redaes.redaction import redact
from redaes.registry import PluginSpec, create, split_spec
from redaes_ray.cluster import enter_folder, machines, resources

log = logging.getLogger(__name__)

CARELESS = 2
"""Actors that may die on a question among others, before it is asked alone [ours]."""
MOST = 4
"""Actors that may die on a question in all [ours]; of those that it was alone in, one may have died by chance."""
PATIENCE_S = 60.0
"""Seconds that an actor which starts anew is waited for; then the call is one that found nobody, and is tried again."""
SLOW_START_S = 30.0
"""Seconds after which people are told that actors do not start."""


class PoolSettings(BaseModel):
    """How many actors a plug-in gets, and what each of them."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    actors: int | None = Field(None, ge=1, description="None: as many as the cluster's GPUs allow, else one")
    num_gpus: float | None = Field(None, ge=0, description="for each actor; None: one where the cluster has any")
    num_cpus: float = Field(0.0, ge=0, description="for each actor")
    threads: int = Field(8, ge=1, description="questions that an actor takes at once; a local judge batches them")

    @field_validator("num_gpus")
    @classmethod
    def _share_or_whole(cls, number: float | None) -> float | None:
        if number is not None and number > 1 and number != int(number):
            raise ValueError("give a share of one GPU, or a whole number of them")
        return number


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


class Turns:
    """Questions of several threads, side by side or one alone."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._together = 0
        self._alone = False

    @contextmanager
    def together(self) -> Iterator[None]:
        """Side by side with others; whoever wants to be alone goes first."""
        with self._changed:
            self._changed.wait_for(lambda: not self._alone)
            self._together += 1
        try:
            yield
        finally:
            with self._changed:
                self._together -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """When all others have ended, and before anybody else begins."""
        with self._changed:
            self._changed.wait_for(lambda: not self._alone)
            self._alone = True
            self._changed.wait_for(lambda: not self._together)
        try:
            yield
        finally:
            with self._changed:
                self._alone = False
                self._changed.notify_all()


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
        self.making = threading.Lock()
        self.turns = Turns()

    def here(self) -> None:
        """The process has started."""

    def ask(self, role: Role, arguments: Sequence[Any], alone: bool) -> Iterator[Answered | None]:
        """Ask the plug-in, side by side with others or alone.

        Yields:
            None when the question begins, so that a death before it is not laid to its charge; then what came of it.
        """
        with self.turns.alone() if alone else self.turns.together():
            yield None
            yield self._answer(role, arguments)

    def _answer(self, role: Role, arguments: Sequence[Any]) -> Answered:
        """What is wrong comes back as an answer, for an error's traceback may hold a key."""
        with collecting() as receipt:
            try:
                with self.making:  # two threads would read the weights twice
                    self.plugin = self.plugin or create(self.kind, self.spec)
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
        name, deaths, end = self._member.plugin.name, 0, time.monotonic() + PATIENCE_S
        while deaths < MOST:
            actor = self._actors[next(self._turn) % len(self._actors)]
            # Held back until its first word is heard: what follows, a death too, follows a beginning that is known.
            ask = actor.ask.options(num_returns="streaming", _generator_backpressure_num_objects=1)
            begun = False
            try:
                said = ask.remote(role, arguments, alone=deaths >= CARELESS)
                ray.get(next(said))
                begun = True
                answered: Answered = ray.get(next(said))
            except RayActorError:
                if begun:
                    deaths, end = deaths + 1, time.monotonic() + PATIENCE_S
                    log.warning("a process of %s has ended during %s (%d of %d)", name, role, deaths, MOST)
                elif time.monotonic() > end:
                    raise Transient(f"{name}: no process of its pool has come back for {PATIENCE_S:g} s") from None
                time.sleep(random.uniform(0.1, 0.5))
                continue
            except RayError as error:
                raise RuntimeError(f"{name}: {str(error).splitlines()[0]}") from None
            _note(answered.receipt)
            if answered.failure is not None:
                raise answered.failure
            return answered.value
        raise Declined(f"{name}: its process ended {MOST} times on this question")


def _note(receipt: Receipt) -> None:
    """Note here what was noted in an actor; what it was billed stands with the first reply."""
    usage = receipt.usage
    for reply in receipt.replies:
        note(reply, model=receipt.model, **usage._asdict())
        usage = Usage()


class Pool(NamedTuple):
    """What one plug-in is given: so many actors, with so many GPUs and CPUs each."""

    member: Member
    actors: int
    gpus: float
    cpus: float
    threads: int


def start_pools(
    crew: Crew, config: EngineConfig, settings: Mapping[str, Any], folder: str, spare: float = 1.0
) -> Pools:
    """Start the actors of every plug-in that runs a model itself, or that the settings name, and wait until they run.

    Workers that started first might take what these need.

    Args:
        crew: of the driver.
        config: of the build.
        settings: `PoolSettings` by the name of a plug-in, as records have it, or by its class path.
        folder: that the driver works in.
        spare: CPUs that are left to the workers at least.

    Raises:
        UserError: a setting that cannot be, or for a plug-in that is not there, or more than the cluster has.
    """
    pools = plan_pools(crew, config, settings)
    _check_room(pools.values(), spare)
    actors: dict[Key, tuple[Any, ...]] = {}
    try:
        for key, pool in pools.items():
            made = ray.remote(PluginActor).options(
                num_cpus=pool.cpus,
                num_gpus=pool.gpus,
                max_concurrency=pool.threads,
                max_restarts=-1,
                max_task_retries=0,
            )
            member = pool.member
            actors[key] = tuple(made.remote(member.kind, member.spec, folder) for _ in range(pool.actors))
        for key, pool in pools.items():
            _wait_for_start(pool.member.plugin.name, actors[key])
    except BaseException:
        Pools(actors).close()
        raise
    return Pools(actors)


def plan_pools(crew: Crew, config: EngineConfig, settings: Mapping[str, Any]) -> dict[Key, Pool]:
    """Which plug-ins get a pool, and of what size on this cluster; see `start_pools`."""
    wanted = {name: _settings(name, values) for name, values in settings.items()}
    everybody = keyed(crew, config)
    members = {key: member for key, member in everybody if _is_pooled(member, wanted)}
    for name in wanted.keys() - {name for member in members.values() for name in _names(member)}:
        raise UserError(
            f"pools: no plug-in is called {name!r} ({nearest(name, {m.plugin.name for _, m in everybody})})"
        )
    gpus = resources().get("GPU", 0.0)
    pools = {}
    for key, member in members.items():
        chosen = next((wanted[name] for name in _names(member) if name in wanted), PoolSettings())
        each = chosen.num_gpus if chosen.num_gpus is not None else float(gpus > 0)
        count = chosen.actors or max(1, _times(each, gpus / len(members)) if each else 1)
        pools[key] = Pool(member, count, each, chosen.num_cpus, chosen.threads)
    return pools


def _check_room(pools: Collection[Pool], spare: float) -> None:
    """See that the cluster, were it empty, would have room for all actors: Ray waits for ever for what it lacks."""
    there = machines()
    for pool in pools:
        fit = sum(_fit(pool, machine) for machine in there)
        if fit < pool.actors:
            raise UserError(
                f"pools.{pool.member.plugin.name}: {pool.actors} actors with {pool.gpus:g} GPUs and {pool.cpus:g} CPUs "
                f"each, but the cluster's machines have room for {fit}: give fewer actors, num_gpus or num_cpus, or "
                "add machines"
            )
    for name, left in (("GPU", 0.0), ("CPU", spare)):
        total = sum(machine.get(name, 0.0) for machine in there)
        asked = sum(pool.actors * (pool.gpus if name == "GPU" else pool.cpus) for pool in pools)
        if asked and asked + left > total:
            rest = f", and the workers need {left:g}" if left else ""
            raise UserError(
                f"pools: all actors together ask for {asked:g} {name}s{rest}, but the cluster has {total:g}: give "
                f"fewer actors or num_{name.lower()}s"
            )


def _fit(pool: Pool, machine: Mapping[str, float]) -> int:
    """How many actors of a pool a machine has room for."""
    rooms = [_times(each, machine.get(name, 0.0)) for name, each in (("GPU", pool.gpus), ("CPU", pool.cpus)) if each]
    return min(rooms, default=pool.actors)


def _times(each: float, total: float) -> int:
    """How often `each` is in `total`, which may be a rounding error short."""
    return math.floor(total / each + 1e-6)


def _wait_for_start(name: str, actors: Sequence[Any]) -> None:
    """Until the processes of a pool run; somebody else may have what they need."""
    waiting = [actor.here.remote() for actor in actors]
    try:
        while waiting:
            started, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=SLOW_START_S)
            ray.get(started)
            if waiting:
                log.warning(
                    "pools: %d of the %d actors of %s wait for GPUs or CPUs that others are using",
                    len(waiting), len(actors), name,
                )  # fmt: skip
    except RayError as error:
        raise UserError(f"pools: an actor of {name} cannot start: {str(error).strip().splitlines()[-1]}") from error


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
        key = ".".join(map(str, ("pools", name, *problem["loc"])))
        if problem["type"] == "extra_forbidden":
            hint = nearest(str(problem["loc"][0]), PoolSettings.model_fields)
            raise UserError(f"unknown key {key!r} ({hint})") from error
        message = problem["msg"].removeprefix("Value error, ")
        raise UserError(f"{key}: {message} (got {problem['input']!r:.80})") from error
