"""Block-sparse attention by FlexAttention, encoders, encoder-decoders and decoding, where only a GPU can show them."""

import pytest
import torch
from conftest import TINY

import zoo
from zoo.models.decoding import beam_search, generate
from zoo.runs.train import train
from zoo.testing.parts import part
from zoo.training.build import make_objective, make_task

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")]
ON_GPU = [word for word in TINY if not word.startswith("trainer.accelerator")]
CUDA = torch.device("cuda")


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("block", [16, 128])
def test_flex_attention_equals_the_dense_mask_and_so_do_its_gradients(causal, block):
    words = [
        "dim=128",
        "mixer.heads=4",
        "mixer.kv_heads=2",
        f"mixer.block={block}",
        "mixer.stride=3",
        "mixer.global_tokens=2",
    ]
    facts = {"dim": 128, "causal": causal, "max_len": 512}
    same_by_both("sparse_attention", "sparse attention", words, facts)


@pytest.mark.parametrize("block", [128, 256])
def test_moba_by_flex_attention_equals_the_dense_mask_and_so_do_its_gradients(block):
    words = ["dim=128", "mixer.heads=4", "mixer.kv_heads=2", f"mixer.block={block}", "mixer.top_k=2"]
    same_by_both("moba_attention", "block attention", words, {"dim": 128, "max_len": 512})


def same_by_both(name, about, words, facts):
    """Outputs and gradients of a layer by FlexAttention and by a dense mask."""
    flex, dense = (part("mixer", name, *words, f"mixer.backend={how}", **facts).cuda() for how in ("flex", "dense"))
    dense.load_state_dict(flex.state_dict())
    assert "FlexAttention" in flex.implementations(CUDA, torch.float32)[about]
    x = torch.randn(2, 512, 128, device=CUDA)
    outputs, gradients = [], []
    for mixer in (flex, dense):
        y, _ = mixer(x)
        y.square().sum().backward()
        outputs.append(y.detach())
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in mixer.parameters()]))
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-3, atol=1e-4)
    scale = gradients[1].abs().max()
    torch.testing.assert_close(gradients[0] / scale, gradients[1] / scale, rtol=0, atol=1e-3)


@pytest.mark.parametrize("words", [["arch=bert", "task=recall", "task.rung=tiny"], ["arch=vaswani", "task=sort"], ["arch=vit", "task=digits"], ["mixer=sparse_attention", "task=text", "task.test_windows=8"],
                                   ["arch=mamba", "task=reverse", "objective=sequence_to_sequence"], ["arch=vit", "task=digits", "position=rotary_2d"]], ids=" ".join)  # fmt: skip
@pytest.mark.parametrize("compiled", ["false", "true"])
def test_bodies_train_in_bfloat16(words, compiled, here):
    small = [] if {"task=digits", "task=text"} & set(words) else ["task.test_size=8"]
    row = train(zoo.compose(*words, *small, *ON_GPU, f"trainer.compile={compiled}"))
    assert row["precision"] == "bf16-mixed"


def test_decoding_on_a_gpu_writes_what_a_processor_writes():
    config = zoo.compose("arch=vaswani", "task=sort", "dim=32")
    task = make_task(config)
    model = make_objective(config, task).double().eval()
    batch = task.held_out("test")[0]
    sources = [row[mask].tolist() for row, mask in zip(batch["source"], batch["source_mask"], strict=True)][:8]
    ends = {"start": task.start, "end": task.end}
    expected = generate(model, sources, 13, **ends), beam_search(model, sources, 13, **ends, beams=3)
    model = model.cuda()
    assert generate(model, sources, 13, **ends) == expected[0]
    hypotheses = beam_search(model, sources, 13, **ends, beams=3)
    assert [[row for row, _ in rows] for rows in hypotheses] == [[row for row, _ in rows] for rows in expected[1]]


def test_hidden_tokens_are_drawn_on_the_gpu_without_waiting():
    config = zoo.compose("arch=bert", "task=text", "dim=32")
    task = make_task(config)
    model = make_objective(config, task).cuda().train()
    batch = task.train_batch(0, 0, CUDA)
    model(batch)
    torch.cuda.set_sync_debug_mode("error")
    try:
        model(batch)["loss"]
    finally:
        torch.cuda.set_sync_debug_mode("default")
