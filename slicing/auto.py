"""Our models for the auto classes of transformers, told to them as soon as transformers is imported.

``import slicing`` itself imports neither transformers nor torch, which take seconds: a stored run is read
without them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_OURS = "slicing.modeling_"


def tell_transformers() -> None:
    """Register our models now where transformers is there, or else once it is."""
    if "transformers" in sys.modules:
        _register()
    else:
        sys.meta_path.insert(0, _Register())


class _Register(MetaPathFinder):
    """Registers after the import of transformers, or of the module of ours that imported it."""

    def __init__(self) -> None:
        self.running = 0
        """How many imports of transformers and of our models are under way inside one another."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a module as Python does; of those that matter, also see when their import ends."""
        if fullname != "transformers" and not fullname.startswith(_OURS):
            return None
        others = (each for each in sys.meta_path if each is not self)
        found = next(filter(None, (each.find_spec(fullname, path, target) for each in others)), None)
        if found and found.loader:
            self._see_the_end(found.loader)
        return found

    def _see_the_end(self, loader: Any) -> None:
        execute = loader.exec_module

        def run(module: ModuleType) -> None:
            self.running += 1
            try:
                execute(module)
            finally:
                self.running -= 1
            if not self.running and self in sys.meta_path:
                sys.meta_path.remove(self)
                _register()

        loader.exec_module = run


def _register() -> None:
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    from slicing.modeling_bridged import BridgedConfig, BridgedDecoder, BridgedForCausalLM
    from slicing.modeling_decilm import DeciLMConfig, DeciLMForCausalLM, DeciLMModel
    from slicing.modeling_narrow import NarrowConfig, NarrowDecoder, NarrowForCausalLM
    from slicing.modeling_sliced import SlicedConfig, SlicedDecoder, SlicedForCausalLM

    for config, model, decoder in (
        (SlicedConfig, SlicedForCausalLM, SlicedDecoder),
        (BridgedConfig, BridgedForCausalLM, BridgedDecoder),
        (NarrowConfig, NarrowForCausalLM, NarrowDecoder),
    ):
        AutoConfig.register(config.model_type, config)
        AutoModelForCausalLM.register(config, model)
        AutoModel.register(config, decoder)
        # What is saved carries the modelling file, for those who have transformers only.
        config.register_for_auto_class()
        model.register_for_auto_class("AutoModelForCausalLM")
        decoder.register_for_auto_class("AutoModel")
    # transformers has no such type of its own.
    AutoConfig.register(DeciLMConfig.model_type, DeciLMConfig)
    AutoModelForCausalLM.register(DeciLMConfig, DeciLMForCausalLM)
    AutoModel.register(DeciLMConfig, DeciLMModel)
