"""Our tokenizers as the `tokenizers` library, and so `transformers`, writes them down."""

import json
from typing import Any

import tokenizers
from tokenizers import Regex, decoders, models, pre_tokenizers, processors

from gptjax.data.bpe import BPETokenizer
from gptjax.data.spelling import byte_of_letter
from gptjax.data.tokenizer import END_OF_TEXT, ByteTokenizer, CharTokenizer, Tokenizer
from gptjax.types import UserError


def library_json(tokenizer: Tokenizer) -> dict[str, Any]:
    """Returns the tokenizer.json of a tokenizer; raises UserError for a kind that the library has not."""
    if isinstance(tokenizer, BPETokenizer):
        library = tokenizers.Tokenizer.from_str(json.dumps(tokenizer.settings()["tokenizer"]))
    elif isinstance(tokenizer, ByteTokenizer):
        library = tokenizers.Tokenizer(models.BPE(vocab=byte_of_letter(), merges=[]))
        library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        library.decoder = decoders.ByteLevel()
        library.add_special_tokens([END_OF_TEXT])
    elif isinstance(tokenizer, CharTokenizer):
        library = tokenizers.Tokenizer(models.WordLevel({c: i for i, c in enumerate(tokenizer.characters)}))
        library.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
        library.decoder = decoders.Fuse()
    else:
        raise UserError(f"a tokenizer of kind {tokenizer.kind!r} cannot be written for the tokenizers library")
    begin = next((name for name, i in tokenizer.special_tokens.items() if i == tokenizer.bos_id), None)
    if begin is not None and library.post_processor is None:
        library.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A", pair=f"{begin} $A $B", special_tokens=[(begin, tokenizer.bos_id)]
        )
    return json.loads(library.to_str())
