"""Libraries that write, read or upload by compiled code or of their own accord, kept to a Protection."""

from __future__ import annotations

import os
from functools import partial
from types import ModuleType
from typing import Any

from .imports import after_import
from .protection import Protection

# Functions whose file is opened by compiled code, and which scripts read their own caches by.
_COMPILED_READERS = (("pyarrow", "memory_map"), ("safetensors", "safe_open"))


def keep_to(protection: Protection) -> None:
    """Redirect the files of libraries once they are imported, and silence trackers and uploads."""
    after_import("torch", lambda module: _redirect_torch(protection, module))
    after_import("safetensors.torch", lambda module: _redirect_file(protection, module, "save_file", 1))
    for module_name, name in _COMPILED_READERS:
        after_import(module_name, partial(_redirect_reads, protection, name))
    after_import("mlflow", _silence_mlflow)
    after_import("wandb", _silence_wandb)
    after_import("huggingface_hub.hf_api", _silence_hub)


def _redirect_file(protection: Protection, module: Any, name: str, place: int) -> None:
    """Redirect a function whose positional argument `place` names the file that compiled code writes."""
    write = getattr(module, name)

    def redirected(*args: Any, **kwargs: Any) -> Any:
        values = list(args)
        if len(values) > place and isinstance(values[place], (str, os.PathLike)):
            values[place] = protection.writable(values[place], keep=False)
        for key in ("f", "filename"):
            if isinstance(kwargs.get(key), (str, os.PathLike)):
                kwargs[key] = protection.writable(kwargs[key], keep=False)
        return write(*values, **kwargs)

    setattr(module, name, redirected)


def _redirect_reads(protection: Protection, name: str, module: Any) -> None:
    """Let compiled code that opens the file of its first argument find those of the overlay."""
    read = getattr(module, name)

    def redirected(path: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(path, (str, os.PathLike)):
            path = protection.shadow_of(os.path.abspath(path)) or path
        return read(path, *args, **kwargs)

    setattr(module, name, redirected)


def _redirect_torch(protection: Protection, module: Any) -> None:
    _redirect_file(protection, module, "save", 1)
    module.serialization.save = module.save


def _silence_mlflow(module: ModuleType) -> None:
    """Runs go to the folder of MLFLOW_TRACKING_URI, whatever address the script gives."""
    module.__dict__["set_tracking_uri"] = lambda uri: None


def _silence_wandb(module: ModuleType) -> None:
    """Runs are disabled, whatever mode the script gives: that counts for more than WANDB_MODE."""
    init = module.init

    def disabled(*args: Any, **kwargs: Any) -> Any:
        return init(*args, **{**kwargs, "mode": "disabled"})

    module.__dict__["init"] = disabled


def _silence_hub(module: Any) -> None:
    """Nothing is uploaded to the Hugging Face Hub."""
    for name in ("create_repo", "create_commit", "upload_file", "upload_folder", "upload_large_folder"):
        if hasattr(module.HfApi, name):
            setattr(module.HfApi, name, lambda self, *args, **kwargs: None)
