"""Needles, hops and paths against their definitions in plain Python; what shortcuts get is what tasks declare."""

import collections
import itertools
import random
import sys

import pytest
import torch
from shortcuts import CPU, accuracy_of_rule, asked

import zoo
from zoo.base.errors import ZooError
from zoo.runs.train import train
from zoo.tasks._corpus import read_corpus
from zoo.training.build import make_task


def task(*words):
    return make_task(zoo.compose(*words))


def batches(one, steps=3):
    return [one.train_batch(step, 0, CPU) for step in range(steps)] + one.held_out(one.splits()[-1])


FORMS = ["single", "multi_key", "multi_value", "variables", "common_words"]


@pytest.mark.parametrize(
    ("form", "rung"),
    [(f, r) for f in FORMS for r in ("tiny", "small", "medium") if (f, r) != ("common_words", "tiny")],
)
def test_a_needle_is_found_by_reading(form, rung):
    """The question is answered from what follows keys in the haystack; a rule that ignores the question is measured."""
    one = task("task=needle", f"task.form={form}", f"task.rung={rung}", "task.test_size=60", "task.batch_size=100")
    noise, ask, width = one.noise, one.noise + one.keys, one.value_length
    lucky, total = 0.0, 0
    for batch in batches(one, 8):
        for tokens, answers in asked(batch):
            answer = [token for _, token in answers]
            question = tokens.index(ask)
            hay, key = tokens[:question], tokens[question + 1]
            assert tokens[question + 2 :] == answer[:-1]
            assert [position for position, _ in answers] == list(range(question + 1, len(tokens)))
            needles, position = [], 0
            while position < len(hay):
                if hay[position] >= noise:
                    needles.append((hay[position], hay[position + 1 : position + 1 + width]))
                    position += width
                position += 1
            if form == "common_words":
                counts = sorted(((hay.count(token), token) for token in set(hay)), reverse=True)
                assert counts[3][0] > counts[4][0], "the four commonest are known"
                assert sorted(token for _, token in counts[:4]) == answer
                continue
            if form == "variables":
                known, names = {}, {}
                for variable, value in needles:
                    if value[0] >= noise:
                        known[variable] = known[value[0]]
                        names[value[0]] = variable
                    else:
                        known[variable] = value
                assert len(known) == 4 * 3
                assert known[key] == answer
                assert key not in names, "the last of its chain is asked"
                lucky += sum(value == known[key] for value in {tuple(v): v for v in known.values()}.values()) / 4
            else:
                values = [value for token, value in needles if token == key]
                assert list(itertools.chain(*values)) == answer
                assert len(values) == (4 if form == "multi_value" else 1)
                assert len(needles) == (1 if form == "single" else 4)
                lucky += 1 / len(needles)
            total += 1
    if form in ("multi_key", "variables"):
        rule = one.chance()["a value of the needles"]
        assert rule == pytest.approx((lucky / total + width - 1) / width, abs=0.01)


@pytest.mark.thorough
def test_a_small_transformer_finds_the_tiny_needle(here):
    words = ["task=needle", "task.rung=tiny", "task.form=single", "task.batch_size=32", "task.test_lengths=[]"]
    size = ["dim=32", "layers=2", "optimizer.lr=0.003", "steps=2000", "evaluate_every=2000", "seed=1000"]
    row = train(zoo.compose(*words, *size, "trainer.accelerator=cpu", "trainer.progress=false"))
    assert row["test"]["accuracy"] > 0.9


def test_a_rule_that_gives_the_values_in_any_order_is_as_good_as_declared():
    one = task("task=needle", "task.form=multi_value", "task.value_length=2")
    chance, right, total = random.Random(0), 0, 0
    for batch in batches(one, 10):
        for _, answers in asked(batch):
            values = [tuple(token for _, token in answers[i : i + 2]) for i in range(0, 8, 2)]
            for given in range(4):
                right += chance.choice(values[given:]) == values[given]
                right += 1  # the second token follows from the first
            total += 8
    assert one.chance()["a value of the needles"] == pytest.approx(right / total, abs=0.02)


