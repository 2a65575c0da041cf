"""The cost of use: fits and crossings on times that are known, and the command."""

import ctypes
import json
import mmap
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import appearance_of, assert_fits, needs_browser

import zoo
from zoo.models.speed import Curve, Point, crossings, decoder, measure, said
from zoo.nn import state_bytes

CPU = torch.device("cpu")
LENGTHS = (64, 128, 256, 512, 1024, 2048)


def curve(name, function):
    """Times that are exactly this function of the length, with a little that is not, the same above and below."""
    points = [
        Point(n, [function(n) * x for x in (0.9, 1, 1.1)], [function(n) * x for x in (0.8, 1, 1.3)]) for n in LENGTHS
    ]
    return Curve(name, 1, points)


def test_a_fit_finds_what_the_times_were_made_of():
    coefficients = curve("a", lambda n: 1e-3 + 2e-6 * n + 3e-9 * n * n).fit("prefill")
    assert coefficients == pytest.approx((1e-3, 2e-6, 3e-9), rel=1e-6)
    assert min(curve("b", lambda n: 5e-3 - 1e-6 * n).fit("decode")) >= 0  # nothing takes negative time


def test_exponents_are_slopes():
    assert curve("a", lambda n: 4e-9 * n**2).exponent("prefill") == pytest.approx(2)
    assert curve("b", lambda n: 1e-6 * n).exponent("decode") == pytest.approx(1)
    assert curve("c", lambda n: 1e-3).exponent("decode") == pytest.approx(0)
    short = curve("d", lambda n: n)
    short.points = short.points[:2]
    assert short.exponent("decode") is None


def test_crossings_are_where_the_times_are_equal():
    attention, recurrent = curve("attention", lambda n: 1e-8 * n * n), curve("recurrent", lambda n: 1e-5 * n)
    (crossing,) = crossings([attention, recurrent], "prefill")
    assert crossing.length == pytest.approx(1000, rel=1e-4)
    assert crossing.ahead == "recurrent"
    (turned,) = crossings([recurrent, attention], "prefill")
    assert turned.ahead == "recurrent"
    (never,) = crossings([curve("slow", lambda n: 1e-3), curve("fast", lambda n: 1e-4)], "decode")
    assert never.length is None
    assert never.ahead == "fast"
    assert crossing.interval[0] <= crossing.length <= crossing.interval[1]


def test_equals_are_not_told_apart():
    """Two models of the same speed, timed with 5 % of noise: few are named, and a real crossing has an interval."""
    source, named = np.random.default_rng(0), 0

    def noisy(name, make):
        lengths = (128, 512, 2048, 8192)
        points = [Point(n, [], (make(n) * np.exp(0.05 * source.normal(size=9))).tolist()) for n in lengths]
        return Curve(name, 1, points)

    for _ in range(20):
        (each,) = crossings([noisy("a", lambda n: 1e-3), noisy("b", lambda n: 1e-3)], "decode")
        named += bool(each.ahead)
    assert named <= 4
    pair = [noisy("grows", lambda n: 1e-4 + 5e-7 * n), noisy("flat", lambda n: 1e-3)]
    (met,) = crossings(pair, "decode")
    assert met.ahead == "flat"
    assert met.interval[0] < met.length < met.interval[1]
    assert met.interval[0] < 1800 < met.interval[1]


