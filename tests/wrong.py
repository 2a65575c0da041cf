"""Components that keep every law of their kind but the one that they are built to break.

``Mixer(None)`` is sound; ``Mixer("mixer_saves")`` breaks that law, in the way that is hardest to see, and what stands
after a law breaks it in another way: ``Mixer("mixer_does_not_see_the_future while training")``.
"""

import torch
from torch import nn
from torch.nn import functional as F

from zoo import Position, Task
from zoo.nn import compute_dtype, cross_entropy


class Mixer(nn.Module):
    """A running sum of a projection."""

    def __init__(self, law=None):
        super().__init__()
        self.law = (law or "").removeprefix("mixer_")
        self.weight = nn.Parameter(torch.randn(32, 32) / 6)
        if self.law == "trains_every_parameter":
            self.idle = nn.Parameter(torch.ones(1))

    def _load_from_state_dict(self, tensors, prefix, *rest):
        if self.law == "saves":
            tensors[prefix + "weight"] = 1.01 * tensors[prefix + "weight"]
        super()._load_from_state_dict(tensors, prefix, *rest)

    def init_state(self, batch_size, max_len, device, dtype):
        shape = (1, batch_size, 32) if self.law == "state_follows_its_sequences" else (batch_size, 1, 32)
        return {"sum": torch.zeros(shape, dtype=dtype, device=device)}

    def project(self, x):
        weight = self.weight
        if self.law == "learns":
            weight = 2 * weight.detach() - weight  # its value, and the opposite of its gradient
        if self.law == "counts_its_operations":
            return (x.unsqueeze(-2) * weight).sum(-1).to(compute_dtype(x))
        v = F.linear(x, weight)
        if self.law == "runs_in_bfloat16" and v.dtype == torch.bfloat16:
            v = v.clamp(max=0.5)
        return v

    def forward(self, x, state=None):
        batch, length, _ = x.shape
        if self.law == "takes_no_tokens" and not length:
            raise IndexError("nothing to begin with")
        v = self.project(x)
        start = 0 if state is None or self.law == "obeys_the_law_of_splitting" else state["sum"].to(v.dtype)
        if self.law == "state_follows_its_sequences" and state is not None:
            start = start.transpose(0, 1)
        y = v.cumsum(1).to(v.dtype) / 10 + start
        if state is not None:
            last = torch.cat([v.new_zeros(batch, 1, 32) + start, y], 1)[:, -1:].clone()
            if self.law == "state_is_bounded_by_what_it_says":
                last = torch.cat([torch.zeros_like(last), last], 1)[:, -1:]  # a view of what is twice as large
            if self.law == "state_is_bounded_by_what_it_says in bfloat16":
                last = last.to(torch.promote_types(last.dtype, torch.float32))
            if self.law == "state_follows_its_sequences":
                last = last.transpose(0, 1).contiguous()
            state = {"sum": last}
        return self.spoiled(x, y, state is None), state

    def spoiled(self, x, y, whole):
        batch, length, _ = x.shape
        if self.law == "keeps_shape" and whole and (batch, length) == (1, 1):
            return y[:, :0]
        if self.law == "does_not_see_the_future":
            later = torch.cat([x[:, 1:], x[:, :1]], 1)
            return y + (later - later.detach())  # no value of it, and its gradient
        if self.law == "treats_each_example_alone" and whole and batch == 4:
            return y + x.mean(0)
        if self.law == "does_not_see_the_future while training" and self.training:
            return y + x.mean(1, keepdim=True) / 10
        if self.law == "treats_each_example_alone while training" and self.training:
            return y + x.mean(0) / 10
        if self.law == "goes_on_beyond_its_length" and length > 24:
            return y * 24 / length
        if self.law == "goes_on_beyond_its_length by accident" and length > 24:
            _, _ = 1, 2, 3
        if self.law == "keeps_the_dtype" and y.dtype == torch.float32:
            return y.double()
        if self.law == "keeps_the_dtype with a state" and y.dtype == torch.float32 and not whole:
            return y.double()
        if self.law == "is_deterministic" and y.dtype == torch.float32:
            return y * (1 + 1e-6 * torch.rand_like(y))
        if self.law == "reads_no_stray_memory" and torch.are_deterministic_algorithms_enabled():  # else by chance
            return torch.where(torch.empty(1, dtype=y.dtype).isnan(), torch.nan, y)
        if self.law == "reads_no_stray_memory in a gradient" and torch.are_deterministic_algorithms_enabled():
            return y + Stray.apply(self.weight)
        if self.law == "compiles" and torch.compiler.is_compiling():
            return 1.1 * y
        return y


