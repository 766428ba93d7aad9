"""What a tokenizer is made of: a digest for each part."""

from __future__ import annotations

import ctypes
import json
import sys
import weakref
from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from functools import cache, partial
from operator import attrgetter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pytest_pot.core.hashing import digest

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "COMPONENTS",
    "PART_NAMES",
    "VERSIONED_PARTS",
    "added_tokens",
    "component",
    "different_parts",
    "model_settings",
    "special_tokens",
    "tokenizer_digests",
    "tokenizer_identity",
    "tokenizer_state",
    "tokens_beyond",
    "unchanged",
    "with_flags",
]

PART_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "vocabulary": "vocabulary",
        "added_tokens": "added tokens",
        "merges": "merges",
        "scores": "token scores",
        "sentencepiece": "SentencePiece model",
        "model": "settings of the tokenizer's model",
        "normalizer": "normalizer",
        "pre_tokenizer": "pre-tokenizer",
        "post_processor": "post-processor",
        "decoder": "decoder",
        "special_tokens": "special tokens",
        "chat_template": "chat template",
        "encoding": "encoding of a fixed text",
    }
)
"""The parts that are compared, as people call them; see :func:`tokenizer_digests`."""

COMPONENTS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
VERSIONED_PARTS = ("model", *COMPONENTS)
"""Parts as the tokenizers library writes them: compared only where the same version of it wrote both."""

_ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "cls_token", "mask_token")
_MODEL_SETTINGS = (
    "alpha",
    "byte_fallback",
    "continuing_subword_prefix",
    "dropout",
    "end_of_word_suffix",
    "fuse_unk",
    "ignore_merges",
    "max_input_chars_per_word",
    "nbest_size",
    "unk_id",
    "unk_token",
)
"""What the models of fast tokenizers let one set, whatever their kind."""
_WHOLE = "whole"
_LARGE_PARTS = (_WHOLE, "vocabulary", "merges", "scores", "model")
_KEPT = 8

_FLAGS = ("special", "lstrip", "rstrip", "single_word", "normalized")
_content_and_flags = attrgetter("content", *_FLAGS)

_PROBE = (
    "The quick brown fox, 3.14159 and 12,345 — “naïve” café; Zürich 東京 Москва\n\n\tdef f(x):\n        return x  # ok\r\n"
    "  <s></s><|endoftext|><|im_start|> I'll don't WE'VE 🙂👩‍🚀 ﬁ ℌ\u00a0\u200b e\u0301 0000000 ==>!!! http://a.b/c?d=e_f&g"
)
"""A text that most tokenizers split differently: it has case, digits, spaces, several scripts and special tokens."""

_BY_CONTENT: dict[str, dict[str, str]] = {}
"""Digests of the large parts, by ``whole``, of the last few tokenizers, so that equal tokenizers are analysed only once."""
_BY_OBJECT: weakref.WeakKeyDictionary[Any, tuple[str, str]] = weakref.WeakKeyDictionary()
"""``whole`` by tokenizer, after a digest of its small parts: while these stay, it is not serialised again."""
_OWN_CLASSES: weakref.WeakKeyDictionary[Any, tuple[str, dict[str, str]]] = weakref.WeakKeyDictionary()
"""Digests of the large parts by tokenizer, likewise, for classes that another package defines: these have no ``whole``."""
_MODELS: weakref.WeakKeyDictionary[Any, tuple[Any, int]] = weakref.WeakKeyDictionary()
"""The model of a fast tokenizer when it was last looked at, and how often it had been replaced by then.

The model is held, so that no other can have its address.
"""


