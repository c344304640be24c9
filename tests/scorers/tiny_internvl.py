"""Checkpoints that run their own code, as InternVL's do: a few thousand random weights, written on the spot.

Two forms of one model. `hub`: the code that lies beside ArtiMuse's weights on the Hub, InternVL's `chat`. `repository`:
the code of the authors' repositories, where `chat` takes a device first and a `score` is added. Neither calls
`post_init`, as code written for transformers 4 does not.
"""

import json
from pathlib import Path

from redaes.scorers.remote_code import TOKENS

CONFIGURATION = """
from transformers import PretrainedConfig


class InternVLChatConfig(PretrainedConfig):
    model_type = "internvl_chat"

    def __init__(self, vocab_size=0, **kwargs):
        super().__init__(**kwargs)
        self.vocab_size = vocab_size
"""
MODEL = """
import torch
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from .configuration_internvl_chat import InternVLChatConfig


class InternVLChatModel(PreTrainedModel):
    config_class = InternVLChatConfig
    num_image_token = 4

    def __init__(self, config):
        super().__init__(config)
        text = Qwen2Config(
            vocab_size=config.vocab_size, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
            num_attention_heads=2, num_key_value_heads=2, tie_word_embeddings=False,
        )
        self.language_model = Qwen2ForCausalLM(text)
        self.mlp1 = torch.nn.Linear(3 * 16 * 16, 16)

    def extract_feature(self, pixel_values):
        patches = torch.nn.functional.adaptive_avg_pool2d(pixel_values, 32).unfold(2, 16, 16).unfold(3, 16, 16)
        return self.mlp1(patches.permute(0, 2, 3, 1, 4, 5).reshape(len(pixel_values), 4, -1))

    def embedded(self, tokenizer, pixel_values, question):
        if "<image>" not in question:
            question = "<image>\\n" + question
        query = f"<|im_start|>user\\n{question}<|im_end|>\\n<|im_start|>assistant\\n"
        query = query.replace("<image>", "<img>" + "<IMG_CONTEXT>" * self.num_image_token + "</img>", 1)
        ids = tokenizer(query, return_tensors="pt")["input_ids"]
        embeddings = self.language_model.get_input_embeddings()(ids)
        embeddings[ids == tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>")] = self.extract_feature(pixel_values)[0]
        return embeddings

    def _chat(self, tokenizer, pixel_values, question, generation_config):
        generation_config["eos_token_id"] = tokenizer.convert_tokens_to_ids("<|im_end|>")
        embeddings = self.embedded(tokenizer, pixel_values, question)
        mask = torch.ones(embeddings.shape[:2], dtype=torch.long)
        written = self.language_model.generate(
            inputs_embeds=embeddings, attention_mask=mask, use_cache=True, **generation_config
        )
        return tokenizer.batch_decode(written, skip_special_tokens=True)[0]
"""
HUB = """
    def chat(self, tokenizer, pixel_values, question, generation_config, history=None, return_history=False):
        return self._chat(tokenizer, pixel_values, question, generation_config)
"""
REPOSITORY = """
    def chat(self, device, tokenizer, pixel_values, question, generation_config, history=None, return_history=False):
        return self._chat(tokenizer, pixel_values, question, generation_config)

    def score(self, device, tokenizer, pixel_values, generation_config, desc="aesthetics", history=None):
        return {answer}
"""


def write_tiny_internvl(folder: Path, form: str = "hub", answer: str = "{'aesthetics': 62.5, 'quality': 10.0}[desc]"):
    """A checkpoint directory.

    Args:
        folder: where.
        form: hub or repository.
        answer: an expression of Python's, what the repository's `score` returns.
    """
    import torch
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    folder.mkdir()
    special = ["<img>", "</img>", "<IMG_CONTEXT>", "<|im_start|>", "<|im_end|>"]
    words = ["[UNK]", *TOKENS, "Rate", "aesthetics", "score", "answer", *map(str, range(101))]
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", eos_token="<|im_end|>")
    wrapped.add_special_tokens({"additional_special_tokens": special})
    wrapped.save_pretrained(folder)
    code = MODEL + (HUB if form == "hub" else REPOSITORY.replace("{answer}", answer))
    (folder / "configuration_internvl_chat.py").write_text(CONFIGURATION)
    (folder / "modeling_internvl_chat.py").write_text(code)
    names = {
        "AutoConfig": "configuration_internvl_chat.InternVLChatConfig",
        "AutoModel": "modeling_internvl_chat.InternVLChatModel",
    }
    config = {"model_type": "internvl_chat", "vocab_size": len(wrapped), "auto_map": names}
    (folder / "config.json").write_text(json.dumps(config))
    configuration = get_class_from_dynamic_module(names["AutoConfig"], folder)
    torch.manual_seed(0)
    model = get_class_from_dynamic_module(names["AutoModel"], folder)(configuration(vocab_size=len(wrapped)))
    with torch.no_grad():
        model.language_model.lm_head.weight.mul_(60)
    save_file(
        {key: value.to(torch.bfloat16).contiguous() for key, value in model.state_dict().items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    return folder