def test_every_claim_of_speed_has_an_interval():
    """3.09 ± 0.42 against 3.3 ± 0.84 milliseconds are not told apart; who is ahead throughout is so at every length."""
    source = np.random.default_rng(1)

    def timed(name, middles, half):
        points = [
            Point(n, [], (m + half * source.normal(size=7)).tolist()) for n, m in zip(LENGTHS, middles, strict=True)
        ]
        return Curve(name, 1, points)

    one, other = timed("one", [3.09] * 6, 0.6), timed("other", [3.3] * 6, 1.2)
    (crossing,) = crossings([one, other], "decode")
    assert not crossing.ahead
    assert crossing.ratio_interval[0] <= 1 <= crossing.ratio_interval[1]
    assert re.fullmatch(
        r"(one|other) and (?!\1)(one|other) are not told apart at 2,048 tokens: \1 takes [\d.]+ times \([\d.]+ to [\d.]+\) as long",
        said(crossing, LENGTHS),
    )
    (crossing,) = crossings([timed("slow", [4.0] * 6, 0.05), timed("fast", [2.0] * 6, 0.05)], "decode")
    text = said(crossing, LENGTHS)
    assert re.match(r"fast is 2(\.\d+)? times \(1\.\d+ to 2\.\d+\) as fast as slow at 2,048 tokens", text), text
    assert text.endswith("and faster at every length that was measured")
    near = timed("near", [2.0, 2.0, 2.0, 2.9, 3.9, 3.9], 0.05)
    (crossing,) = crossings([near, timed("fast", [2.0] * 6, 0.05)], "decode")
    assert crossing.apart_from == 512
    assert "told apart from 512 tokens on" in said(crossing, LENGTHS)
    assert "throughout" not in said(crossing, LENGTHS)
    assert re.fullmatch(r"-?[\d.]+ \(-?[\d.]+ to -?[\d.]+\)", one.exponent_said("decode"))
    low, high = one.exponent_interval("decode")
    assert low < one.exponent("decode") < high


def test_models_are_timed_by_turns_and_their_states_measured(monkeypatch):
    models = {
        name: decoder([f"arch={name}", "task=text", "dim=16", "layers=1"], 48) for name in ("transformer", "lstm")
    }
    monkeypatch.setattr("zoo.models.speed.PEAKS", 0)  # its passes are not timed, and come in no order of turns
    seen = []
    for name, model in models.items():
        original = model.step
        monkeypatch.setattr(
            model,
            "step",
            lambda x, state, name=name, original=original: (seen.append((name, x.shape[1])), original(x, state))[1],
        )
    curves = measure(models, (8, 32), rounds=4, vocab_size=256, device=CPU)
    assert [[len(point.prefill) for point in each.points] for each in curves] == [[4, 4], [4, 4]]
    assert all(seconds > 0 for each in curves for point in each.points for seconds in (*point.prefill, *point.decode))
    contexts = [turn for turn in seen if turn[1] > 1]
    assert len(contexts) == 5 * 4  # one round warms up
    for start in range(0, 20, 4):  # every round has each contestant at each length, not all of one after another
        assert sorted(contexts[start : start + 4]) == [
            ("lstm", 8),
            ("lstm", 32),
            ("transformer", 8),
            ("transformer", 32),
        ]
    assert len({tuple(contexts[start : start + 4]) for start in range(0, 20, 4)}) > 1
    for each in curves:
        for point in each.points:
            assert point.state_bytes == state_bytes(
                models[each.contestant].init_state(1, point.length, CPU, torch.float32)
            )
    attention, lstm = ([point.state_bytes for point in each.points] for each in curves)
    assert attention[1] == 4 * attention[0]
    assert lstm[0] == lstm[1]


def test_a_peak_above_that_of_a_longer_context_is_measured_again(monkeypatch):
    from zoo.models import speed

    now, readings, taken = [], {8: [900, 120, 110], 16: [200], 32: [300, 301, 299, 305], 64: [290, 305]}, []

    class Fake:
        def __init__(self, accelerator):
            pass

        def read(self):
            taken.append(now[-1])
            return readings[now[-1]].pop(0)

    monkeypatch.setattr(speed, "Peak", Fake)
    monkeypatch.setattr(speed, "_once", lambda model, point, *rest: now.append(point.length))
    curve = Curve("a", 1, [Point(length) for length in (8, 16, 32, 64)])
    speed._measure_peaks(None, curve, 256, torch.device("cpu"))
    assert taken[:4] == [8, 16, 32, 64]
    assert taken[4:6] == [8, 32], "those alone that are above a longer one's"
    assert taken[6:] == [32, 32], "until its turns are over"
    assert [point.peak_bytes for point in curve.points] == [120, 200, 299, 290]


