"""Rules that need no learning, followed in plain Python: the commonest answer to what a rule sees."""

from collections import Counter, defaultdict

import torch

CPU = torch.device("cpu")


def asked(batch):
    """Each sequence's tokens, and the places where it asks with the answers."""
    places = batch.get("positions")
    for row, targets in enumerate(batch["targets"].tolist()):
        where = range(len(targets)) if places is None else places[row].tolist()
        answers = [(place, target) for place, target in zip(where, targets, strict=True) if target >= 0]
        yield batch["inputs"][row].tolist(), answers


def accuracy_of_rule(task, sees, steps=60):
    """The share of a test's answers that are the commonest one to ``sees(tokens, place)`` in training batches."""
    counts, right, total = defaultdict(Counter), 0, 0
    for step in range(steps):
        for tokens, answers in asked(task.train_batch(step, 5, CPU)):
            for place, answer in answers:
                counts[sees(tokens, place)][answer] += 1
    for batch in task.held_out("test"):
        for tokens, answers in asked(batch):
            for place, answer in answers:
                known = counts[sees(tokens, place)]
                right += bool(known) and known.most_common(1)[0][0] == answer
                total += 1
    return right / total
