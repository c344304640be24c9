"""A small build whose judges, instructor, verifiers and editors are all models of the loopback server."""

from typing import Any

OPENAI_URL, ANTHROPIC_URL, KEY = "REDAES_TEST_OPENAI_URL", "REDAES_TEST_ANTHROPIC_URL", "REDAES_TEST_KEY"
"""Environment variables: addresses change from run to run, and are kept out of the dataset by their names."""

PATIENT = {"transient": 12, "unusable": 1, "base_seconds": 0.05, "max_seconds": 0.4, "breaker_seconds": 0.2}
"""Retries that suit a server which is not really overloaded. With so few tries for an unusable answer some calls are
given up, and `redaes data retry` has something to do."""


def environment(address: str, key: str = "no-key-is-wanted") -> dict[str, str]:
    """What the configuration reads from the environment."""
    return {OPENAI_URL: f"{address}/v1", ANTHROPIC_URL: address, KEY: key}


def configuration(sources: int = 8, timeout: float = 10.0, retries: dict[str, Any] | None = None) -> dict[str, Any]:
    """Of `redaes data build`: OpenAI's protocol, Anthropic's, and both routes of an images endpoint.

    Args:
        sources: for training; a quarter of them gets a group.
        timeout: seconds that a client waits.
        retries: of the flow.
    """

    def plugin(name: str, model: str, **settings: Any) -> dict[str, Any]:
        url = ANTHROPIC_URL if name == "anthropic" else OPENAI_URL
        known = {"base_url": f"${url}", "key_variable": KEY, "timeout": timeout, "model": model}
        return {"class_path": name, "init_args": {**known, **settings}}

    judges = [plugin("openai_compatible", "qwen3-vl"), plugin("openai_compatible", "gpt-5")]
    return {
        "source": {"class_path": "skimage", "init_args": {"names": ["astronaut", "chelsea", "coffee"]}},
        "split": {"test": ["coffee"], "validation": []},
        "sources": {"train": sources, "validation": 0, "test": 1, "size": 64},
        "instructor": plugin("openai_compatible", "qwen3-vl"),
        "editors": [
            plugin("images_api", "gpt-image-1"),
            plugin("images_api", "seedream", route="generations", parameters={"response_format": "b64_json"}),
        ],
        "verifiers": [plugin("openai_compatible", "qwen2.5-vl"), plugin("openai_compatible", "gpt-5")],
        "judges": [*judges, plugin("anthropic", "claude-opus-4")],
        "verification": {"min_passing": 1},
        "groups": {"train": sources // 4, "instructions": 4, "max_variants": 4, "min_variants": 1},
        "calibration": 4,
        "flow": {"in_flight": 16, "retries": {**PATIENT, **(retries or {})}},
    }