def test_the_end_tells_as_much_of_common_words_as_declared():
    one = task("task=needle", "task.form=common_words")
    right, total = 0, 0
    for batch in batches(one, 10)[:10]:
        for tokens, answers in asked(batch):
            end = tokens[tokens.index(96) - 16 : tokens.index(96)]
            counts = sorted(range(64), key=lambda token: -end.count(token))
            right += sum(a == b for a, (_, b) in zip(sorted(counts[:4]), answers, strict=True))
            total += 4
    assert one.chance()["the commonest of the last 16 tokens"] == pytest.approx(right / total, abs=0.05)


def test_a_haystack_of_text_is_the_text_of_its_split(tmp_path):
    (tmp_path / "a.txt").write_bytes(bytes(random.Random(0).randrange(128, 256) for _ in range(60_000)))
    one = task("task=needle", f"task.source={tmp_path}/a.txt", "task.length=50", "task.form=single")
    corpus = read_corpus(f"{tmp_path}/a.txt", None, "text", 200_000_000)
    for batch, text in ((one.train_batch(0, 0, CPU), corpus.train), (one.held_out("test")[0], corpus.test)):
        for tokens in batch["inputs"].tolist():
            key = next(i for i, token in enumerate(tokens) if token >= 256)
            assert 97 <= tokens[key + 1] < 123
            assert bytes(tokens[:key]) in text
            assert bytes(tokens[key + 2 : -2]) in text


@pytest.mark.parametrize(("hops", "symbols"), [(1, 3), (2, 4), (5, 4)])
def test_hops_are_looked_up_one_by_one(hops, symbols):
    one = task("task=k_hop", f"task.hops={hops}", f"task.symbols={symbols}", "task.length=40", "task.test_size=40")
    early, total = [0] * hops, 0
    for batch in batches(one, 5):
        for tokens, answers in asked(batch):
            expected = []
            for start in range(len(tokens)):
                position, way = start, []
                for _ in range(hops):
                    before = [j for j in range(position) if tokens[j] == tokens[position]]
                    if not before:
                        break
                    way.append(tokens[position])
                    position = before[-1] + 1
                else:
                    expected.append((start, tokens[position]))
                    if len(tokens) == 40:
                        early = [count + (token == tokens[position]) for count, token in zip(early, way, strict=True)]
                        total += 1
            assert answers == expected
            assert all(a != b for a, b in itertools.pairwise(tokens))
    assert one.chance()["fewer hops"] == pytest.approx(max(early) / total, abs=0.02)


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("arms", [2, 5])
def test_a_path_is_the_way_through_the_edges(arms, backwards):
    one = task("task=path_star", f"task.arms={arms}", f"task.backwards={backwards}", "task.names=50")
    positions, lucky, total, chance = set(), 0, 0, random.Random(0)
    for batch in batches(one, 8):
        for tokens, answers in asked(batch):
            mark = tokens.index(50)
            edges = list(zip(tokens[:mark:2], tokens[1:mark:2], strict=True))
            follows, before = {}, {b: a for a, b in edges}
            for a, b in edges:
                follows.setdefault(a, []).append(b)
            goal, centre = tokens[mark + 1 : mark + 3][:: -1 if backwards else 1]
            assert len(follows[centre]) == arms
            assert len(before) == len(edges), "every node but the centre is reached once"
            assert centre not in before
            path = [goal]
            while path[-1] != centre:
                path.append(before[path[-1]])
            path = path if backwards else path[::-1]
            assert [token for _, token in answers] == path[1:]
            assert tokens[mark + 3 :] == path[1:-1]
            assert answers[0][0] == mark + 2
            positions.add(edges.index((path[-2], path[-1]) if not backwards else (path[1], path[0])))
            lucky += chance.choice(follows[centre]) in path
            total += 1
    assert len(positions) >= arms * 3, "the goal's edge stands anywhere"
    assert one.chance()["a random arm"] == pytest.approx(lucky / total, abs=0.04)


