"""A gate does not change the state of the process: random streams, verbosity, torch's settings."""

from __future__ import annotations

from .conftest import Project


def test_the_body_draws_the_same_numbers_with_and_without_a_gate(project: Project) -> None:
    # The first prompt's continuation is sampled.
    project.prompts("prompts.jsonl", "Who is there?", {"text": "x = 1", "continuation": "; y"})
    result = project.run_tests(
        """
        import random

        import numpy
        import pytest
        import torch

        numbers = {}

        @pytest.fixture(autouse=True)
        def seeded():
            random.seed(1)
            numpy.random.seed(1)
            torch.manual_seed(1)

        def draw():
            return random.random(), numpy.random.rand(), torch.rand(2).tolist()

        def test_plain():
            numbers["plain"] = draw()

        @pytest.mark.pot_identity
        def test_gated():
            assert draw() == numbers["plain"]

        @pytest.mark.pot_identity(candidate={padded}, preset="original", max_score=0.1)
        def test_gated_with_another_preset():
            assert draw() == numbers["plain"]
        """
    )
    result.assert_outcomes(passed=3)


def test_a_gate_keeps_the_settings_of_torch_and_transformers(project: Project) -> None:
    result = project.run_tests(
        """
        import logging
        import warnings

        import pytest
        import torch
        from transformers.utils import logging as transformers_logging

        def state():
            return (
                transformers_logging.get_verbosity(),
                transformers_logging.is_progress_bar_enabled(),
                logging.getLogger().level,
                torch.is_grad_enabled(),
                torch.is_inference_mode_enabled(),
                torch.get_default_dtype(),
                torch.get_num_threads(),
                torch.are_deterministic_algorithms_enabled(),
                len(warnings.filters),
            )

        before = {}

        @pytest.fixture(autouse=True)
        def earlier():
            transformers_logging.set_verbosity_info()
            transformers_logging.enable_progress_bar()
            before["state"] = state()
            yield
            transformers_logging.set_verbosity_warning()

        @pytest.mark.pot_identity(prompts=["Who is there?"])
        def test_gated():
            assert state() == before["state"]
        """
    )
    result.assert_outcomes(passed=1)


def test_a_gate_restores_the_training_mode_of_a_fixtures_model(project: Project) -> None:
    project.write(
        conftest="""
        import pytest
        from transformers import GPT2LMHeadModel

        @pytest.fixture(scope="session")
        def pot_candidate():
            model = GPT2LMHeadModel.from_pretrained({copy})
            model.train()
            model.transformer.h[0].eval()
            return model
        """
    )
    result = project.run_tests(
        """
        import pytest

        @pytest.mark.pot_identity(max_score=0, prompts=["Who is there?"])
        def test_it(pot_candidate):
            assert pot_candidate.training
            assert not pot_candidate.transformer.h[0].training
            assert pot_candidate.transformer.h[1].training
            assert all(parameter.requires_grad and parameter.grad is None for parameter in pot_candidate.parameters())
        """
    )
    result.assert_outcomes(passed=1)


def test_a_gate_emits_no_warning(project: Project) -> None:
    result = project.run_tests(
        """
        import pytest

        @pytest.mark.pot_identity(max_score=0, prompts=["Who is there?", "x = 1"])
        def test_it():
            pass
        """,
        "-Werror",
    )
    result.assert_outcomes(passed=1, warnings=0)
    assert result.errlines == []
