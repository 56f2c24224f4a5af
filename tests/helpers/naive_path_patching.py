"""The naive reference of paths: a set of edges carries change, every reader is one module call, whole-model forwards.

A path's text is turned into edges by following every way from writer to reader; each head has a query, a key and a
value of its own, whatever it shares with its group. Then one prompt runs block by block: a reader's input is the base
run's stream plus the changes of what its edges' writers write, and plain hooks put it into the Hugging Face model.
"""

from __future__ import annotations

import torch
from bridges import naive_metric
from naive import PATHS
from naive_edges import _LLAMA, PARALLEL, READS, _blocks, _weight, columns, fed_forward, trace

Span = tuple[int, int] | None


class Stream:
    """Which reader sees which writer; a writer's and a reader's place along the stream."""

    def __init__(self, lm) -> None:
        config = lm.hf.config
        self.layers, self.heads = config.num_hidden_layers, config.num_attention_heads
        self.share = self.heads // lm.kv_heads
        self.parallel, self.post_norm = lm.name in PARALLEL, lm.name.startswith("gemma")
        self.writers = ["input"]
        self.readers = ["logits"]
        for layer in range(self.layers):
            heads = [f"a{layer}.h{h}" for h in range(self.heads)]
            self.writers += [*heads, f"m{layer}"]
            self.readers += [f"{head}<{kind}>" for head in heads for kind in "qkv"] + [f"m{layer}"]

    def sees(self, reader: str, writer: str) -> bool:
        if writer == "input" or reader == "logits":
            return True
        mine, theirs = int(reader[1:].split(".")[0]), int(writer[1:].split(".")[0])
        same_block = reader[0] == "m" and writer[0] == "a" and not self.parallel
        return theirs < mine or (theirs == mine and same_block)

    def writing(self, readers: set[str]) -> set[str]:
        """Writers that these readers are part of."""
        return {reader[:-3] if "<" in reader else reader for reader in readers} - {"logits"}

    def siblings(self, writers: set[str]) -> set[str]:
        """With the heads that share a post-norm with them."""
        blocks = {one.split(".")[0] for one in writers if "." in one}
        return writers | ({one for one in self.writers if one.split(".")[0] in blocks} if self.post_norm else set())


def _span(text: str, n: int) -> tuple[str, Span]:
    stem, at, where = text.replace("@end", "@-1").partition("@")
    if not at:
        return stem, None
    first, last = next((a, b or a) for a, b in [_two(where)])
    return stem, (int(first) % n if int(first) < 0 else int(first), int(last) % n if int(last) < 0 else int(last))


def _two(where: str) -> tuple[str, str]:
    cut = where.find("-", 1)
    return (where, "") if cut < 0 else (where[:cut], where[cut + 1 :])


def _fine(stream: Stream, part: str) -> set[str]:
    """The readers that a name means."""
    if ".kv" in part:
        block, _, rest = part.partition(".kv")
        group = int(rest.split("<")[0])
        return {f"{block}.h{h}<{part[-2]}>" for h in range(group * stream.share, (group + 1) * stream.share)}
    if ".h" in part and "<" not in part:
        return {f"{part}<{kind}>" for kind in "qkv"}
    return {part}


def carried(lm, text: str, n: int) -> tuple[dict[str, Span], dict[tuple[str, str], list[Span]]]:
    """(senders, edges that carry change) of a path, each with the positions at which."""
    stream = Stream(lm)
    pieces = [piece.strip() for piece in text.split("->")]
    if pieces[-1] != "logits":
        pieces += ["...", "logits"]
    senders = dict(_span(part.strip(), n) for part in pieces[0].split("+"))
    edges: dict[tuple[str, str], list[Span]] = {}
    left, fixed, through = set(senders), True, False
    for piece in pieces[1:]:
        if piece == "...":
            through = True
            continue
        right: list[tuple[str, Span]] = []
        for part in piece.split("+"):
            stem, span = _span(part.strip(), n)
            right += [(reader, span) for reader in sorted(_fine(stream, stem))]
        ends = {reader for reader, _ in right}
        starts = left if fixed or not through else stream.siblings(left)
        reached = _forward(stream, starts) if through else starts
        leading = {r for r in stream.readers if _leads(stream, r, ends)} if through else ends
        for writer in reached:
            for reader in leading:
                if stream.sees(reader, writer):
                    edges.setdefault((writer, reader), []).extend([s for r, s in right if r == reader] or [None])
        left, fixed, through = stream.writing(ends), False, False
    return senders, edges


def _forward(stream: Stream, starts: set[str]) -> set[str]:
    """Writers that are reached from these through every edge there is."""
    reached = set(starts)
    while True:
        more = stream.writing({r for r in stream.readers if any(stream.sees(r, w) for w in reached)})
        more = stream.siblings(more) | reached
        if more == reached:
            return reached
        reached = more


def _leads(stream: Stream, reader: str, ends: set[str]) -> bool:
    """Whether there is a way from a reader to one of the ends, or it is one."""
    if reader in ends:
        return True
    return any(stream.sees(end, writer) for end in ends for writer in stream.siblings(stream.writing({reader})))