def tokenizer_digests(tokenizer: Any, recorded: Mapping[str, str] = MappingProxyType({})) -> dict[str, str]:
    """SHA-256 of each part of a tokenizer, by name.

    The first eight are the same in any version of the libraries:

    - ``vocabulary``: every token and its id.
    - ``added_tokens``: the tokens that are cut out of a text before anything else.
    - ``merges``: the merge rules of a byte-pair encoding, in order.
    - ``scores``: the token scores of a unigram model.
    - ``sentencepiece``: the model file of a tokenizer that runs SentencePiece.
    - ``special_tokens``: which tokens are BOS, EOS and so on; but for padding, which changes no result.
    - ``chat_template``: the template that renders chats, which may be None.
    - ``encoding``: the ids of a fixed text, which depend on all other parts.
    - ``model``, ``normalizer``, ``pre_tokenizer``, ``post_processor``, ``decoder``: the other parts of a fast tokenizer, as
      it serialises them; see :data:`VERSIONED_PARTS`.
    - ``whole``: a fast tokenizer as it serialises itself. If it is equal, everything is equal; if it differs, nothing
      follows, because it depends on the version of the library.

    A part that a tokenizer does not have, or cannot report, is left out. The tokenizer is not changed.

    The digests of vocabulary and rules of a large tokenizer take a second. They are computed once for a tokenizer that does
    not change; if ``whole`` is the same as in ``recorded``, they are copied from there.
    """
    with unchanged(tokenizer):
        small = _small_parts(tokenizer)
        return {**_large_parts(tokenizer, small, recorded), **small}


def tokenizer_identity(tokenizer: Any) -> dict[str, str]:
    """The digests that identify a tokenizer: where they are equal, all are. They take less time than all."""
    with unchanged(tokenizer):
        small = _small_parts(tokenizer)
        whole = _whole(tokenizer, small)
        return {**({_WHOLE: whole} if whole else _own_parts(tokenizer, small)), **small}


def tokenizer_state(tokenizer: Any) -> str | None:
    """A digest that changes with what people change of a tokenizer in memory, and so with what it makes of texts.

    Seen are: attributes of the tokenizer, another ``backend_tokenizer``, another ``backend_tokenizer.model`` even if it has
    the same size, settings of the model, added and special tokens, normalizer, pre-tokenizer, post-processor, decoder, chat
    template, the number of tokens, and the ids of a fixed text.

    Not seen are other tokens, merges or scores in a model that stays in its place, which only ``backend_tokenizer.train`` and
    its like bring about, where the number of tokens and the ids of the fixed text stay the same.

    None where a change could not be seen: a tokenizer that is not one of transformers' fast ones, that has parts in Python,
    or some of whose methods were replaced; and where nothing tells one model from another (another Python than CPython).
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not _is_librarys_own(tokenizer) or _address(backend.model) is None:
        return None
    with unchanged(tokenizer):
        small = _small_parts(tokenizer)
    return _state(tokenizer, small) if small.keys() >= {"added_tokens", "encoding", *COMPONENTS} else None


def different_parts(one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """The names of the parts whose digests differ, or that only one side has.

    The encoding depends on the others, so it is listed only if all others are equal.
    """
    names = [name for name in PART_NAMES if one.get(name) != other.get(name)]
    return [name for name in names if name != "encoding"] or names


def tokens_beyond(recorded: Mapping[str, str], tokenizer: Any) -> dict[int, str]:
    """The added tokens, by id, that ``tokenizer`` has beyond those of the ``recorded`` digests, and after them.

    Empty where there are none, and where anything else differs in the added tokens or the vocabulary.
    """
    with suppress(Exception):  # a tokenizer may be any object
        tokens = added_tokens(tokenizer)
        for n in reversed(range(len(tokens))):
            if digest([_json(_entries(tokens[:n]))]) == recorded.get("added_tokens"):
                more = {index: str(token) for index, token in tokens[n:]}
                vocabulary = _digests(_vocabulary(tokenizer, more.keys()))["vocabulary"]
                return more if vocabulary == recorded.get("vocabulary") else {}
    return {}


@contextmanager
def unchanged(tokenizer: Any) -> Iterator[None]:
    """Restore a fast tokenizer's truncation and padding settings, which every call of the tokenizer overwrites."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    truncation, padding = getattr(backend, "truncation", None), getattr(backend, "padding", None)
    try:
        yield
    finally:
        if backend is not None and truncation is not None:
            backend.enable_truncation(**truncation)
        if backend is not None and padding is not None:
            backend.enable_padding(**padding)


# -- digests -----------------------------------------------------------------------------------------------------------


