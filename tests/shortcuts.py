"""Rules that need no learning, followed in plain Python: the commonest answer to what a rule sees."""

from collections import Counter, defaultdict

import torch

CPU = torch.device("cpu")


def asked(batch):
    """Each sequence's tokens, and the positions where it asks with the answers."""
    positions = batch.get("positions")
    for row, targets in enumerate(batch["targets"].tolist()):
        where = range(len(targets)) if positions is None else positions[row].tolist()
        answers = [(position, target) for position, target in zip(where, targets, strict=True) if target >= 0]
        yield batch["inputs"][row].tolist(), answers


def accuracy_of_rules(task, rules, steps=60):
    """For each rule by name, the share of a test's answers that are the commonest one to what it sees in training.

    Args:
        rules: by name, a function ``sees(tokens, position)``
        steps: how many training batches there are
    """
    counts = {name: defaultdict(Counter) for name in rules}
    right, total = dict.fromkeys(rules, 0), 0
    for step in range(steps):
        for tokens, answers in asked(task.train_batch(step, 5, CPU)):
            for position, answer in answers:
                for name, sees in rules.items():
                    counts[name][sees(tokens, position)][answer] += 1
    best = {name: {seen: max(tally, key=tally.get) for seen, tally in counts[name].items()} for name in rules}
    for batch in task.held_out("test"):
        for tokens, answers in asked(batch):
            total += len(answers)
            for position, answer in answers:
                for name, sees in rules.items():
                    right[name] += best[name].get(sees(tokens, position)) == answer
    return {name: count / total for name, count in right.items()}


def accuracy_of_rule(task, sees, steps=60):
    """That of one rule."""
    return accuracy_of_rules(task, {"": sees}, steps)[""]
