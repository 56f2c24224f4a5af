"""Dictionaries against their formulas, written out."""

import pytest
import torch

from veracausa.dictionaries import Dictionary, Encoder, Site
from veracausa.errors import MethodError

WIDTH, SIZE = 6, 20


@pytest.fixture
def parts():
    g = torch.Generator().manual_seed(0)
    return lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)


def encoders(draw):
    weight, bias, before = draw(WIDTH, SIZE), draw(SIZE), draw(WIDTH)
    threshold, r, mag = draw(SIZE).abs(), draw(SIZE) / 4, draw(SIZE)
    return {
        "linear": Encoder(weight, bias, "linear"),
        "relu": Encoder(weight, bias, "relu", before=before),
        "jumprelu": Encoder(weight, bias, "jumprelu", threshold=threshold),
        "topk": Encoder(weight, bias, "topk", k=3),
        "gated": Encoder(weight, bias, "gated", before=before, log_scale=r, magnitude_bias=mag),
        "constant_norm": Encoder(weight, bias, "relu", norm="constant_norm"),
        "layer_norm": Encoder(weight, bias, "topk", k=4, norm="layer_norm"),
    }


def naive(e: Encoder, x: torch.Tensor) -> torch.Tensor:
    """Feature by feature and token by token, with loops."""
    out = torch.zeros(len(x), e.size, dtype=x.dtype)
    for t, token in enumerate(x):
        scale = 1.0
        if e.norm == "constant_norm":
            scale = token.pow(2).sum().sqrt() / len(token) ** 0.5
            token = token / scale
        if e.norm == "layer_norm":
            scale = token.std()
            token = (token - token.mean()) / (scale + e.norm_eps)
        token = token if e.before is None else token - e.before
        raw = torch.stack([(token * e.weight[:, i]).sum() for i in range(e.size)])
        pre = raw + e.bias
        for i in range(e.size):
            if e.activation == "linear":
                f = pre[i]
            elif e.activation == "relu":
                f = max(pre[i], torch.tensor(0.0, dtype=x.dtype))
            elif e.activation == "jumprelu":
                f = pre[i] if pre[i] > e.threshold[i] else 0.0
            elif e.activation == "topk":
                f = max(float(pre[i]), 0.0) if int((pre > pre[i]).sum()) < e.k else 0.0
            else:
                f = max(float(raw[i] * e.log_scale[i].exp() + e.magnitude_bias[i]), 0.0) if pre[i] > 0 else 0.0
            out[t, i] = f * scale
    return out


@pytest.mark.parametrize("kind", ["linear", "relu", "jumprelu", "topk", "gated", "constant_norm", "layer_norm"])
def test_features_are_those_of_the_formula(parts, kind):
    encoder, x = encoders(parts)[kind], parts(9, WIDTH)
    wanted = naive(encoder, x)
    # float64, sums of six products: rounding alone
    torch.testing.assert_close(encoder(x), wanted, rtol=0, atol=1e-12)
    some = torch.tensor([17, 2, 5])
    torch.testing.assert_close(encoder.at(x, some), wanted[:, some], rtol=0, atol=1e-12)
    assert (encoder(x) != 0).any()


def test_reconstruction_and_error_are_the_whole(parts):
    for encoder in encoders(parts).values():
        dic = Dictionary.of(encoder, parts(SIZE, 5), parts(5), site="n3", writes="m3", skip=parts(WIDTH, 5))
        x, y = parts(7, WIDTH), parts(7, 5)
        torch.testing.assert_close(dic.reconstruct(x) + dic.error(x, y), y, rtol=0, atol=1e-12)


def test_a_norm_is_undone(parts):
    """Directions that span everything give back what they were given, whatever the norm."""
    basis = torch.linalg.qr(parts(WIDTH, WIDTH))[0]
    for norm in ("none", "constant_norm", "layer_norm"):
        encoder = Encoder(basis, torch.zeros(WIDTH, dtype=torch.float64), "linear", norm=norm, norm_eps=0.0)
        dic = Dictionary.of(encoder, basis.T, site="r2")
        x = parts(4, WIDTH)
        torch.testing.assert_close(dic.reconstruct(x), x, rtol=0, atol=1e-12)


def test_a_digest_knows_every_number(parts):
    encoder = encoders(parts)["topk"]
    dic = Dictionary.of(encoder, parts(SIZE, WIDTH), site="r2")
    other = dic._each(torch.clone)
    assert dic.digest() == other.digest()
    other.encoder.bias[3] += 1e-12
    assert dic.digest() != other.digest()
    assert dic.to(torch.float32).digest() != dic.digest() != dic.named("mlp").digest()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda w: Encoder(w.T, torch.zeros(SIZE), "relu"), "transposed"),
        (lambda w: Encoder(w, torch.zeros(SIZE), "jumprelu"), "needs threshold"),
        (lambda w: Encoder(w, torch.zeros(SIZE), "jumprelus"), "Did you mean 'jumprelu'"),
        (lambda w: Encoder(w, torch.zeros(SIZE), "relu", norm="layer"), "norm='layer' is not known"),
        (lambda w: Encoder(w, torch.zeros(SIZE), "topk"), "needs k"),
        (lambda w: Encoder(w, torch.zeros(SIZE), "topk", k=SIZE + 1), "k=21"),
        (lambda w: Dictionary.of(Encoder(w, torch.zeros(SIZE), "relu"), w, site="r1"), "transposed"),
        (lambda w: Dictionary.of(Encoder(w, torch.zeros(SIZE), "relu"), w.T, site="n1"), "Nothing writes at n1"),
        (lambda w: Dictionary.of(Encoder(w, torch.zeros(SIZE), "relu"), w.T, site="q1"), "not known"),
        (lambda w: Dictionary.of(Encoder(w, torch.zeros(SIZE), "relu"), w.T, site="r1", name="error"), "no name"),
        (lambda w: Dictionary.of(Encoder(w, torch.zeros(SIZE), "relu"), w.T, site="r1", labels=("a",)), "1 labels"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(change, said):
    with pytest.raises(MethodError, match=said):
        change(torch.randn(WIDTH, SIZE))


def test_sites():
    for name in ("r0", "a12", "m3.post", "z7", "n30"):
        assert Site.of(name).name == name
    for name in ("r01", "r1.post", "x3", "", 3):
        with pytest.raises(MethodError):
            Site.of(name)