def _small_parts(tokenizer: Any) -> dict[str, str]:
    """The parts that are read again each time."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    parts: dict[str, Callable[[], Any]] = {
        "added_tokens": lambda: _entries(added_tokens(tokenizer)),
        "special_tokens": lambda: special_tokens(tokenizer),
        "chat_template": lambda: tokenizer.chat_template,
        "encoding": lambda: [
            list(map(int, tokenizer(_PROBE, add_special_tokens=special, verbose=False)["input_ids"]))
            for special in (True, False)
        ],
        "sentencepiece": lambda: tokenizer.sp_model.serialized_model_proto().hex(),
    }
    if backend is not None:
        parts |= {name: partial(component, backend, name) for name in COMPONENTS}
    return _digests(parts)


def _large_parts(tokenizer: Any, small: Mapping[str, str], recorded: Mapping[str, str]) -> dict[str, str]:
    """``whole``, vocabulary and rules."""
    whole = _whole(tokenizer, small)
    if not whole:
        return _own_parts(tokenizer, small)
    if whole not in _BY_CONTENT:
        if recorded.get(_WHOLE) == whole and "model" in recorded:  # not kept: the file may have been forged
            return {name: recorded[name] for name in _LARGE_PARTS if name in recorded}
        while len(_BY_CONTENT) >= _KEPT:
            del _BY_CONTENT[next(iter(_BY_CONTENT))]
        _BY_CONTENT[whole] = {**_vocabulary_and_rules(tokenizer), _WHOLE: whole}
    return dict(_BY_CONTENT[whole])


def _own_parts(tokenizer: Any, small: Mapping[str, str]) -> dict[str, str]:
    """Vocabulary and rules of a tokenizer without ``whole``; kept for a fast one while its small parts stay."""
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        return _vocabulary_and_rules(tokenizer)
    state = _state(tokenizer, small)
    known, digests = "", dict[str, str]()
    with suppress(TypeError):  # a class may allow no weak references, or no hashes
        known, digests = _OWN_CLASSES.get(tokenizer, (known, digests))
    if known != state:
        digests = _vocabulary_and_rules(tokenizer)
        with suppress(TypeError):
            _OWN_CLASSES[tokenizer] = state, digests
    return dict(digests)


def _vocabulary_and_rules(tokenizer: Any) -> dict[str, str]:
    rules: dict[str, Callable[[], Any]] = {}
    with suppress(Exception):  # it has no backend, or one with parts in Python, which cannot be written
        rules = _rules(tokenizer.backend_tokenizer.to_str())
    return _digests({**_vocabulary(tokenizer), **rules})


def _is_librarys_own(tokenizer: Any) -> bool:
    """Whether all that ``tokenizer`` runs is transformers' own, and takes a list of texts where it takes one."""
    kind: Any = type(tokenizer)
    own = kind.__module__.startswith("transformers.") and kind.__call__.__module__ == "transformers.tokenization_utils_base"
    return own and not any(map(callable, vars(tokenizer).values()))


def _state(tokenizer: Any, small: Mapping[str, str]) -> str:
    """For a fast tokenizer of any class; see :func:`tokenizer_state`."""
    backend, size = tokenizer.backend_tokenizer, 0
    with suppress(Exception):  # a class of one's own may have no length
        size = len(tokenizer)
    values = getattr(tokenizer, "__dict__", {})
    attributes = [(name, repr(value)) for name, value in values.items() if isinstance(value, str | int | float)]
    model = getattr(backend, "model", None)
    settings = [repr(getattr(model, name, None)) for name in _MODEL_SETTINGS]
    kind = [id(backend), type(model).__name__, _times_replaced(tokenizer, model), settings, size]
    return digest([_json([*kind, sorted(attributes), sorted(small.items())])])


def _times_replaced(tokenizer: Any, model: Any) -> int:
    """How often another ``model`` was put into ``tokenizer``, as far as it was looked at in between."""
    n_times = 0
    with suppress(TypeError):  # a class may allow no weak references, or no hashes
        held, n_times = _MODELS.get(tokenizer, (model, 0))
        if _address(held) != _address(model):
            n_times += 1
        _MODELS[tokenizer] = model, n_times
    return n_times


def _address(model: Any) -> int | None:
    """Where the tokenizers library has a ``model`` in memory; None where that cannot be read.

    Each access to ``backend_tokenizer.model`` makes another Python object, which nothing compares with the last one. All
    that is in it is a pointer to the model, right behind the header that all Python objects have.
    """
    return _pointer_in(model) if _pointers_tell_models_apart() else None


