"""Models in GGUF files: names, shapes, values and config.json's fields; what is refused; what damage does."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("gguf", reason="the extra `interop` is not installed")

from gptjax.interop.gguf import LLAMA, LLAMA3, GGUFModel
from gptjax.interop.gguf_file import TYPES, library
from gptjax.types import UserError
from tests.unit.interop.gguf_files import HEADS, HIDDEN, KV_HEADS, SCORED, WIDTH, Q, gpt2, llama

CAN_BE_WRITTEN = ("F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1")


def pairs_of(rows, num_heads):
    """Hugging Face's halves as llama.cpp's adjacent pairs, the way its converter writes them."""
    halves = rows.reshape(num_heads, 2, rows.shape[0] // num_heads // 2, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_a_llama_or_qwen_model(tmp_path, architecture):
    file = llama(tmp_path / "model.gguf", architecture)
    model = GGUFModel(file.close())
    expected = {"model_type": architecture, "vocab_size": 12, "hidden_size": WIDTH, "intermediate_size": HIDDEN}
    expected |= {"num_hidden_layers": 1, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": 8}
    expected |= {"max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 5000.0, "rope_scaling": None}
    assert expected.items() <= model.config.items()
    assert model.config["tie_word_embeddings"] is True
    assert model.config["attention_bias"] is (architecture == "qwen2")
    assert len(model.names()) == len(file.written)
    for name, value in file.written.items():
        stem, kind = name.removeprefix("blk.0.").rsplit(".", 1)
        ours = f"{LLAMA[f'blk.N.{stem}' if name.startswith('blk') else stem].replace('N', '0')}.{kind}"
        assert model.shape(ours) == value.shape
        read = model.read(ours)
        assert read.dtype == np.float32
        if architecture == "llama" and stem in ("attn_q", "attn_k"):
            read = pairs_of(read, HEADS if stem == "attn_q" else KV_HEADS)
        np.testing.assert_array_equal(read, value)


def test_gpt2_keeps_its_matrices_transposed(tmp_path):
    file = gpt2(tmp_path / "model.gguf")
    model = GGUFModel(file.close())
    assert {"model_type": "gpt2", "n_embd": WIDTH, "n_head": HEADS, "n_layer": 1, "n_inner": HIDDEN}.items() <= (
        model.config.items()
    )
    assert model.config["n_positions"] == 16
    matrix = model.read("transformer.h.0.attn.c_attn.weight")
    assert matrix.shape == model.shape("transformer.h.0.attn.c_attn.weight") == (WIDTH, 3 * WIDTH)
    np.testing.assert_array_equal(matrix.T, file.written["blk.0.attn_qkv.weight"])
    np.testing.assert_array_equal(model.read("transformer.wte.weight"), file.written["token_embd.weight"])


@pytest.mark.parametrize("kind", CAN_BE_WRITTEN)
def test_packed_types_come_back(tmp_path, kind):
    """As the library unpacks them, and near what was packed."""
    file = llama(tmp_path / "model.gguf", kind=Q[kind], tokenizer=SCORED)
    model = GGUFModel(file.close())
    read = model.read("model.layers.0.mlp.down_proj.weight")
    np.testing.assert_array_equal(read, file.written["blk.0.ffn_down.weight"])
    # The embedding is made of the generator's first numbers.
    exact = np.random.default_rng(0).normal(size=model.shape("model.embed_tokens.weight")).astype(np.float32)
    error = np.abs(model.read("model.embed_tokens.weight") - exact).max()
    assert 0 < error < {"F16": 2e-3, "BF16": 2e-2, "Q8_0": 0.02}.get(kind, 0.4)


def test_the_table_of_types_is_what_the_library_unpacks():
    quants = library().quants
    for kind, (block, num_bytes) in library().GGML_QUANT_SIZES.items():
        try:
            unpacked = quants.dequantize(np.zeros((1, num_bytes), np.uint8), kind)
        except NotImplementedError:
            assert kind.name not in TYPES
        else:
            assert kind.name in TYPES
            assert unpacked.shape == (1, block)


def test_blocks_of_k_quants(tmp_path):
    """Random bytes of each type that cannot be written here, in a row of 256 values."""
    for kind in ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"):
        file = llama(tmp_path / f"{kind}.gguf")
        num_bytes = library().GGML_QUANT_SIZES[Q[kind]][1]
        packed = np.random.default_rng(1).integers(0, 60, (3, num_bytes)).astype(np.uint8)
        file.writer.add_tensor("output.weight", packed, raw_dtype=Q[kind])
        read = GGUFModel(file.close()).read("lm_head.weight")
        np.testing.assert_array_equal(read, library().quants.dequantize(packed, Q[kind]))
        assert read.shape == (3, 256)


def test_an_unsupported_type_is_named_with_those_that_are_not(tmp_path):
    file = llama(tmp_path / "model.gguf")
    file.writer.add_tensor("output.weight", np.zeros((3, 292), np.uint8), raw_dtype=Q.Q8_K)
    with pytest.raises(UserError, match=r"model\.gguf: the tensor 'output\.weight' is of the type Q8_K.* F32, F16"):
        GGUFModel(file.close())


def test_an_output_that_is_the_embedding_is_tied(tmp_path):
    """Old converters write it twice."""
    tied = llama(tmp_path / "tied.gguf")
    tied.tensor("output.weight", value=tied.written["token_embd.weight"])
    model = GGUFModel(tied.close())
    assert model.config["tie_word_embeddings"] is True
    assert "lm_head.weight" not in model.names()
    apart = GGUFModel(llama(tmp_path / "apart.gguf").tensor("output.weight", 12, WIDTH).close())
    assert apart.config["tie_word_embeddings"] is False
    assert "lm_head.weight" in apart.names()


def test_llama_3s_stretched_angles_are_found_by_their_results(tmp_path):
    frequencies = 500_000.0 ** (-np.arange(0, 8, 2) / 8)
    turns = 8192 * frequencies / (2 * np.pi)
    smooth = np.clip((turns - 1) / 3, 0, 1)
    divisors = (1 / ((1 - smooth) / 32 + smooth)).astype(np.float32)
    file = llama(tmp_path / "model.gguf", **{"rope.freq_base": 500_000.0})
    model = GGUFModel(file.tensor("rope_freqs.weight", value=divisors).close())
    assert model.config["rope_scaling"] == {"rope_type": "llama3", "factor": 32.0, **LLAMA3}
    other = llama(tmp_path / "other.gguf").tensor("rope_freqs.weight", value=np.array([1, 9, 2, 3], np.float32))
    with pytest.raises(UserError, match=r"rope_freqs\.weight .*Llama 3"):
        GGUFModel(other.close())


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}, {"rope_type": "linear", "factor": 4.0}),
        (
            {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 32},
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
        ),
    ],
)
def test_stretched_angles(tmp_path, more, expected):
    assert GGUFModel(llama(tmp_path / "model.gguf", **more).close()).config["rope_scaling"] == expected


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"block_count": 2}, "1 blocks and says 2"),
        ({"block_count": 2**31}, "1 blocks and says"),
        ({"attention.head_count": 8}, r"attn_k\.weight has 16 rows where 2 heads of 4 have 8"),
        ({"attention.head_count_kv": 4}, r"attn_k\.weight has 16 rows where 4 heads of 8 have 32"),
        ({"rope.dimension_count": 4}, "rotates 4 of 8 channels"),
        ({"context_length": 0}, r"llama\.context_length=0"),
        ({"context_length": "long"}, r"context_length='long', which is no int"),
    ],
)
def test_sizes_that_contradict_each_other(tmp_path, change, words):
    file = llama(tmp_path / "model.gguf", **change)
    with pytest.raises(UserError, match=words):
        GGUFModel(file.close())


def test_what_is_no_dense_model_of_a_known_family(tmp_path):
    with pytest.raises(UserError, match=r"other\.gguf is of the architecture 'mamba'; did you mean llama"):
        GGUFModel(llama(tmp_path / "other.gguf", "mamba").close())
    experts = llama(tmp_path / "experts.gguf").tensor("blk.0.ffn_gate_inp.weight", 4, WIDTH)
    with pytest.raises(UserError, match=r"blk\.0\.ffn_gate_inp\.weight"):
        GGUFModel(experts.close())
    part = llama(tmp_path / "part.gguf").values({"split.count": 3})
    with pytest.raises(UserError, match="one part of 3; join them"):
        GGUFModel(part.close())


def test_values_that_are_no_numbers(tmp_path):
    file = llama(tmp_path / "model.gguf").tensor("output.weight", value=np.full((12, WIDTH), np.nan, np.float32))
    model = GGUFModel(file.close())
    with pytest.raises(UserError, match=r"output\.weight holds values that are no numbers"):
        model.read("lm_head.weight")


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """The bytes of a whole file."""
    return llama(tmp_path_factory.mktemp("sound") / "model.gguf").close().read_bytes()


@pytest.mark.parametrize(
    ("at", "new", "words"),
    [
        (0, b"GGUM", "does not begin with GGUF"),
        (4, b"\x01\0\0\0", "version is 1"),
        (4, b"\0\0\0\x03", "big-endian"),
        (8, b"\xff" * 8, "tensor"),
        (16, b"\xff" * 8, "value"),
        (24, b"\xff" * 7 + b"\x7f", "the name of value 0 needs"),
    ],
)
def test_a_header_that_lies(sound, tmp_path, at, new, words):
    path = tmp_path / "model.gguf"
    path.write_bytes(sound[:at] + new + sound[at + len(new) :])
    with pytest.raises(UserError, match=words) as error:
        GGUFModel(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("name", ["missing.gguf", "empty.gguf", "folder"])
def test_what_is_no_file(tmp_path, name):
    (tmp_path / "empty.gguf").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=name):
        GGUFModel(tmp_path / name)


def test_tensors_do_not_share_their_bytes(sound, tmp_path):
    """Else a small file would hold a model of any size."""
    at = sound.index(b"output_norm.weight") + len("output_norm.weight") + 4 + 8 + 4
    path = tmp_path / "model.gguf"
    path.write_bytes(sound[:at] + bytes(8) + sound[at + 8 :])
    with pytest.raises(UserError, match="within another"):
        GGUFModel(path)


@settings(max_examples=150, deadline=2000)
@given(data=st.data())
def test_damage_is_a_user_error_quickly_and_in_little_memory(sound, tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "damaged.gguf"
    end = sound.index(b"blk.0.ffn_down.weight") + 60  # of the header
    content = bytearray(sound)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, end))
        new = data.draw(
            st.binary(min_size=1, max_size=8) | st.sampled_from([b"\xff" * 8, bytes(8), b"\xff\xff\xff\x7f"])
        )
        content[at : at + len(new)] = new
    path.write_bytes(content[: data.draw(st.integers(0, len(content)) | st.just(len(content)))])
    tracemalloc.start()
    try:
        model = GGUFModel(path)
        model.tokenizer()
        for name in model.names():
            assert model.read(name).shape == model.shape(name)
    except UserError:
        pass
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 20 * len(sound) + 2**20
