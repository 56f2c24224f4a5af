"""Effects of units at any positions by plain hooks on whole runs: nothing of the library's engine runs.

A member is placed: (unit, its positions in the run that is patched, those that its values come from). In the place of
the latter, a function of the other run's activations [1, positions, site] may give the values.
"""

import torch

import veracausa as vc


def entry(lm, layer):
    """The module that the residual stream enters."""
    decoder = lm.decoder
    return decoder.final_norm if layer == lm.layers else getattr(decoder.backbone, decoder.anatomy.blocks)[layer]


def hooked(lm, prompt, values, members):
    """Logits of a whole run in which every placed member has the values of `values[place, layer]`."""
    decoder, handles = lm.decoder, []

    def put(own, new, member, size):
        one, here, there = member
        out = own.clone()
        part = slice(None) if one.index < 0 else slice(one.index * size, (one.index + 1) * size)
        out[:, here, part] = (there(new) if callable(there) else new[:, there])[:, :, part]
        return out

    def attach(member):
        one = member[0]
        block = decoder.blocks[min(one.layer, lm.layers - 1)]
        new, size = values[one.place, one.layer], decoder.head_dim
        if one.place == "z":
            return block.attention_out.register_forward_pre_hook(lambda _, a: (put(a[0], new, member, size), *a[1:]))
        if one.place == "neurons":
            return block.mlp_out.register_forward_pre_hook(lambda _, a: (put(a[0], new, member, 1), *a[1:]))
        if one.place == "mlp":
            return block.mlp.register_forward_hook(lambda _, __, out: put(out, new, member, 1))
        if one.place == "residual":
            return entry(lm, one.layer).register_forward_pre_hook(lambda _, a: (put(a[0], new, member, 1), *a[1:]))
        kind = ("queries", "keys", "values").index(one.place)
        return block.projections[kind].register_forward_hook(lambda _, __, out: put(out, new, member, size))

    try:
        handles += [attach(one) for one in members]
        with torch.no_grad():
            return lm.hf(torch.tensor([prompt])).logits[0, -1]
    finally:
        for handle in handles:
            handle.remove()


def values_of(lm, prompt, members):
    """Activations of a whole run at every placed member's place, [1, positions, site]."""
    decoder, found, handles = lm.decoder, {}, []
    for one, *_ in members:
        block = decoder.blocks[min(one.layer, lm.layers - 1)]
        key = one.place, one.layer

        def take_input(_, a, key=key):
            found[key] = a[0]

        def take_output(_, __, out, key=key):
            found[key] = out

        if one.place in ("z", "neurons"):
            part = block.attention_out if one.place == "z" else block.mlp_out
            handles.append(part.register_forward_pre_hook(take_input))
        elif one.place == "residual":
            handles.append(entry(lm, one.layer).register_forward_pre_hook(take_input))
        elif one.place == "mlp":
            handles.append(block.mlp.register_forward_hook(take_output))
        else:
            kind = ("queries", "keys", "values").index(one.place)
            handles.append(block.projections[kind].register_forward_hook(take_output))
    with torch.no_grad():
        lm.hf(torch.tensor([prompt]))
    for handle in handles:
        handle.remove()
    return found


def effects(lm, task, placed, direction="noising", ablation="counterfactual"):
    """Effects [examples, units] of `placed(i)`: the placed members of each unit in pair i; None: it lacks them."""
    rows = []
    for i in range(len(task)):
        base, other = task.clean[i], task.corrupted[i]
        if direction == "denoising":
            base, other = other, base
        kind = vc.tasks.metric(task.metric)
        answers = task.answers([i])

        def read(logits, kind=kind, answers=answers):
            return float(kind(logits[None] if kind.vocabulary else answers.pick(logits[None]), answers))

        bare = read(hooked(lm, base, {}, ()))
        row = []
        for members in placed(i):
            if members is None:
                row.append(float("nan"))
                continue
            values = values_of(lm, other, members)
            if ablation == "zero":
                values = {key: torch.zeros_like(one) for key, one in values.items()}
            row.append(read(hooked(lm, base, values, members)) - bare)
        rows.append(row)
    return torch.tensor(rows, dtype=torch.float64)