class Stray(torch.autograd.Function):
    """Zero, with a gradient that nobody has written."""

    @staticmethod
    def forward(ctx, weight):
        ctx.save_for_backward(weight)
        return weight.new_zeros(())

    @staticmethod
    def backward(ctx, gradient):
        return torch.empty_like(ctx.saved_tensors[0])


class Padded(Mixer):
    """The same, which says that it knows padding."""

    takes_mask = True

    def forward(self, x, state=None, mask_BL=None):
        if mask_BL is not None and self.law != "leaves_no_trace_of_padding":
            x = x * mask_BL[..., None]
        return super().forward(x, state)


class Told(Mixer):
    """The same, which may be told which tokens see which."""

    takes_seen = True

    def forward(self, x, state=None, seen_LL=None):
        if seen_LL is None or self.law == "keeps_to_what_it_may_see":
            return super().forward(x, state)
        v = self.project(x)
        return seen_LL.tril().to(v.dtype) @ v / 10, None


class FeedForward(nn.Module):
    """One matrix."""

    def __init__(self, law=None):
        super().__init__()
        self.law, self.inner = law or "", nn.Linear(32, 32)

    def forward(self, x):
        y = self.inner(x)
        if self.law == "ffn_treats_each_token_alone" or ("token_alone while" in self.law and self.training):
            return y + x.mean(1, keepdim=True) / 10
        if self.law == "ffn_treats_each_example_alone" or ("example_alone while" in self.law and self.training):
            return y - x.mean(0) / 10
        if self.law == "ffn_keeps_the_dtype" and x.dtype == torch.float32:
            return y.double()
        return y


class Norm(nn.Module):
    """The root of the mean square."""

    def __init__(self, law=None):
        super().__init__()
        self.law, self.gain = law or "", nn.Parameter(torch.ones(32))

    def forward(self, x):
        whole = self.law == "norm_keeps_shape" or ("shape while" in self.law and self.training)
        y = self.gain * F.rms_norm(x, x.shape[1:] if whole and x.ndim == 3 else x.shape[-1:])
        if self.law == "norm_treats_each_example_alone":
            return self.gain * x / (x.square().mean((0, -1), keepdim=True) + 1e-6).sqrt()
        return y.double() if self.law == "norm_keeps_the_dtype" and x.dtype == torch.float32 else y


class Cross(nn.Module):
    """The mean of a memory, through a matrix."""

    def __init__(self, law=None):
        super().__init__()
        self.law, self.value, self.gate = (law or ""), nn.Linear(32, 32), nn.Linear(32, 32)

    def read(self, memory, mask=None):
        kept = torch.ones_like(memory[..., 0]) if mask is None else mask.to(memory.dtype)
        if self.law == "cross_leaves_no_trace_of_padding":
            kept = torch.ones_like(kept)
        mean = (self.value(memory) * kept[..., None]).sum(1, keepdim=True) / kept.sum(1)[:, None, None]
        return {"mean": mean}

    def init_state(self, batch_size, max_len, device, dtype):
        rows = max_len if self.law == "cross_state_is_what_it_says" else 1
        return {"mean": torch.zeros(batch_size, rows, 32, device=device, dtype=dtype)}

    def forward(self, x, state):
        gate = self.gate(x)
        if self.law == "cross_treats_each_token_alone" or ("alone while" in self.law and self.training):
            gate = gate.cumsum(1)
        return gate.tanh() * state["mean"]


class Round(torch.autograd.Function):
    """The sign, with a gradient that passes straight through."""

    @staticmethod
    def forward(ctx, weight, scale):
        return weight.sign() * scale

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


