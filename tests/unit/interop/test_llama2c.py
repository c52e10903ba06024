"""llama2.c's files: the order of tensors, rotary pairs, the tokenizer, and what damage does."""

import os
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptjax.interop.llama2c import Llama2CModel, read_tokenizer
from gptjax.types import UserError

DIM, HIDDEN, LAYERS, HEADS, KV_HEADS, VOCAB, SEQ_LEN = 8, 12, 2, 2, 1, 264, 6
HEAD = DIM // HEADS
PER_LAYER = {
    "input_layernorm": (DIM,),
    "self_attn.q_proj": (DIM, DIM),
    "self_attn.k_proj": (HEAD * KV_HEADS, DIM),
    "self_attn.v_proj": (HEAD * KV_HEADS, DIM),
    "self_attn.o_proj": (DIM, DIM),
    "post_attention_layernorm": (DIM,),
    "mlp.gate_proj": (HIDDEN, DIM),
    "mlp.down_proj": (DIM, HIDDEN),
    "mlp.up_proj": (HIDDEN, DIM),
}
WORDS = {" ": -9.0, "a": -8.0, "b": -7.0, " a": -2.0, "ab": -1.0}


def model_bytes(shared=True, seed=0):
    """A file as llama2.c reads it: one array after the other, each kind for all layers at once."""
    random = np.random.default_rng(seed)
    arrays = {"tok_embeddings": random.normal(size=(VOCAB, DIM)).astype("<f4")}
    for name, shape in PER_LAYER.items():
        arrays[name] = random.normal(size=(LAYERS, *shape)).astype("<f4")
    arrays["norm"] = random.normal(size=DIM).astype("<f4")
    arrays["freq_cis"] = np.zeros((2, SEQ_LEN, HEAD // 2), "<f4")
    if not shared:
        arrays["wcls"] = random.normal(size=(VOCAB, DIM)).astype("<f4")
    header = struct.pack("<7i", DIM, HIDDEN, LAYERS, HEADS, KV_HEADS, VOCAB if shared else -VOCAB, SEQ_LEN)
    return header + b"".join(array.tobytes() for array in arrays.values()), arrays


def tokenizer_bytes(words=WORDS):
    tokens = [("<unk>", 0.0), ("\n<s>\n", 0.0), ("\n</s>\n", 0.0), *((f"<0x{i:02X}>", 0.0) for i in range(256))]
    packed = [struct.pack("<fi", score, len(t.encode())) + t.encode() for t, score in [*tokens, *words.items()]]
    return struct.pack("<i", 7) + b"".join(packed)


def write(folder, content, name="model.bin"):
    (folder / name).write_bytes(content)
    return folder / name


@pytest.mark.parametrize("shared", [True, False])
def test_tensors_are_found_by_their_order(tmp_path, shared):
    content, arrays = model_bytes(shared)
    model = Llama2CModel(write(tmp_path, content))
    assert model.config["tie_word_embeddings"] is shared
    assert model.config["vocab_size"] == VOCAB
    assert len(model.names()) == 2 + 9 * LAYERS + (not shared)
    np.testing.assert_array_equal(model.read("model.embed_tokens.weight"), arrays["tok_embeddings"])
    np.testing.assert_array_equal(model.read("model.norm.weight"), arrays["norm"])
    if not shared:
        np.testing.assert_array_equal(model.read("lm_head.weight"), arrays["wcls"])
    for layer in range(LAYERS):
        for name, shape in PER_LAYER.items():
            ours, theirs = f"model.layers.{layer}.{name}.weight", arrays[name][layer]
            assert model.shape(ours) == shape
            if name[-6] in "qk":
                heads = theirs.reshape(-1, HEAD, DIM)
                theirs = np.concatenate([heads[:, 0::2], heads[:, 1::2]], axis=1).reshape(shape)
            np.testing.assert_array_equal(model.read(ours), theirs)


def test_the_tokenizer(tmp_path):
    model = Llama2CModel(write(tmp_path, model_bytes()[0]), write(tmp_path, tokenizer_bytes(), "tok.bin"))
    tokenizer = model.tokenizer()
    assert (tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_id) == (VOCAB, 1, 1)
    assert [tokenizer.pieces[i] for i in tokenizer.encode("ab\n")] == [b" ", b"ab", b"\n"]
    assert tokenizer.decode(tokenizer.encode("ab\n<s>é")) == "ab\n<s>é"


def test_a_model_needs_its_tokenizer(tmp_path):
    model = Llama2CModel(write(tmp_path, model_bytes()[0]))
    with pytest.raises(UserError, match=r"model\.bin needs .*tok512\.bin"):
        model.tokenizer()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "0 bytes"),
        (struct.pack("<7i", 0x616B3432, 1, 0, 0, 0, 0, 0), "version 1; export it as version 0"),
        (struct.pack("<7i", 8, 12, 2, 3, 1, 9, 6), "n_heads=3"),
        (struct.pack("<7i", 8, 12, 2, 2, 1, 0, 6), "vocab_size=0"),
        (struct.pack("<7i", *[2**31 - 2] * 7), "header says"),
        (model_bytes()[0][:-4], r"its header says"),
        (model_bytes()[0] + bytes(4), r"its header says"),
    ],
)
def test_what_is_no_model(tmp_path, content, words):
    with pytest.raises(UserError, match=rf"model\.bin .*{words}"):
        Llama2CModel(write(tmp_path, content))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (tokenizer_bytes()[:100], "too few for 264"),
        (tokenizer_bytes()[:-1], "token 263 has length 2"),
        (tokenizer_bytes() + b"x", "more than the model's 264"),
        (tokenizer_bytes({**WORDS, "c": 0.0}), "more than the model's 264"),
        (tokenizer_bytes().replace(b"ab", b"\xff\xff"), "token 263 is no UTF-8"),
        (tokenizer_bytes().replace(b"<unk>", b"<pad>"), "begins with"),
        (tokenizer_bytes().replace(b"<0x0A>", b"<0x0B>"), r"13 and 14 are both '<0x0B>'"),
    ],
)
def test_what_is_no_tokenizer(tmp_path, content, words):
    with pytest.raises(UserError, match=rf"tok\.bin.* {words}"):
        read_tokenizer(write(tmp_path, content, "tok.bin"), VOCAB)


