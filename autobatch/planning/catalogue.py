"""The devices of a plan, with their memory as torch reports it.

torch reports less memory than the name of a device says, because ECC and the driver take a part. Each total
comes from an out-of-memory message of torch on such a device, or from its properties in CUDA. `source` is the
thread with that message.
"""

from __future__ import annotations

from difflib import get_close_matches

from autobatch.records.device import Device
from autobatch.records.errors import UsageError
from autobatch.records.escaping import printable
from autobatch.records.formatting import parse_bytes
from autobatch.records.plan import WORKSPACE_BYTES, PlannedDevice

_GIB, _MIB = 1 << 30, 1 << 20
HERE = "here"
_HOPPER_WORKSPACE_BYTES = 32 * _MIB + 32 * _MIB


def _row(name: str, total_gib: float, thread: str, workspace_bytes: int = WORKSPACE_BYTES) -> PlannedDevice:
    return PlannedDevice(
        name=name,
        total_bytes=int(total_gib * _GIB),
        workspace_bytes=workspace_bytes,
        source=f"https://github.com/{thread}",
    )


CATALOGUE = (
    _row("rtx4060", 7.75, "ESRSchao/EdgeRegNet/issues/2"),
    _row("rtx3070", 7.78, "akshitac8/OW-DETR/issues/46"),
    _row("rtx3080", 9.78, "zai-org/CogVideo/issues/34"),
    _row("rtx2080ti", 10.76, "JDAI-CV/image-captioning/issues/11"),
    _row("t4", 14.56, "AlphaGPU/leetgpu-challenges/issues/52"),
    _row("rtx-a4000", 15.61, "DengKaiCQ/VGGT-Long/issues/6"),
    _row("v100-16gb", 15.77, "nomic-ai/gpt4all/issues/544"),
    _row("a10", 21.99, "zai-org/CogVLM/issues/236"),
    _row("a10g", 21.99, "mistralai/mistral-finetune/issues/69"),
    _row("l4", 22.03, "ArcInstitute/evo2/issues/190"),
    _row("a30", 23.53, "google/RB-Modulation/issues/5"),
    _row("rtx4090", 23.64, "ali-vilab/VGen/issues/104"),
    _row("rtx3090", 23.69, "ucwxb/GraphAvatar/issues/4"),
    _row("rtx5090", 31.37, "Wan-Video/Wan2.1/issues/465"),
    _row("v100-32gb", 31.74, "liucongg/ChatGLM-Finetuning/issues/73"),
    _row("a100-40gb", 39.50, "TianheWu/CoSeR/issues/10"),
    _row("l40", 44.40, "QwenLM/Qwen3-VL/issues/2097"),
    _row("l40s", 44.42, "stepfun-ai/Step-Video-T2V/issues/8"),
    _row("rtx6000-ada", 44.43, "DINGYANB/MTVCrafter/issues/21"),
    _row("rtx8000", 47.46, "Victarry/stable-dreambooth/issues/8"),
    # The thread gives 48,670 MiB.
    _row("rtx-a6000", 47.53, "ultralytics/ultralytics/issues/19084"),
    _row("h100", 79.11, "vllm-project/vllm/issues/27508", _HOPPER_WORKSPACE_BYTES),
    _row("a100-80gb", 79.25, "levihsu/OOTDiffusion/issues/235"),
    _row("gh200", 94.88, "Lightning-AI/litgpt/issues/1892", _HOPPER_WORKSPACE_BYTES),
    _row("h200", 139.72, "liziniu/GEM/issues/4", _HOPPER_WORKSPACE_BYTES),
    _row("b200", 178.35, "pytorch/ao/pull/4002", _HOPPER_WORKSPACE_BYTES),
)
_BY_NAME = {device.name.replace("-", ""): device for device in CATALOGUE}


def parse_devices(names: str) -> tuple[PlannedDevice | None, ...]:
    """The devices in `rtx3090,a100-80gb,24GiB,here`, each once; None stands for the device of this machine.

    Raises UsageError for a word that is neither a name nor an amount of memory.
    """
    words = [word.strip() for word in names.split(",") if word.strip()]
    if not words:
        raise UsageError("the list of devices is empty", code="unknown_device", hint=_hint())
    return tuple(dict.fromkeys(map(_parse, words)))


def of_current(device: Device) -> PlannedDevice:
    """This machine's device, with the memory that it has available now."""
    available_bytes = device.limit_bytes or device.free_bytes or device.total_bytes or 0
    on_host = device.kind == "cpu"
    return PlannedDevice(
        name=device.label,
        total_bytes=available_bytes,
        # Its context has started already, so the available memory excludes it.
        context_bytes=0,
        workspace_bytes=0 if on_host else WORKSPACE_BYTES,
        kind=device.kind,
        source=device.limit_source or "the available memory",
    )


def _parse(word: str) -> PlannedDevice | None:
    if word.lower() == HERE:
        return None
    plain = word.lower().replace("-", "").replace("_", "").replace(" ", "")
    if plain in _BY_NAME:
        return _BY_NAME[plain]
    if word[0].isdigit():
        return PlannedDevice(name=word, total_bytes=parse_bytes(word), source="as requested")
    close = get_close_matches(plain, _BY_NAME, n=3)
    raise UsageError(
        f"`{printable(word)}` is not in the catalogue of devices",
        code="unknown_device",
        facts=(f"similar names: {', '.join(f'`{_BY_NAME[match].name}`' for match in close)}",)
        if close
        else (),
        hint=_hint(),
    )


def _hint() -> str:
    names = ", ".join(device.name for device in CATALOGUE)
    return f"write an amount of memory such as `24GiB`, `{HERE}`, or one of {names}"