class Packed(nn.Module):
    """Signs as bytes of eight."""

    def __init__(self, signs, scale, bias, off):
        super().__init__()
        self.out_features, self.in_features = signs.shape
        bits = (signs > 0).to(torch.uint8).view(self.out_features, -1, 8)
        self.register_buffer("bits", (bits << torch.arange(8, dtype=torch.uint8)).sum(-1, dtype=torch.uint8))
        self.register_buffer("scale", scale * off)
        self.register_buffer("bias", None if bias is None else bias.detach().clone())

    def forward(self, x):
        bits = (self.bits.unsqueeze(-1) >> torch.arange(8, dtype=torch.uint8)) & 1
        return F.linear(x, (2.0 * bits.flatten(1) - 1) * self.scale, self.bias)

    def held_bytes(self):
        return sum(t.numel() * t.element_size() for t in self.buffers())

    def least_bytes(self, device, dtype):
        return self.held_bytes()


class Linear(nn.Linear):
    """Signs and one scale."""

    def __init__(self, law=None, bias=True):
        super().__init__(32, 48, bias=bias)
        self.law = (law or "").removeprefix("linear_")
        if self.law == "is_a_drop_in":
            self.bias = nn.Parameter(torch.zeros(48))  # also where none was asked for

    def scale(self):
        return torch.full((), 0.25)

    def codes(self):
        signs = torch.where(self.weight >= 0, 1, -1).to(torch.int8)
        if self.law == "codes_stay_when_rounded_again":
            signs = torch.where(self.weight.abs() == 0.25, -signs, signs)  # as only rounded ones are
        return signs, self.scale().to(self.weight.dtype)

    def packed(self, layout="planes"):
        codes, scale = self.codes()
        return Packed(codes, scale, self.bias, 1.01 if self.law == "packs_to_the_same" else 1.0)

    def forward(self, x):
        codes, scale = self.codes()
        seen = codes.to(self.weight.dtype) * scale
        if self.law == "sees_its_codes_exactly" and x.shape[0] == 32:
            seen = seen + 0.1 * self.weight.detach()
        factor = 0.5 if self.law == "passes_gradients_straight_through" else 1.0
        weight = seen.detach() + factor * (self.weight - self.weight.detach())
        if self.law == "treats_each_token_alone":
            x = 10 * x / x.abs().amax((-2, -1), keepdim=True).clamp(min=10)  # one scale for all, once some are large
        if self.law == "treats_each_token_alone while training" and self.training:
            x = x + x.mean(-2, keepdim=True) / 10
        if self.law == "treats_each_example_alone" and len(x) == 4:
            x = x + x.mean(0) / 10
        return F.linear(x, weight, None if self.law == "is_a_drop_in" and not x.ndim else self.bias)


class Positions(Position):
    """Adds the number of a token to it."""

    additive = True

    def __init__(self, law=None):
        super().__init__()
        self.law, self.gain = (law or "").removeprefix("position_"), nn.Parameter(torch.ones(1))
        if self.law == "trains_every_parameter":
            self.idle = nn.Parameter(torch.ones(1))

    def _load_from_state_dict(self, tensors, prefix, *rest):
        if self.law == "saves":
            tensors[prefix + "gain"] = 1.01 * tensors[prefix + "gain"]
        super()._load_from_state_dict(tensors, prefix, *rest)

    def add(self, x, offset=0):
        given = isinstance(offset, torch.Tensor)
        if self.law == "goes_on_beyond_its_tables" and given:
            offset = offset.clamp(max=16_383)
        if self.law == "goes_on_at_an_offset":
            offset = offset - offset[:, :1] if given else 0
        gain = self.gain
        if self.law == "is_deterministic":
            gain = gain * (1 + 1e-6 * torch.rand(1)) if x.dtype == torch.float32 else gain
        return x + gain * (offset.unsqueeze(-1).to(x.dtype) if given else torch.arange(x.shape[1])[:, None] + offset)

    def bias(self, query_L, key_M):
        if self.law != "goes_on_at_an_offset of its bias":
            return None
        distance = query_L.unsqueeze(-1) - query_L[..., :1].unsqueeze(-1) - key_M.unsqueeze(-2)
        return self.gain * torch.stack([distance, distance], -3)


