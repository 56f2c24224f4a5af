"""What is wrapped around a loaded model: taken off where the model inside is the same, refused in words where not."""

from __future__ import annotations

from typing import Any

from veracausa.errors import ArchitectureError

#: Wrappers that only run the model inside otherwise (compiled, on several devices): class → attribute that holds it.
_WRAPPERS = {"OptimizedModule": "_orig_mod", "DataParallel": "module", "DistributedDataParallel": "module"}
#: PEFT's adapters that live in the layers of the model inside: a PeftModel runs that model and nothing else.
_IN_LAYERS = {"LORA", "ADALORA", "IA3", "LOHA", "LOKR", "VERA"}

#: Linear maps that round the numbers that they are given, too, whatever their weights are.
_ROUNDING = {"Linear8bitLt"}


def unwrapped(model: Any) -> tuple[Any, str]:
    """The model inside compiled, data-parallel and PEFT wrappers, and a phrase for its source: "" if there was none.

    Of a PeftModel it is the model with the adapters in its layers, unmerged, as they are switched on.

    Raises:
        ArchitectureError: Accelerate, FSDP or DeepSpeed have changed the model itself, or how it computes; or it has
            virtual tokens, which are no part of any prompt.
    """
    taken = ""
    while (kind := type(model).__name__) in _WRAPPERS and _is_of_torch(model):
        model = getattr(model, _WRAPPERS[kind])
        taken += f", taken out of {'an' if kind[0] in 'AEIOU' else 'a'} {kind}"
    kinds = {kind.__name__ for kind in type(model).__mro__}
    if kinds & {"FullyShardedDataParallel", "FSDPModule", "DeepSpeedEngine"}:
        raise ArchitectureError(
            f"A {type(model).__name__} has spread the model's weights over processes. Save the whole model "
            "(save_pretrained, with its state dict gathered), and load that."
        )
    if "_original_forward" in getattr(model, "__dict__", ()):
        raise ArchitectureError(
            f"Accelerate runs this {type(model).__name__} in another precision than its weights have (mixed "
            "precision). Pass accelerator.unwrap_model(model, keep_fp32_wrapper=False), or the model from before "
            "accelerator.prepare."
        )
    if any(getattr(one, "is_prompt_learning", False) for one in _adapters(model)):
        raise ArchitectureError(
            "This model has virtual tokens in front of every prompt (prompt, prefix or p-tuning): they are no part of "
            "its weights and cannot be merged, and no task could name their positions. Pass model.get_base_model() to "
            "study the model without them, or train a LoRA instead."
        )
    adapters = _adapters(model)
    if adapters and hasattr(type(model), "get_base_model") and all(_in_layers(one) for one in adapters):
        taken += f", taken out of a {type(model).__name__}, adapters included"
        model = model.get_base_model()
    return model, taken


def _in_layers(config: Any) -> bool:
    """Whether an adapter is in the layers alone; an activated LoRA looks for its invocation in every prompt."""
    kind = getattr(config.peft_type, "value", config.peft_type)
    return kind in _IN_LAYERS and getattr(config, "alora_invocation_tokens", None) is None


def require_weights(hf: Any, title: str) -> None:
    """Check that every weight is whole and has numbers: floating-point ones, or packed in a linear map that runs.

    A quantised linear map is taken as it runs (`anatomy.linear`): it must give finite numbers that follow what it is
    given. Where no gradient passes, exact effects alone are given (`anatomy.packed`).

    Raises:
        ArchitectureError: naming the first module where it is something else.
    """
    from veracausa.anatomy.linear import is_plain, linear_shape
    from veracausa.anatomy.packed import passed_by, require_unpacked

    require_unpacked(hf)
    for name, module in hf.named_modules():
        wanted = linear_shape(module)
        if type(module).__name__ in _ROUNDING:
            raise ArchitectureError(
                f"{title} has {name} as a {type(module).__name__}, which rounds what it is given, by all that is given "
                "at once: no run would have a number of its own. Load the model in 4 bits (load_in_4bit=True), with "
                "torchao's Int8WeightOnlyConfig, or unquantised."
            )
        for key, weight in _weights(module, wanted is not None):
            whole = wanted is None or key != "weight" or tuple(getattr(weight, "shape", ())) in (wanted, wanted[::-1])
            passes = "gradients" if is_plain(weight) and whole else passed_by(module, wanted, hf) if wanted else ""
            kind = type(module)
            if passes == "rounded":
                raise ArchitectureError(
                    f"{title} has {name}, a {kind.__name__} ({_described(weight)}), that rounds what it is given, too "
                    "(dynamic quantisation of activations): it is no linear map, so what heads and neurons write "
                    "cannot be told. Load the model with quantised weights alone, such as torchao's "
                    "Int8WeightOnlyConfig, or unquantised."
                )
            if not passes:
                if kind.__name__ == "ParamWrapper":
                    raise ArchitectureError(
                        f"{title} has a PEFT adapter on {name}, a parameter and not a linear map of its own (experts). "
                        "Merge it and pass the result: model.merge_and_unload()."
                    )
                shape = f" of shape [{wanted[0]}, {wanted[1]}]" if wanted else ""
                raise ArchitectureError(
                    f"{title} has quantised weights that do not run here, or only a part of them: {name}.{key} of a "
                    f"{kind.__module__.partition('.')[0]} {kind.__name__} is {_described(weight)}, not floating-point "
                    f"numbers{shape}. Load the model without quantization_config (dtype=torch.bfloat16 halves its "
                    "memory), or turn it back first where its library can: model.dequantize(), of compressed-tensors "
                    "quantization_config=CompressedTensorsConfig(dequantize=True)."
                )


def packed_as(hf: Any) -> str:
    """The class of the first linear map whose weight is packed, or of that weight; "" if there is none."""
    from veracausa.anatomy.linear import is_plain, linear_shape

    for module in hf.modules():
        weight = getattr(module, "weight", None) if linear_shape(module) else None
        if weight is not None and not is_plain(weight):
            plain = type(module).__name__ != "Linear"
            return type(module if plain else weight.data).__name__
    return ""


def _is_of_torch(model: Any) -> bool:
    return any(kind.__module__.startswith("torch.") for kind in type(model).__mro__)


def _adapters(model: Any) -> list[Any]:
    """The PEFT configs of a PeftModel."""
    configs = getattr(model, "peft_config", None)
    return list(configs.values()) if isinstance(configs, dict) else []


def _weights(module: Any, linear: bool) -> list[tuple[str, Any]]:
    """A module's own parameters; of a linear map also its `weight`, whatever that is."""
    own = dict(module.named_parameters(recurse=False))
    if linear and "weight" not in own:
        own["weight"] = getattr(module, "weight", None)
    return list(own.items())


def _described(weight: Any) -> str:
    import torch

    if isinstance(weight, torch.Tensor):
        kind = "" if type(weight.data) is torch.Tensor else f" in a {type(weight.data).__name__}"
        return f"{str(weight.dtype).removeprefix('torch.')} of shape {list(weight.shape)}{kind}"
    return "packed" if callable(weight) else "absent"