def test_depo_is_steps_on_a_cycle():
    one = task("task=depo", "task.hops=4")
    hops = one.hops
    same, guessed, total, trained = [0] * hops, 0.0, 0, 0
    for batch in batches(one):
        for tokens, answers in asked(batch):
            end = answers[0][0] - 1
            following = dict(zip(tokens[:end:2], tokens[1:end:2], strict=True))
            assert set(following) == set(following.values())
            assert len(following) == end // 2
            for position, answer in answers:
                steps, node = tokens[position - 1] - one.names + 1, tokens[position]
                way = []
                for _ in range(max(steps, hops)):
                    node = following[node]
                    way.append(node)
                assert way[steps - 1] == answer
                same = [count + (other == answer) for count, other in zip(same, way, strict=True)]
                others = len(following) - 2
                if others + 2 == one.length:
                    guessed += steps == 1 or (answer not in (tokens[position], way[0])) / others
                    trained += 1
                total += 1
    declared = one.chance()["one hop, or another node"]
    assert declared == pytest.approx(guessed / trained, abs=0.03)
    assert declared >= max(same) / total - 0.03, "no number of hops does better"
    node, walk = tokens[0], set()
    while node not in walk:
        walk.add(node)
        node = following[node]
    assert walk == set(following), "it is one cycle"


def value_of(words, modulus):
    """Take an expression in prefix form off a list of words, and return its value."""
    word = words.pop(0)
    if word not in ("+", "-", "*"):
        return int(word)
    first, second = value_of(words, modulus), value_of(words, modulus)
    return {"+": first + second, "-": first - second, "*": first * second}[word] % modulus


@pytest.mark.parametrize(("length", "modulus"), [(1, 2), (3, 7), (10, 23)])
def test_mano_is_the_value_of_an_expression(length, modulus):
    words = [f"task.length={length}", f"task.modulus={modulus}", "task.batch_size=200", "task.test_size=100"]
    one = task("task=mano", f"task.test_lengths=[{2 * length}]", *words)
    sizes, longer, shapes = collections.Counter(), set(), collections.Counter()
    for split in ("train", f"test/{2 * length}"):
        batches_of_split = (
            [one.train_batch(step, 0, CPU) for step in range(10)] if split == "train" else one.held_out(split)
        )
        for batch in batches_of_split:
            for tokens, ((position, answer),) in asked(batch):
                words = [one.token_name(token) for token in tokens]
                assert words[position] == "="
                assert set(words[position + 1 :]) <= {"pad"}
                assert one.encode(" ".join(words[:position])) == tokens[: position + 1]
                operations = sum(word in "+-*" for word in words[:position])
                (sizes.update if split == "train" else longer.update)([operations])
                if operations == 3:
                    shapes["".join("o" if word in "+-*" else "n" for word in words[:position])] += 1
                rest = words[:position]
                assert value_of(rest, modulus) == answer
                assert not rest, "all of it is one expression"
    assert set(sizes) == set(range(1, length + 1)), "as many operations as was asked"
    assert longer <= set(range(length + 1, 2 * length + 1))
    assert max(sizes.values()) < 1.5 * min(sizes.values())
    if length == 3:
        assert len(shapes) == 5, "every tree of three operations"
        assert max(shapes.values()) < 1.5 * min(shapes.values())


def test_the_commonest_values_are_as_good_as_declared():
    one = task("task=mano", "task.batch_size=200", "task.test_size=2000")
    rules = one.chance()
    accuracies = (
        accuracy_of_rule(one, lambda tokens, position: None),
        accuracy_of_rule(one, lambda tokens, position: tokens[0]),
    )
    assert rules["the commonest value"] == pytest.approx(accuracies[0], abs=0.03)
    assert rules["the commonest for the first operator"] == pytest.approx(accuracies[1], abs=0.03)


def graph_of(tokens, one):
    """Each node's parents, as the edges of a sequence say, and the node that is asked."""
    ask, pad = one.names + 1, one.names + 3
    assert tokens[tokens.index(ask) + 2] == one.names + 2, "the answer begins behind ="
    listed = tokens[: tokens.index(ask)]
    assert pad not in listed
    edges = list(zip(listed[::2], listed[1::2], strict=True))
    assert len(set(edges)) == len(edges)
    parents = {node: set() for edge in edges for node in edge}
    for parent, child in edges:
        parents[child].add(parent)
    return parents, tokens[tokens.index(ask) + 1]


def all_before(parents, node):
    """The node, and all that it depends on."""
    return {node}.union(*(all_before(parents, parent) for parent in parents[node]))


