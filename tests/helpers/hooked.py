"""A model with hooks of every kind: functions, closures, objects, methods, partial functions."""

import functools

import tiny_models
from bridges import as_model


def half(module, args, output):
    return output * 0.5


def scaled(by):
    return lambda module, args, output: output * by


class Scale:
    def __init__(self, by):
        self.by = by

    def __call__(self, module, args, output):
        return output * self.by

    def method(self, module, args, output):
        return output * self.by


def with_hooks():
    lm = as_model(tiny_models.make("mistral", seed=1), "mistral")
    for hook in (half, scaled(0.5), Scale(0.5), Scale(0.5).method, functools.partial(half)):
        lm.hf.model.layers[0].mlp.register_forward_hook(hook)
    return lm.identity
