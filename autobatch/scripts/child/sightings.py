"""Where the batch size may come from: flags, click options and configurations seen in a running script."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, TypeGuard

_MOST_FRAMES, _MOST_KEYS = 60, 2000
_EPOCHS = re.compile(r"((num|max|n|train)_?(train_)?)?epochs", re.IGNORECASE)
_SIZES = re.compile(r"(per_device_)?(train_)?batch_?size|bs", re.IGNORECASE)
_parsed: list[tuple[argparse.ArgumentParser, argparse.Namespace]] = []
# A list of what the command's other processes have parsed: scripts that spawn their training parse before it.
_shared = ""


def watch_argparse(module: Any, shared: str = "") -> None:
    """Remember what every argument parser of the script returns, in the file `shared` too."""
    global _shared
    _shared = shared
    parse = module.ArgumentParser.parse_known_args

    def parse_known_args(self: Any, *args: Any, **kwargs: Any) -> Any:
        namespace, rest = parse(self, *args, **kwargs)
        if all(namespace is not seen for _, seen in _parsed):
            _parsed.append((self, namespace))
            with suppress(OSError):
                _share(self, namespace)
        return namespace, rest

    module.ArgumentParser.parse_known_args = parse_known_args


def _share(parser: argparse.ArgumentParser, namespace: argparse.Namespace) -> None:
    if _shared:
        lines = [json.dumps(sighting) + "\n" for sighting in _of_parser(parser, namespace)]
        with open(_shared, "a") as file:
            file.write("".join(lines))


def sightings() -> list[dict[str, Any]]:
    """Numbers that the script was given, as {source, name, flags, value}."""
    seen: list[dict[str, Any]] = []
    for source in (_of_other_processes, _of_argparse, _of_click, _of_configurations, _of_variables):
        # These look into objects of any library: one that can't be read shows nothing, and harms nothing.
        with suppress(Exception):
            seen += source()
    return list({(sighting["source"], sighting["name"]): sighting for sighting in seen}.values())


def _sighting(source: str, name: str, flags: list[str], value: float) -> dict[str, Any]:
    """`flags`: what sets it on a command line, in all its spellings, the longest first."""
    return {"source": source, "name": name, "flags": sorted(flags, key=len, reverse=True), "value": value}


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _of_other_processes() -> Iterator[dict[str, Any]]:
    if _shared and os.path.exists(_shared):
        with open(_shared) as lines:
            yield from map(json.loads, lines)


def _of_argparse() -> Iterator[dict[str, Any]]:
    for parser, namespace in _parsed:
        yield from _of_parser(parser, namespace)


def _of_parser(parser: argparse.ArgumentParser, namespace: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for action in parser._actions:
        value = getattr(namespace, action.dest, None)
        if value is not None and _is_number(value) and action.option_strings:
            yield _sighting("argparse", action.dest, list(action.option_strings), value)


def _of_click() -> Iterator[dict[str, Any]]:
    click = sys.modules.get("click")
    context = click.get_current_context(silent=True) if click is not None else None
    while context is not None:
        for parameter in context.command.params:
            value = context.params.get(parameter.name)
            if _is_number(value) and parameter.opts[0].startswith("-"):
                yield _sighting("click", str(parameter.name), list(parameter.opts), value)
        context = context.parent


def _of_configurations() -> Iterator[dict[str, Any]]:
    """Values of OmegaConf configurations (Hydra's) that are variables of a running function."""
    omegaconf = sys.modules.get("omegaconf")
    if omegaconf is None or "hydra" not in sys.modules:
        return
    for variables in _variables():
        for value in variables.values():
            # Hydra's own configuration is one of them, and no setting of the script.
            if isinstance(value, omegaconf.DictConfig) and "hydra" not in value:
                # Interpolations stay text: resolving them may fail.
                yield from _of_settings(omegaconf.OmegaConf.to_container(value, resolve=False), "")


def _of_settings(settings: dict[str, Any], prefix: str) -> Iterator[dict[str, Any]]:
    for key, value in list(settings.items())[:_MOST_KEYS]:
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _of_settings(value, f"{name}.")
        elif _is_number(value):
            yield _sighting("hydra", name, [name], value)


def _of_variables() -> Iterator[dict[str, Any]]:
    """Epochs and batch sizes among the variables of running functions, and in the objects that they hold."""
    for variables in _variables():
        for name, value in variables.items():
            for inner, number in ((name, value), *_attributes(value).items()):
                if (_EPOCHS.fullmatch(inner) or _SIZES.fullmatch(inner)) and _is_number(number):
                    yield _sighting("variable", inner, [], number)


def _attributes(value: Any) -> dict[str, Any]:
    """The attributes that an object itself holds: asking it for others could run code of the script.

    Those of torch's own objects are no settings: each loader has a batch size.
    """
    if type(value).__module__.partition(".")[0] == "torch":
        return {}
    try:
        attributes = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return {}
    return dict(attributes) if type(attributes) is dict and len(attributes) < _MOST_KEYS else {}


def _variables() -> Iterator[dict[str, Any]]:
    frame, count = sys._getframe(1), 0
    while frame is not None and count < _MOST_FRAMES:
        yield dict(frame.f_locals)
        frame, count = frame.f_back, count + 1  # type: ignore[assignment]
