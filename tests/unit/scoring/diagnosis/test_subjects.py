from __future__ import annotations

import random

import pytest

from pytest_pot.scoring.diagnosis.subjects import Tensors, layers_in_words

from ...models import CONFIGS, MORE_CONFIGS
from .tensors import infos


@pytest.mark.parametrize("name", [*CONFIGS, *MORE_CONFIGS])
def test_every_tensor_is_in_one_subject_whatever_the_architecture(name: str) -> None:
    tensors, ties = infos(name)
    model = Tensors(tensors, ties)
    generator = random.Random(0)
    for share in (0.05, 0.2, 0.5, 0.8, 0.95, 1.0):
        for _ in range(5):
            names = [name for name in tensors if generator.random() < share]
            subjects = model.subjects(names)
            assert sorted(name for subject in subjects for name in subject.names) == sorted(names)
            assert all(0 < len(subject.words) < 150 for subject in subjects)
            assert [len(subject.names) for subject in subjects] == sorted((len(s.names) for s in subjects), reverse=True)
    assert [subject.words for subject in model.subjects(tensors)] == [f"all {len(tensors)} tensors"]


def test_layers_in_words() -> None:
    assert layers_in_words([5], 30) == "layer 5"
    assert layers_in_words([5, 6], 30) == "layers 5 and 6"
    assert layers_in_words([3, 4, 5, 6, 7], 30) == "layers 3 to 7"
    assert layers_in_words([1, 4, 9, 10, 11], 30) == "layers 1, 4 and 9 to 11"
    assert layers_in_words(list(range(30)), 30) == "all 30 layers"
    assert layers_in_words([i for i in range(30) if i != 5], 30) == "layers 0 to 4 and 6 to 29"
    assert layers_in_words(list(range(0, 28, 2)), 30) == "14 of 30 layers"
    assert layers_in_words([0], 1) == "layer 0"
