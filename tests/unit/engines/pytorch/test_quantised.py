"""Quantised models: left in their own precision, named packages, and methods that cannot be read."""

from __future__ import annotations

import copy
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

from pytest_pot import PotError, Prompt, ScoringConfig, TeacherForcedScorer
from pytest_pot.engines.pytorch import quantised
from pytest_pot.engines.pytorch.backend import PyTorchBackend
from pytest_pot.engines.pytorch.model_identity import loads_as_known
from pytest_pot.engines.pytorch.quantised import is_quantised, loading_options, settings_in
from pytest_pot.engines.registry import load_model

from ...models import tiny
from ...published_formats import FORMATS, make, save, unquantised, write_config, write_fp8

AUTO = ScoringConfig(device="cpu")
IS_4 = transformers.__version__.startswith("4.")

pytestmark = pytest.mark.filterwarnings("default")  # the libraries of the formats warn while they are imported


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def folder_of(home: Path, tokenizer: PreTrainedTokenizerFast) -> Callable[[str], Path]:
    """Make each folder once; all from bfloat16 weights, as most are."""
    return lambda name: home / name if (home / name).exists() else make(name, home, tokenizer, torch.bfloat16)


MOST_TV = {
    "bitsandbytes int8": 0.03,
    "bitsandbytes nf4": 0.15,
    "torchao int8": 0.03,
    "torchao int4": 0.2,
    "compressed-tensors w8a8": 0.03,
    "compressed-tensors w4a16": 0.15,
    "fp8": 0.05,
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_quantised_folder_runs_in_its_own_dtype(
    folder_of: Callable[[str], Path], prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast, name: str
) -> None:
    spec = str(folder_of(name))
    model = load_model(spec, "candidate", AUTO).model
    # fp8 has no kernel for CPUs: it is dequantised there, and so becomes a model like any other.
    assert is_quantised(model) == (name != "fp8")
    assert model.dtype == (torch.float32 if name == "fp8" else torch.bfloat16)
    scorer = TeacherForcedScorer(AUTO)
    assert scorer.score_batch(load_model(spec, "reference", AUTO).model, model, prompts, tokenizer).mean == 0
    assert 0.001 < scorer.score_batch(unquantised(), model, prompts, tokenizer).mean < MOST_TV[name]


@pytest.mark.parametrize("name", FORMATS)
def test_a_quantised_object_runs_in_its_own_dtype(
    folder_of: Callable[[str], Path], prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast, name: str
) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(folder_of(name), dtype="auto")
    report = TeacherForcedScorer(AUTO).score_batch(unquantised(), model, prompts, tokenizer)
    assert report.labels[1] == ("float32 on cpu" if name == "fp8" else "bfloat16 on cpu")
    assert 0.001 < report.mean < MOST_TV[name]
    assert model.dtype == torch.bfloat16


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "fp8"])
def test_a_quantised_object_refuses_another_dtype(folder_of: Callable[[str], Path], name: str) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(folder_of(name), dtype="auto")
    with (
        pytest.raises(PotError) as error,
        PyTorchBackend().opened(model, "candidate", ScoringConfig(device="cpu", dtype="float32")),
    ):
        pass
    assert str(error.value) == (
        "cannot score this model with dtype='float32': it is quantised and runs in bfloat16, and converting a quantised model "
        "breaks it. Load it with dtype=torch.float32, or set dtype='auto'"
    )
    with PyTorchBackend().opened(model, "candidate", ScoringConfig(device="cpu", dtype="bfloat16")) as engine:
        assert engine.label == "bfloat16 on cpu"


@pytest.mark.parametrize(
    ("name", "honoured"),
    [
        ("bitsandbytes int8", False),
        ("bitsandbytes nf4", False),
        ("torchao int8", False),
        ("compressed-tensors w4a16", True),
        ("fp8", True),
    ],
)
def test_a_quantised_folder_is_loaded_in_another_dtype_if_its_format_allows_that(
    folder_of: Callable[[str], Path], name: str, honoured: bool
) -> None:
    spec, config = str(folder_of(name)), ScoringConfig(device="cpu", dtype="float32")
    if honoured:
        assert quantised.float_dtypes(load_model(spec, "candidate", config).model) == {torch.float32}
        return
    with pytest.raises(PotError) as error:
        load_model(spec, "candidate", config)
    runs = str(error.value).partition("runs in ")[2].partition(",")[0]
    assert runs in ("bfloat16", "bfloat16 and float32")
    assert str(error.value) == (
        f"cannot score the candidate {spec!r} with dtype='float32': it is quantised and runs in {runs}, and converting a "
        "quantised model breaks it. Quantise it again from weights in float32, or set dtype='auto'"
    )


def test_fp8_is_dequantised_straight_to_float32(folder_of: Callable[[str], Path]) -> None:
    """Not to the checkpoint's bfloat16 first, which would round the products of weights and scales."""
    spec = str(folder_of("fp8"))
    automatic = load_model(spec, "candidate", AUTO).model.state_dict()
    exact = AutoModelForCausalLM.from_pretrained(spec, dtype=torch.float32).state_dict()
    assert all(torch.equal(tensor, exact[name]) for name, tensor in automatic.items())