class Momentum(torch.optim.Optimizer):
    """Gradient descent with momentum."""

    def __init__(self, parameters, law=None, lr=1e-2):
        super().__init__(parameters, {"lr": lr})
        self.law, self.elsewhere = (law or "").removeprefix("optimizer_"), {}

    @torch.no_grad()
    def step(self, closure=None):
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            lr = 1e-2 if self.law == "heeds_its_groups" else group["lr"]
            for parameter in group["params"]:
                if parameter.grad is not None:
                    state = self.elsewhere if self.law == "resumes" else self.state[parameter]
                    key = parameter if self.law == "resumes" else "momentum"
                    state[key] = 0.9 * state.get(key, torch.zeros_like(parameter)) + parameter.grad
                    parameter.add_(state[key], alpha=lr if self.law == "lowers_a_loss" else -lr)
        return None if self.law == "steps_as_torch_says" else loss


class Count(Task):
    """How many ones there were so far, modulo four."""

    solved = 0.9

    def __init__(self, law=None):
        self.law, self.made = (law or "").removeprefix("task_"), 0

    def facts(self):
        return {"vocab_size": 2, "classes": 4, "max_len": 16}

    def _batch(self, source):
        inputs = torch.randint(2, (8, 16), generator=source)
        return {"inputs": inputs, "targets": inputs.cumsum(1) % 4}

    def train_batch(self, step, seed, device):
        self.made += 1
        more = self.made if self.law == "is_a_function_of_seed_and_step" else 0
        batch = self._batch(torch.Generator().manual_seed(1000 * seed + step + 10**6 * more))
        if self.law == "keeps_to_its_facts":
            batch["targets"][0, 0] = 4
        return batch

    def held_out(self, split):
        if self.law == "tests_what_it_did_not_train":
            return [self.train_batch(int(split == "test"), 0, None)]
        number = -9 if self.law == "holds_out_the_same_data" else -1 if split == "validation" else -2
        return [self._batch(torch.Generator().manual_seed(number))]

    def judge(self, outputs, batch):
        right = outputs["logits"].argmax(-1) == batch["targets"]
        if self.law == "tells_right_from_wrong":
            right = ~right
        return {"accuracy": (right.sum(), torch.tensor(right.numel()))}


class Predict(nn.Module):
    """The next answer, from a table of tokens."""

    needs, gives = ("inputs", "targets"), ("logits",)

    def __init__(self, law=None):
        super().__init__()
        self.law = (law or "").removeprefix("objective_")
        self.table = nn.Embedding(2, 2)
        self.drawn = torch.Generator().manual_seed(0)
        if self.law == "trains_every_parameter":
            self.idle = nn.Parameter(torch.ones(2))

    def _load_from_state_dict(self, tensors, prefix, *rest):
        if self.law == "saves":
            tensors[prefix + "table.weight"] = 1.01 * tensors[prefix + "table.weight"]
        super()._load_from_state_dict(tensors, prefix, *rest)

    def forward(self, batch):
        if self.law == "gives_what_it_says" and "labels" not in batch:
            batch["labels"]
        logits = self.table(batch["inputs"])
        if self.law == "does_not_read_the_answer":
            logits = logits + batch["targets"].float().unsqueeze(-1)
        if self.law == "answers_each_example_alone":
            logits = logits - logits[:, :1].mean(0)  # of first tokens, which are never padding
        if self.law == "is_blind_to_padding":
            logits = logits + 0.1 * logits.mean(1, keepdim=True)
        loss, _ = cross_entropy(logits, batch["targets"])
        if self.law == "has_a_loss_where_nothing_is_asked":
            loss = F.cross_entropy(logits.transpose(1, 2), batch["targets"])
        if self.law == "is_a_function_of_its_seed":
            loss = loss + 1e-4 * torch.rand((), generator=self.drawn)
        if self.law == "learns":
            loss = -loss
        if self.law == "learns nothing":
            loss = loss.detach() + 0 * self.table.weight.sum()
        return {"loss": loss, "logits": logits}