def block_the_heap():
    """Map a page behind the heap, so that glibc cannot shorten it again."""
    libc = ctypes.CDLL(None)
    libc.sbrk.restype = libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    end = -(-libc.sbrk(0) // mmap.PAGESIZE) * mmap.PAGESIZE
    libc.mmap(end, mmap.PAGESIZE, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)


def peaks_of_a_step_that_holds_a_mebibyte_a_token():
    model = decoder(["arch=transformer", "task=text", "dim=16", "layers=1"], 80)
    original = model.step
    held = []

    def step(x, state):
        held.append(torch.ones(x.shape[1], 2**18))  # a mebibyte a token, gone with the next call
        del held[:-1]
        return original(x, state)

    model.step = step
    (curve,) = measure({"held": model}, (8, 64), 3, 256, CPU)
    return [point.peak_bytes for point in curve.points]


def peaks_three_times():
    peaks = []
    for _ in range(3):
        pieces = [torch.ones(2**13) for _ in range(300)]  # 10 MB, which stay with the process
        del pieces
        peaks.append(peaks_of_a_step_that_holds_a_mebibyte_a_token())
    return peaks


def peaks_where_glibc_keeps_what_is_freed():
    """As a process begins, from another thread, whose heap is another, and where the heap cannot be shortened."""
    first = peaks_three_times()
    torch.ones(30, 2**18)  # once it is freed, glibc takes tensors of up to its size from the heap
    with ThreadPoolExecutor(1) as thread:
        other = thread.submit(peaks_three_times).result()
    block_the_heap()
    return [*first, *other, *peaks_three_times()]


@pytest.mark.thorough
@pytest.mark.skipif(sys.platform != "linux", reason="the system tells no peak of memory")
def test_the_peak_of_memory_is_that_of_reading_and_writing():
    """In a process of its own, as a user has it, and whose heap nobody wants again."""
    code = "import json, test_measure; print(json.dumps(test_measure.peaks_where_glibc_keeps_what_is_freed()))"
    where = {"cwd": Path(__file__).parent, "env": {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, **where)
    assert done.returncode == 0, done.stderr
    for few, many in json.loads(done.stdout):
        assert 8 * 2**20 <= few < 24 * 2**20
        assert 64 * 2**20 <= many < 96 * 2**20


def test_zoo_measure(zoo_main, here):
    words = [
        "transformer mixer.kv_heads=1 mixer.heads=2",
        "gru",
        "dim=16",
        "layers=1",
        "--lengths",
        "8,16,32",
        "--rounds=3",
    ]
    status, out, err = zoo_main("measure", *words, "--to", "found/figures.json")
    assert status == 0, err
    assert "writing one token: " in out
    sentence = " ".join(out.split())
    assert "as fast as" in sentence or "are not told apart" in sentence, out
    figures = json.loads((here / "found/figures.json").read_text())
    assert [each["contestant"] for each in figures["curves"]] == ["transformer mixer.kv_heads=1 mixer.heads=2", "gru"]
    assert figures["curves"][0]["points"][2]["length"] == 32
    assert figures["overrides"] == ["dim=16", "layers=1"]
    text = (here / "found/figures.html").read_text()
    own = re.sub(r"<script>.*?</script>", "", text, flags=re.S)
    assert not re.findall(r"<script|<img|<iframe|<link[^>]+href=\"http|@import|url\(", own)
    for word in ("zoo measure", "gru", "32", "exponent", "mixer.kv_heads=1"):
        assert word in own
    assert set(re.findall(r'<div id="(\w+)">', own)) == {"prefill", "decode", "state", "memory"}


def test_what_is_measured_otherwise_is_written_elsewhere():
    from zoo.cli.measure import MeasureOptions, _file_of

    words = [("lstm",), ("lstm", "mamba mixer.states=8"), ("mamba mixer.states=8",)]
    options = [MeasureOptions(names, ()) for names in words] + [MeasureOptions(("lstm",), ("dim=16",), rounds=3)]
    files = [_file_of(each, each.contestants) for each in options]
    assert len(set(files)) == 4
    assert files[0] == _file_of(MeasureOptions(("lstm",), ()), ["lstm"]), "the same once more takes the place of itself"
    assert re.fullmatch(r"runs/measure/lstm\+mamba_mixer.states_8-\w{6}\.json", str(files[1]))


@pytest.mark.parametrize(("words", "says"), [
    (["--lengths", "8"], "at least two, rising"), (["--lengths", "32,8"], "at least two, rising"), (["--lengths", "a,b"], "whole numbers with commas"),
    (["--to", "m.html"], "such as m.json"), (["--rounds", "2"], "at least 3"), (["nobody"], "no arch called 'nobody'"), (["bert"], "does not write one token after another"),
    (["--length", "8,16"], "Did you mean --lengths"), (["--on", "abacus"], "abacus"), (["lstm", "dim=x"], "dim"),
], ids=lambda words: " ".join(words) if isinstance(words, list) else "")  # fmt: skip
def test_what_cannot_be_measured_is_said(words, says, zoo_main):
    status, _, err = zoo_main("measure", *words)
    assert status == 2
    assert says in err
    assert "Traceback" not in err


def test_a_model_that_reads_a_source_is_refused():
    with pytest.raises(zoo.ZooError, match="does not write"):
        decoder(["arch=vaswani", "task=reverse", "dim=16", "layers=1"], 32)


@pytest.mark.parametrize("arch", ["lstm", "gru", "mamba", "transformer"])
def test_models_are_timed_in_the_dtype_that_they_would_decode_in(arch):
    """On a GPU that is bfloat16; a recurrent cell stays in float32."""
    model = decoder([f"arch={arch}", "task=text", "dim=32", "layers=1"], 16).to(torch.bfloat16)
    curves = measure({arch: model}, (4, 8), 1, 256, CPU)
    assert len(curves[0].points[0].decode) == 1
    assert all(p.dtype == torch.float32 for n, p in model.named_parameters() if ".cell." in n)


def test_angles_beyond_the_table_are_its_continuation(monkeypatch):
    from zoo.testing.parts import factory

    make = factory("position", "rotary")
    whole = make(head_dim=8, max_len=64)
    monkeypatch.setattr(sys.modules[type(whole).__module__], "LONGEST_TABLE", 16)
    short = make(head_dim=8, max_len=64)
    assert len(short.cos_LK) == 16
    x_BHLK = torch.randn(1, 2, 64, 8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        turned = short.rotate(x_BHLK, x_BHLK)[0]
    torch.testing.assert_close(turned, whole.rotate(x_BHLK, x_BHLK)[0])
    for position in (15, 16, 40):
        one = x_BHLK[:, :, position : position + 1].requires_grad_()  # tables made for inference serve training, too
        short.rotate(one, one, position)[0].sum().backward()
        torch.testing.assert_close(short.rotate(one, one, position)[0], turned[:, :, position : position + 1].clone())
    # positions given as numbers, in training and beyond what the task is said to have
    part = make(head_dim=8, max_len=16).train()
    given_BL = torch.tensor([[3, 15, 16, 40]])
    one = x_BHLK[:, :, given_BL[0]].requires_grad_()
    part.rotate(one, one, given_BL)[0].sum().backward()
    torch.testing.assert_close(part.rotate(one, one, given_BL)[0], turned[:, :, given_BL[0]].clone())


@needs_browser
@pytest.mark.parametrize("width", [1400, 420])
def test_nothing_overflows_the_page(tmp_path, width):
    from zoo.models.speed_page import write_page

    curves = [curve("a contestant of a long name mixer.window=16", lambda n: 1e-6 * n), curve("b", lambda n: 1e-3)]
    pairs = [{"what": "decode", "says": said(each, LENGTHS)} for each in crossings(curves, "decode")]
    about = {"rounds": 3, "crossings": pairs, "hardware": {"accelerator": "cpu"}, "versions": {"torch": "2"}}
    page = write_page(tmp_path / "measured.html", curves, about, "zoo measure a b")
    appearance = appearance_of(page.read_text(), width, False, tmp_path)
    assert_fits(appearance, width)
    assert appearance["charts"] >= 3