@pytest.mark.skipif(not IS_4, reason="transformers 5 dequantises fp8")
def test_fp8_that_cannot_be_dequantised_is_refused_on_a_cpu(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """Also where there is a GPU: its kernel would fail in the first forward on the CPU."""
    folder = tmp_path / "fp8"
    write_fp8(save(unquantised(), tmp_path / "source", tokenizer), folder)
    assert loading_options(settings_in(str(folder)), torch.device("cpu"), "auto") == {}
    with pytest.raises(PotError) as error:
        load_model(str(folder), "candidate", AUTO)
    assert str(error.value) == (
        f"the candidate {str(folder)!r} is quantised by fp8, which runs on a GPU only, and transformers "
        f"{transformers.__version__} cannot dequantise it: install transformers 5 or newer, set device='cuda', or name an "
        "unquantised or dequantised copy"
    )


def test_layers_that_a_user_quantised_count_too(prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast) -> None:
    """Nothing on the model says so; its weights do."""
    quantization = pytest.importorskip("torchao.quantization")
    model = unquantised(torch.bfloat16)
    quantization.quantize_(model, quantization.Int8WeightOnlyConfig())
    assert is_quantised(model)
    report = TeacherForcedScorer(AUTO).score_batch(unquantised(), model, prompts, tokenizer)
    assert report.labels[1] == "bfloat16 on cpu"
    assert 0.001 < report.mean < 0.03


def test_a_wrapped_quantised_model_is_quantised(folder_of: Callable[[str], Path]) -> None:
    class Wrapper(torch.nn.Module):
        def __init__(self, model: torch.nn.Module) -> None:
            super().__init__()
            self.model = model

    assert is_quantised(Wrapper(load_model(str(folder_of("bitsandbytes nf4")), "candidate", AUTO).model))


def test_plain_models_are_not_quantised() -> None:
    assert not is_quantised(tiny("llama"))
    assert not is_quantised(tiny("mamba").bfloat16())
    assert not is_quantised(torch.nn.Linear(2, 3).double())


def test_float8_weights_are_left_alone() -> None:
    layer = torch.nn.Linear(4, 4)
    layer.weight = torch.nn.Parameter(layer.weight.data.to(torch.float8_e4m3fn), requires_grad=False)
    assert is_quantised(layer)


def marked(kind: type[torch.nn.Module] = torch.nn.Linear, **marks: Any) -> torch.nn.Module:
    """A model with a layer of class ``kind`` and what libraries note on the models that they quantise."""
    model = torch.nn.Sequential(torch.nn.Sequential(kind(4, 4)))
    for name, value in marks.items():
        setattr(model[0], name, value)
    return model


def quantiser(method: str, *, dequantize: bool = False) -> Any:
    return SimpleNamespace(quantization_config=SimpleNamespace(quant_method=method, dequantize=dequantize))


def layer_of(module: str, name: str) -> type[torch.nn.Linear]:
    return type(name, (torch.nn.Linear,), {"__module__": module})


@pytest.mark.parametrize(
    ("model", "methods", "quantised_at_all"),
    [
        (marked(hf_quantizer=quantiser("awq")), {"awq"}, True),
        (marked(hf_quantizer=quantiser("fp8", dequantize=True)), set(), False),
        (marked(hf_quantizer=quantiser("fp8", dequantize=True), quantization_method="fp8"), set(), False),
        (marked(quantization_method="gptq"), {"gptq"}, True),
        (marked(quantization_method="gguf"), set(), False),
        (marked(layer_of("kernels.gguf", "GgufLinear"), quantization_method="gguf"), {"gguf"}, True),
        (marked(is_loaded_in_4bit=True), set(), True),
        (marked(is_loaded_in_8bit=False), set(), False),
        (marked(layer_of("bitsandbytes.nn.modules", "Linear4bit")), set(), True),
        (marked(layer_of("torch.ao.nn.quantized.modules.linear", "Linear")), set(), True),
        (marked(layer_of("bitsandbytesque", "Linear")), set(), False),
    ],
)
def test_what_libraries_note_on_a_model_says_how_it_was_quantised(
    model: torch.nn.Module, methods: set[str], quantised_at_all: bool
) -> None:
    assert quantised.methods_of(model) == methods
    assert is_quantised(model) == quantised_at_all


def test_parameters_of_a_library_are_quantised() -> None:
    model = torch.nn.Linear(4, 4)
    library_class = type("Int8Params", (torch.nn.Parameter,), {"__module__": "bitsandbytes.nn.modules"})
    model.weight = library_class(model.weight.data)
    assert is_quantised(torch.nn.Sequential(model))
    assert quantised.package_of(torch.nn.Sequential(model)) == "bitsandbytes Int8Params"


def test_a_quantised_model_is_compared_where_it_is(folder_of: Callable[[str], Path]) -> None:
    assert PyTorchBackend().pinned(load_model(str(folder_of("bitsandbytes nf4")), "candidate", AUTO).model)
    assert not PyTorchBackend().pinned(unquantised())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a second device")
def test_a_quantised_model_stays_on_its_device() -> None:
    layer = torch.nn.Linear(4, 4)
    layer.weight = torch.nn.Parameter(layer.weight.data.to(torch.float8_e4m3fn), requires_grad=False)
    with pytest.raises(PotError) as error, PyTorchBackend().opened(layer, "candidate", ScoringConfig(device="cuda")):
        pass
    assert str(error.value) == (
        "cannot score this model with device='cuda': it is quantised, so it runs on the device on which it was loaded (cpu). "
        "Load it on that device, or set device='auto'"
    )


def methods() -> list[str]:
    """All methods that the installed version of transformers can read from a config."""
    return [method for method in AUTO_QUANTIZATION_CONFIG_MAPPING if method != "gguf"]


@pytest.mark.parametrize("method", methods())
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """For every method of transformers: packages that are not installed are named, or there are none."""
    save(tiny("llama"), tmp_path, tokenizer)
    settings: dict[str, object] = {"quant_method": method, "bits": 4, "group_size": 32}
    if method.startswith("bitsandbytes"):
        settings = {"quant_method": "bitsandbytes", f"load_in_{method[-4:]}": True}
    write_config(tmp_path, tmp_path, quantization_config=settings)
    name = "bitsandbytes" if method.startswith("bitsandbytes") else method
    packages = quantised._NEEDED[name]
    missing = [package for module, package in packages if not quantised._is_installed(module)]
    spec = str(tmp_path)
    if not missing:
        return  # the other tests load what this environment can
    with pytest.raises(PotError) as error:
        load_model(spec, "candidate", AUTO)
    verb = "a package that is" if len(missing) == 1 else "packages that are"
    assert str(error.value) == (
        f"the candidate {spec!r} is quantised by {name}, and that needs {verb} not installed: pip install {' '.join(missing)}"
    )


def test_every_method_of_transformers_has_its_packages() -> None:
    names = {"bitsandbytes" if method.startswith("bitsandbytes") else method for method in AUTO_QUANTIZATION_CONFIG_MAPPING}
    assert names <= quantised._NEEDED.keys()


@pytest.mark.parametrize("settings", [{"quant_method": "abacus"}, {"bits": 4}])
def test_a_method_that_transformers_does_not_know_is_refused(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, settings: dict[str, object]
) -> None:
    """transformers would go on without it, and take whatever is in the file for the weights."""
    save(tiny("llama"), tmp_path, tokenizer)
    write_config(tmp_path, tmp_path, quantization_config=settings)
    with pytest.raises(PotError) as error:
        load_model(str(tmp_path), "candidate", AUTO)
    assert str(error.value) == (
        f"the candidate {str(tmp_path)!r} is quantised by {settings.get('quant_method', '')!r}, which transformers "
        f"{transformers.__version__} cannot read: install a version that can, or name an unquantised or dequantised copy"
    )


def test_files_of_a_quantised_model_do_not_tell_all(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """A reference is cached by its files only where no other library computes with them."""
    save(tiny("llama"), tmp_path, tokenizer)
    assert loads_as_known(str(tmp_path))
    write_config(tmp_path, tmp_path, quantization_config={"quant_method": "torchao"})
    assert not loads_as_known(str(tmp_path))


def test_settings_are_read_from_the_config(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    for text, expected in (
        ("{}", None),
        ("not json", None),
        ("[1]", None),
        (json.dumps({"quantization_config": {"bits": 4}}), {"bits": 4}),
        (json.dumps({"text_config": {"quantization_config": {"bits": 8}}}), {"bits": 8}),
    ):
        config.write_text(text)
        assert settings_in(str(tmp_path)) == expected
    assert settings_in("nobody/no-such-model") is None


def test_models_are_loaded_onto_the_device_where_their_kernels_are() -> None:
    on_cpu, on_gpu = torch.device("cpu"), torch.device("cuda")
    has_accelerate = importlib.util.find_spec("accelerate") is not None
    for method in ("torchao", "bitsandbytes", "fp8"):
        options = loading_options({"quant_method": method}, on_gpu, "auto")
        assert options == ({"device_map": {"": on_gpu}} if has_accelerate else {})
    assert loading_options({"quant_method": "torchao"}, on_cpu, "auto") == {}
    assert loading_options({"load_in_8bit": True}, on_cpu, "auto") == {"device_map": {"": on_cpu}}
    assert loading_options(None, on_cpu, "auto") == {}
    for method in ("mxfp4",) if IS_4 else ("fp8", "mxfp4"):
        options = loading_options({"quant_method": method}, on_cpu, "auto")
        assert options["quantization_config"].dequantize
        assert options["dtype"] == torch.float32
        assert "dtype" not in loading_options({"quant_method": method}, on_cpu, "bfloat16")


def test_scoring_does_not_copy_a_quantised_model(folder_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(str(folder_of("compressed-tensors w4a16")), "candidate", AUTO).model
    monkeypatch.setattr(copy, "deepcopy", lambda value: pytest.fail("copied"))
    with PyTorchBackend().opened(model, "candidate", AUTO) as engine:
        assert engine.label == "bfloat16 on cpu"
