"""The nano presets: the real model classes at about 1-3 million parameters, made from nothing in a second.

`Qwen2_5_VLForConditionalGeneration` and `Qwen3VLForConditionalGeneration` with narrow, shallow configurations, a
byte-level BPE tokenizer trained on the prompts and on the dataset's own words, and a chat template in Qwen's format.
What is written to disk is an ordinary checkpoint directory: the loader that opens it opens a 7B directory too.
Digits are single tokens, so that a score is spelt the same way whatever its neighbours.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

from redaes.prompts import render

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from redaes.models.processor import VisionTextProcessor

Family = Literal["qwen2_5_vl", "qwen3_vl"]

SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
VISION_TOKENS = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
ANSWER_TAGS = ["<think>", "</think>", "<answer>", "</answer>"]
IMAGE_SIZE: dict[Family, int] = {"qwen2_5_vl": 112, "qwen3_vl": 128}

CHAT_TEMPLATE = (
    "{%- set pictures = namespace(count=0) %}"
    "{%- for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{%- if message['content'] is string %}{{ message['content'] }}"
    "{%- else %}{%- for part in message['content'] %}"
    "{%- if part['type'] == 'image' %}{%- set pictures.count = pictures.count + 1 %}"
    "{%- if add_vision_id %}{{ 'Picture ' ~ pictures.count ~ ': ' }}{%- endif %}"
    "{{ '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{%- else %}{{ part['text'] }}{%- endif %}{%- endfor %}{%- endif %}"
    "{{ '<|im_end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{%- endif %}"
)


def train_tokenizer(texts: Iterable[str], vocab_size: int = 1024) -> "PreTrainedTokenizerFast":
    """A byte-level BPE tokenizer over the prompts and `texts`; any other text still encodes, as bytes."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    corpus = [render(q) for q in ("score", "compare", "predict_edit")] * 50 + ["user\n", "assistant\n"] * 50
    tokenizer = Tokenizer(models.BPE())
    # Words with their leading blank, single digits, punctuation one by one, runs of white space.
    pattern = Regex(r" ?\p{L}+|\d| ?[^\s\p{L}\d]|\s+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(pattern, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(VISION_TOKENS) - len(ANSWER_TAGS),
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*corpus, *texts], trainer)
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in VISION_TOKENS])
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in ANSWER_TAGS])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=VISION_TOKENS,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def _token_ids(tokenizer: "PreTrainedTokenizerFast") -> dict[str, int]:
    names = {
        "image_token_id": "<|image_pad|>",
        "video_token_id": "<|video_pad|>",
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
    }
    return {key: int(tokenizer.convert_tokens_to_ids(token)) for key, token in names.items()}


def nano_config(family: Family, tokenizer: "PreTrainedTokenizerFast", hidden: int, layers: int, vision: int) -> Any:
    """The configuration of one nano model; everything not named here is the family's own default."""
    from transformers import Qwen2_5_VLConfig, Qwen3VLConfig

    heads = hidden // 32
    text: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": hidden,
        "intermediate_size": hidden * 5 // 2,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": max(1, heads // 2),
        "max_position_embeddings": 4096,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
    }
    tower: dict[str, Any] = {
        "depth": 3,
        "hidden_size": vision,
        "num_heads": vision // 32,
        "intermediate_size": vision * 2,
        "out_hidden_size": hidden,
        "patch_size": 14,
    }
    common = {"text_config": text, "vision_config": tower, "tie_word_embeddings": True, **_token_ids(tokenizer)}
    if family == "qwen2_5_vl":
        tower |= {"fullatt_block_indexes": [2], "window_size": 112}
        return Qwen2_5_VLConfig(**common)
    text |= {"head_dim": 32}
    text["rope_parameters"]["mrope_interleaved"] = True
    tower |= {"patch_size": 16, "deepstack_visual_indexes": [0, 1], "num_position_embeddings": 64}
    return Qwen3VLConfig(**common)


def _initialise(model: "PreTrainedModel") -> None:
    """Weights of deviation 1 / sqrt(inputs), half of it where a branch joins the residual stream.

    transformers draws every weight with deviation 0.02, made for widths of thousands; in a narrow model it leaves
    the image all but invisible to the language part, which then learns the prior of the answers and nothing else.
    """
    import torch

    joins = ("o_proj", "down_proj", "attn.proj", "linear_fc2")
    for name, weight in model.named_parameters():
        if weight.dim() >= 2 and "embed_tokens" not in name and "pos_embed" not in name:
            scale = 0.5 if any(join in name for join in joins) else 1.0
            torch.nn.init.normal_(weight, std=scale / weight[0].numel() ** 0.5)


def build_nano(
    texts: Iterable[str],
    family: Family = "qwen2_5_vl",
    *,
    seed: int = 0,
    hidden: int = 128,
    layers: int = 4,
    vision: int = 96,
    vocab_size: int = 1024,
) -> "tuple[PreTrainedModel, VisionTextProcessor]":
    """A freshly initialised nano model and its processor.

    Args:
        texts: what the tokenizer should know: reasonings and instructions of a dataset.
        family: which real model class.
        seed: of the initial weights.
        hidden: width of the language part, a multiple of 32.
        layers: depth of the language part.
        vision: width of the vision tower, a multiple of 32.
        vocab_size: size of the tokenizer's vocabulary, at least 300.
    """
    import torch
    from transformers import AutoModelForImageTextToText, Qwen2VLImageProcessorPil

    from redaes.models.processor import VisionTextProcessor

    tokenizer = train_tokenizer(texts, vocab_size)
    config = nano_config(family, tokenizer, hidden, layers, vision)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
        _initialise(model)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    image_processor = Qwen2VLImageProcessorPil(
        patch_size=config.vision_config.patch_size,
        merge_size=config.vision_config.spatial_merge_size,
        temporal_patch_size=config.vision_config.temporal_patch_size,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    return model, VisionTextProcessor(tokenizer, image_processor, IMAGE_SIZE[family])
