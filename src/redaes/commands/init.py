"""`redaes init`: make a nano model from nothing, knowing the words of a dataset."""


def init(data: str, output: str, family: str = "qwen2_5_vl", seed: int = 0, hidden: int = 128, layers: int = 4) -> None:
    """Make a randomly initialised nano model as an ordinary checkpoint directory.

    Larger models need no such step: their configs name a checkpoint to start from.

    Args:
        data: dataset folder; the tokenizer is trained on its reasonings and instructions.
        output: checkpoint directory to write.
        family: real model class, qwen2_5_vl or qwen3_vl.
        seed: of the initial weights.
        hidden: width of the language part, a multiple of 32.
        layers: depth of the language part.
    """
    from redaes.data.manifest import Manifest
    from redaes.errors import UserError, nearest

    manifest = Manifest(data)
    if family not in ("qwen2_5_vl", "qwen3_vl"):
        raise UserError(f"unknown model family {family!r} ({nearest(family, ['qwen2_5_vl', 'qwen3_vl'])})")

    from redaes.models.nano import build_nano
    from redaes.models.vlm import export

    pairs = manifest.pairs("train")
    texts = [p.reasoning for p in pairs] + [p.edit.instruction.text for p in pairs]
    texts += [r.reasoning for r in manifest.sources("train")]
    model, processor = build_nano(texts, family, seed=seed, hidden=hidden, layers=layers)  # type: ignore[arg-type]
    path = export(model, processor, output)
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    print(f"{type(model).__name__} with {millions:.2f} M parameters, {len(processor.tokenizer)} tokens -> {path}")