@pytest.mark.parametrize(("length", "edges"), [(3, 4), (8, 4), (8, 1), (13, 2)])
def test_brevo_names_what_a_node_depends_on_in_order(length, edges):
    words = [f"task.length={length}", "task.names=32", f"task.edges={edges}", "task.test_size=300"]
    one = task("task=brevo", *words, f"task.test_lengths=[{length + 2}]")
    end = one.names
    for split in ("train", "test", f"test/{length + 2}"):
        nodes, orders, sizes = length + 2 * ("/" in split), collections.Counter(), collections.Counter()
        batches_of_split = (
            [one.train_batch(step, 0, CPU) for step in range(5)] if split == "train" else one.held_out(split)
        )
        for batch in batches_of_split:
            for row, (tokens, answers) in enumerate(asked(batch)):
                parents, last = graph_of(tokens, one)
                named = [token for _, token in answers]
                # the answer: all that is needed, none before its parents, and then the end
                assert set(named) == all_before(parents, last) | {end}
                assert len(set(named)) == len(named)
                assert named[-2:] == [last, end]
                for step, token in enumerate(named):
                    ready = {node for node in all_before(parents, last) - set(named[:step])
                             if parents[node] <= set(named[:step])}  # fmt: skip
                    allowed = batch["allowed"][row, step].nonzero().flatten().tolist()
                    assert set(allowed) == (ready or {end})
                    assert token in allowed
                # each step is asked behind the ones before it
                first = tokens.index(one.names + 2)
                assert [position for position, _ in answers] == list(range(first, first + len(named)))
                behind = tokens[first + 1 :]
                assert behind[: len(named) - 1] == named[:-1]
                assert set(behind[len(named) - 1 :]) <= {one.names + 3}
                # the graph: as many nodes, parents and children as were asked for, and the last one has no child
                children = collections.Counter(parent for those in parents.values() for parent in those)
                assert max(children.values()) <= edges
                assert max(map(len, parents.values())) <= edges
                assert children[last] == 0
                assert len(parents) <= nodes
                sizes[len(parents)] += 1
                orders[len(named)] += 1
        assert max(sizes) >= nodes - (edges == 1), split
        assert len(sizes) > 1 or length == 3
        assert split != "train" or length == 3 or min(sizes) < length - 2, "smaller graphs are trained on"


@pytest.mark.parametrize("words", [["task.length=3", "task.names=6", "task.test_lengths=[4]"], ["task.names=32"]])
def test_no_graph_of_brevo_is_trained_on_and_tested(words, monkeypatch):
    """Whatever the order of its edges."""
    one = task("task=brevo", *words, "task.batch_size=256", "task.test_size=300")

    def graphs(batches_of_split):
        for batch in batches_of_split:
            for tokens, _ in asked(batch):
                parents, last = graph_of(tokens, one)
                yield frozenset((p, child) for child, those in parents.items() for p in those), last

    trained = set(graphs(one.train_batch(step, 0, CPU) for step in range(60)))
    held = {split: set(graphs(one.held_out(split))) for split in one.splits()}
    assert len(trained) > (200 if one.names == 6 else 10_000)
    for split, graphs_of_split in held.items():
        assert not trained & graphs_of_split, split
        assert len(graphs_of_split) > (10 if one.names == 6 else 250), split
    assert not held["validation"] & held["test"]
    monkeypatch.setattr(
        sys.modules[type(one).__module__], "tenth_of", lambda numbers: torch.full(numbers.shape[:-1], 5)
    )
    with pytest.raises(ZooError, match="too few graphs"):
        one.held_out("test")


def test_orders_of_brevo_are_drawn_from_the_end():
    """The last node has two parents, c and b, of which b has one, a. Backwards b or c is taken, then any that is left."""
    one = task("task=brevo", "task.length=6", "task.test_lengths=[]", "task.batch_size=500")
    counts_by_order = collections.Counter()
    for step in range(60):
        for tokens, answers in asked(one.train_batch(step, 0, CPU)):
            parents, last = graph_of(tokens, one)
            needed = all_before(parents, last)
            counts = {node: len(parents[node]) for node in needed}
            b = next((node for node in parents[last] if counts[node] == 1), None)
            if sorted(counts.values()) == [0, 0, 1, 2] and b is not None and not parents[b] & parents[last]:
                named = [token for _, token in answers[:3]]
                counts_by_order["".join("b" if n == b else "a" if n in parents[b] else "c" for n in named)] += 1
    assert set(counts_by_order) == {"abc", "acb", "cab"}
    shares = {order: count / counts_by_order.total() for order, count in counts_by_order.items()}
    assert shares == pytest.approx({"abc": 1 / 2, "acb": 1 / 4, "cab": 1 / 4}, abs=0.05), counts_by_order


