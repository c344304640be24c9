"""What can be known to be wrong before the first call is paid for: keys that are not there, limits of no endpoint."""

import difflib
import logging
import os

from redaes.engine.config import EngineConfig
from redaes.engine.stages import Crew
from redaes.errors import UserError, nearest

log = logging.getLogger(__name__)


def check_before_paying(crew: Crew, config: EngineConfig) -> None:
    """See that every key is set and that limits are meant for somebody.

    A name under `flow.limits` that nobody has is a misspelling if it is near an endpoint without limits; else it may
    be of a plug-in that was taken out, and is only told.

    Raises:
        UserError: keys are missing, all of which are named; or an endpoint under `flow.limits` is misspelt.
    """
    plugins = [member.plugin for member in crew.members(config)]
    wanted = {getattr(plugin, "key_variable", "") or "" for plugin in plugins} - {""}
    missing = sorted(name for name in wanted if not os.environ.get(name, "").strip())
    if missing:
        raise UserError(
            f"no key in the environment: set {', '.join(missing)}, or key_variable to '' where none is wanted"
        )
    endpoints = {getattr(plugin, "endpoint", "") or "" for plugin in plugins} - {""}
    for name in sorted(config.flow.limits.keys() - endpoints):
        if difflib.get_close_matches(name, endpoints - config.flow.limits.keys(), n=1, cutoff=0.8):
            raise UserError(f"flow.limits: no plug-in asks {name!r} ({nearest(name, endpoints)})")
        log.warning("flow.limits: no plug-in asks %r", name)