@settings(max_examples=150, deadline=2000)
@given(data=st.data(), of_tokenizer=st.booleans())
def test_damage_is_a_user_error_quickly_and_in_little_memory(tmp_path_factory, data, of_tokenizer):
    sound = tokenizer_bytes() if of_tokenizer else model_bytes()[0]
    content = bytearray(sound)
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(content) if of_tokenizer else 40))
        new = data.draw(st.binary(min_size=1, max_size=8) | st.sampled_from([b"\xff" * 4, b"\xff\xff\xff\x7f"]))
        content[at : at + len(new)] = new
    path = tmp_path_factory.getbasetemp() / "damaged.bin"
    path.write_bytes(content[: data.draw(st.just(len(content)) | st.integers(0, len(content)))])
    tracemalloc.start()
    try:
        if of_tokenizer:
            tokenizer = read_tokenizer(path, VOCAB)
            assert tokenizer.decode(tokenizer.encode("ab <s>")) == "ab <s>"
        else:
            model = Llama2CModel(path)
            for name in model.names():
                assert model.read(name).shape == model.shape(name)
    except UserError:
        pass
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 20 * len(sound) + 2**20


@pytest.mark.skipif("GPTJAX_DATA" not in os.environ, reason="GPTJAX_DATA is not set: no real model at hand")
def test_the_model_of_260_thousand_parameters():
    folder = Path(os.environ["GPTJAX_DATA"]) / "model" / "stories260K"
    model = Llama2CModel(folder / "stories260K.bin", folder / "tok512.bin")
    assert sum(model.read(name).size for name in model.names()) == 260_032
    assert model.tokenizer().encode("Once upon a time").tolist() == [403, 407, 261, 378]
