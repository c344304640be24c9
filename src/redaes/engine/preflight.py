"""What can be known to be wrong before the first call is paid for: keys and addresses not there, limits of nobody."""

import difflib
import logging
import os
from collections.abc import Iterable

from redaes.engine.config import EngineConfig
from redaes.engine.stages import Crew
from redaes.errors import UserError, nearest

log = logging.getLogger(__name__)


def check_before_paying(crew: Crew, config: EngineConfig) -> None:
    """See that every key and every address is set and that limits are meant for somebody.

    A name under `flow.limits` that nobody has is a misspelling if it is near an endpoint without limits; else it may
    be of a plug-in that was taken out, and is only told.

    Raises:
        UserError: keys or addresses are missing, all of which are named; an endpoint of `flow.limits` is misspelt.
    """
    plugins = [member.plugin for member in crew.members(config)]
    missing = _unset(getattr(plugin, "key_variable", "") or "" for plugin in plugins)
    if missing:
        raise UserError(
            f"no key in the environment: set {', '.join(missing)}, or key_variable to '' where none is wanted"
        )
    addresses = [getattr(plugin, "base_url", "") or "" for plugin in plugins]
    missing = _unset(address[1:] for address in addresses if address.startswith("$"))
    if missing:
        raise UserError(f"no address in the environment: set {', '.join(missing)} to where the models are served")
    endpoints = {getattr(plugin, "endpoint", "") or "" for plugin in plugins} - {""}
    for name in sorted(config.flow.limits.keys() - endpoints):
        if difflib.get_close_matches(name, endpoints - config.flow.limits.keys(), n=1, cutoff=0.8):
            raise UserError(f"flow.limits: no plug-in asks {name!r} ({nearest(name, endpoints)})")
        log.warning("flow.limits: no plug-in asks %r", name)


def _unset(names: Iterable[str]) -> list[str]:
    """Those of these environment variables that hold nothing."""
    return sorted({name for name in names if name and not os.environ.get(name, "").strip()})