@cache
def _pointers_tell_models_apart() -> bool:
    """Whether the library has that layout: the same model has the same pointer each time, and another model another one."""
    from tokenizers import Tokenizer, models

    with suppress(Exception):  # another version may have none of these
        one, other = models.BPE(), models.BPE()
        backend = Tokenizer(one)
        pointers = {_pointer_in(model) for model in (one, backend.model, backend.model)}
        return len(pointers) == 1 and None not in pointers and _pointer_in(other) not in pointers
    return False


def _pointer_in(model: Any) -> int | None:
    size = type(model).__basicsize__ - object.__basicsize__
    if sys.implementation.name != "cpython" or size < ctypes.sizeof(ctypes.c_void_p):
        return None
    return ctypes.c_void_p.from_address(id(model) + object.__basicsize__).value


def _whole(tokenizer: Any, small: Mapping[str, str]) -> str:
    """``whole``; empty where a tokenizer does not serialise itself."""
    # A class from elsewhere may compute its vocabulary from anything, so that nothing would prove that it stayed the same.
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not type(tokenizer).__module__.startswith("transformers."):
        return ""
    state = _state(tokenizer, small)
    known, whole = _BY_OBJECT.get(tokenizer, ("", ""))
    if known != state:
        whole = ""
        with suppress(Exception):  # it may have parts in Python, which cannot be written
            text = backend.to_str()
            # Without the settings in front, for truncation and padding, which are not used here.
            content = text[text.find('"added_tokens":') :]
            whole = digest([type(tokenizer).__qualname__.encode(), content.encode()])
        _BY_OBJECT[tokenizer] = state, whole
    return whole


def _vocabulary(tokenizer: Any, but_for: Set[int] = frozenset()) -> dict[str, Callable[[], Any]]:
    """``but_for``: ids to leave out."""
    return {
        "vocabulary": lambda: sorted(
            (repr(token), index) for token, index in tokenizer.get_vocab().items() if index not in but_for
        )
    }


def _rules(text: str) -> dict[str, Callable[[], Any]]:
    """The parts of a fast tokenizer's model other than its vocabulary; ``text``: the tokenizer as it serialises itself."""
    model = json.loads(text)["model"]
    parts: dict[str, Callable[[], Any]] = {"model": lambda: model_settings(model)}
    if "merges" in model:
        # As "left right", because the library has changed its own form of a merge over time.
        parts["merges"] = lambda: [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    if isinstance(model.get("vocab"), list):
        parts["scores"] = lambda: [score for _, score in model["vocab"]]
    return parts


def _entries(tokens: Sequence[tuple[int, Any]]) -> list[list[Any]]:
    return [[index, *with_flags(token)] for index, token in tokens]


def model_settings(model: Mapping[str, Any]) -> dict[str, Any]:
    """What a fast tokenizer's model has beside tokens and merges."""
    return {name: value for name, value in model.items() if name not in ("vocab", "merges")}


def _digests(parts: Mapping[str, Callable[[], Any]]) -> dict[str, str]:
    digests: dict[str, str] = {}
    for name, part in parts.items():
        # A tokenizer may be any object, and may raise any exception for a part that it does not have.
        with suppress(Exception):
            digests[name] = digest([_json(part())])
    return digests


def component(backend: Any, name: str) -> str | None:
    """A component of a fast tokenizer as it serialises itself; None where it has none."""
    component = getattr(backend, name)
    return None if component is None else component.__getstate__().decode()


def added_tokens(tokenizer: Any) -> list[tuple[int, Any]]:
    """The added tokens with their ids, by id."""
    return sorted(tokenizer.added_tokens_decoder.items())


def special_tokens(tokenizer: Any) -> dict[str, str | None]:
    """The tokens by their roles, as text; None for a role without a token.

    Raises:
        AttributeError: the tokenizer knows of no roles.
    """
    tokens = {role: getattr(tokenizer, role) for role in _ROLES if hasattr(tokenizer, role)}
    if not tokens:
        raise AttributeError("no special tokens")
    return {role: None if token is None else str(token) for role, token in tokens.items()}


def with_flags(token: Any) -> list[Any]:
    """The text of an added token, and the rules by which it is cut out of a text."""
    try:
        return list(_content_and_flags(token))  # at once: a tokenizer may have thousands of added tokens
    except AttributeError:
        return [str(token), *(getattr(token, name, None) for name in _FLAGS)]


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