def effects(lm, task, texts, direction="noising", ablation="counterfactual") -> torch.Tensor:
    """Exact effects of paths, [examples, paths]."""
    return torch.stack([_effects(lm, task, i, texts, direction, ablation) for i in range(len(task))])


@torch.no_grad()
def _effects(lm, task, i, texts, direction, ablation):
    own, other = (task.clean[i], task.corrupted[i])
    if direction == "denoising":
        own, other = other, own
    base, towards, number = trace(lm.hf, lm.name, own), trace(lm.hf, lm.name, other), naive_metric(lm, task, i)

    def metric(logits):
        return number(logits if getattr(number, "whole", False) else logits[-1])

    bare = metric(lm.hf(torch.tensor([list(own)]), use_cache=False).logits[0])
    values = [_values(lm, own, layer, 1, {}, None) for layer in range(lm.hf.config.num_hidden_layers)]
    found = []
    for text in texts:
        senders, edges = carried(lm, text, len(own))
        changes = {}
        for writer, span in senders.items():
            new = torch.zeros_like(base.writes[writer]) if ablation == "zero" else towards.writes[writer]
            changes[writer] = _only(new - base.writes[writer], span)
        found.append(metric(_run(lm, own, base, values, changes, set(senders), edges)) - bare)
    return torch.stack(found)


def _only(change, span: Span):
    if span is None:
        return change
    kept = torch.zeros_like(change)
    kept[span[0] : span[1] + 1] = change[span[0] : span[1] + 1]
    return kept


def _run(lm, ids, base, values, changes, senders, edges):
    """Logits [n, V] of a run whose readers see these changes."""
    model, family, stream = lm.hf, lm.name, Stream(lm)
    blocks, heads = _blocks(model, family), stream.heads
    attention_norm, mlp_norm, projections = READS.get(family, _LLAMA)
    parts = PATHS[family]

    def seen(own, reader):
        """What a reader reads; None where no edge leads to it."""
        mine = [(writer, spans) for (writer, read), spans in edges.items() if read == reader and writer in changes]
        for writer, spans in mine:
            for span in spans:
                own = own + _only(changes[writer], span)
        return own if mine else None

    for layer, block in enumerate(blocks):
        z, norm = values[layer].clone(), block.get_submodule(attention_norm)
        for turn in range(stream.share):  # heads of different groups share nothing, so one run serves them
            mine = range(turn, heads, stream.share)
            inputs = {(h, kind): seen(base.stream[layer], f"a{layer}.h{h}<{kind}>") for h in mine for kind in "qkv"}
            given = {reader: norm(x) for reader, x in inputs.items() if x is not None}
            if given:
                own = [h for h in mine if any(h == head for head, _ in given)]
                z[:, own] = _values(lm, ids, layer, stream.share, given, projections)[:, own]
        linear = block.get_submodule(parts[2])
        weights, scale = _weight(linear).unflatten(0, (heads, -1)), 1.0
        if stream.post_norm:
            norm, total = block.post_attention_layernorm, linear(z.flatten(1))
            scale = (1 + norm.weight) * torch.rsqrt(total.square().mean(-1, keepdim=True) + norm.eps)
        now = {f"a{layer}.h{h}": z[:, h] @ weights[h] * scale for h in range(heads)}
        if not stream.parallel:
            changes |= {name: new - base.writes[name] for name, new in now.items() if name not in senders}
        read = seen(base.middle[layer], f"m{layer}")
        if read is not None:
            mlp = fed_forward(block, family, block.get_submodule(mlp_norm)(read))
            now[f"m{layer}"] = block.post_feedforward_layernorm(mlp) if stream.post_norm else mlp
        changes |= {name: new - base.writes[name] for name, new in now.items() if name not in senders}
    last = seen(base.stream[-1], "logits")
    logits = model.get_output_embeddings()(model.get_submodule(parts[1])(base.stream[-1] if last is None else last))
    cap = getattr(model.config, "final_logit_softcapping", None)
    return torch.tanh(logits / cap) * cap if cap else logits


def _values(lm, ids, layer, share, normed, projections):
    """z [n, heads, d] of a block with queries, keys or values, by (head, kind), projected from inputs of their own."""
    model, family = lm.hf, lm.name
    block, found, handles = _blocks(model, family)[layer], [], []
    for (head, kind), x in normed.items():
        module = block.get_submodule(projections["qkv".index(kind)])
        cut = columns(model, family, kind, head if kind == "q" else head // share)
        own = module(x)[:, cut]

        def put(_, __, output, cut=cut, own=own):
            output = output.clone()
            output[0, :, cut] = own
            return output

        handles.append((module, put))
    handles = [module.register_forward_hook(put) for module, put in handles]
    out = block.get_submodule(PATHS[family][2])
    handles.append(out.register_forward_pre_hook(lambda _, args: found.append(args[0][0])))
    try:
        model(torch.tensor([list(ids)]), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return found[0].unflatten(-1, (model.config.num_attention_heads, -1))