def test_naming_what_is_ready_is_as_good_as_declared():
    one, chance = task("task=brevo", "task.test_size=2000"), random.Random(0)
    right = total = 0
    for batch in one.held_out("test"):
        for tokens, answers in asked(batch):
            parents, last = graph_of(tokens, one)
            needed, named, lucky = all_before(parents, last), [], True
            for _, token in answers[:-1]:
                has_child = set().union(*parents.values()) | {last}
                ready = sorted(node for node in has_child - set(named) if parents[node] <= set(named))
                ready = [last] if last in ready else ready
                lucky = lucky and chance.choice(ready) in needed
                named.append(token)
            right, total = right + lucky, total + 1
    assert one.chance()["any parent whose own parents were named"] == pytest.approx(right / total, abs=0.03)


def test_brevo_judges_steps_and_whole_answers():
    one = task("task=brevo", "task.test_size=50")
    (batch,) = one.held_out("test")
    targets_BS, allowed_BSC = batch["targets"], batch["allowed"]

    def scores(said_BS):
        logits = torch.nn.functional.one_hot(said_BS, one.names + 1).double()
        ratios = one.judge({"logits": logits}, batch)
        return {name: (total / count).item() for name, (total, count) in ratios.items()}

    # any allowed answer is right, the last one by number too; and one wrong step spoils its answer alone
    other_BS = one.names - allowed_BSC.flip(2).byte().argmax(2)
    assert (other_BS != targets_BS)[targets_BS >= 0].any()
    for said_BS in (targets_BS.clamp(min=0), other_BS):
        right = scores(said_BS)
        assert (right["accuracy"], right["sequence_accuracy"], right["first_accuracy"]) == (1, 1, 1)
    wrong_BS = other_BS.clone()
    wrong_BS[7, 1] = (~allowed_BSC[7, 1]).byte().argmax()
    accuracies = scores(wrong_BS)
    assert accuracies["accuracy"] == pytest.approx(1 - 1 / (targets_BS >= 0).sum().item())
    assert (accuracies["sequence_accuracy"], accuracies["first_accuracy"]) == (pytest.approx(0.98), 1)


def test_depth_has_the_published_settings():
    assert (task("task=k_hop", "task.rung=published").length, task("task=k_hop", "task.rung=published").hops) == (
        100,
        16,
    )
    for arms in (2, 5):
        one = task("task=path_star", f"task.rung=published{arms}")
        assert (one.arms, one.length, one.names) == (arms, 5, 50)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["task=needle", "task.length=8"], "needs sequences of at least 10 tokens, given 8"),
        (["task=needle", "task.rung=tiny", "task.form=common_words"], "has no room for 4 common words among 16"),
        (["task=needle", "task.keys=2"], "multi_key needs 4 different keys"),
        (["task=needle", "task.form=common_words", "task.noise=5"], "has no room for 4 common words among 5"),
        (["task=k_hop", "task.length=10"], "need at least 15 tokens, given 10"),
        (["task=path_star", "task.arms=1"], "expected at least 2 arms"),
        (["task=path_star", "task.names=9"], "2 arms of 6 nodes have 11 names"),
        (["task=depo", "task.hops=8"], "8 hops need a cycle of more nodes, given 8"),
        (["task=depo", "task.names=12"], "a cycle of 16 nodes has as many names"),
        (["task=brevo", "task.length=2"], "task.length=2: expected at least 3 nodes"),
        (["task=brevo", "task.names=12"], "task.names=12: a graph of 16 nodes has as many names"),
        (["task=brevo", "task.edges=0"], "task.edges=0: expected at least 1"),
        (["task=mano", "task.modulus=1"], "task.modulus=1: expected at least 2"),
        (["task=mano", "task.length=0"], "task.length=0: expected at least 1"),
    ],
)
def test_what_cannot_be_asked_is_refused(words, message):
    with pytest.raises(ZooError, match=message):
        task(*words)
