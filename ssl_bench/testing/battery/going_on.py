"""Checks that a run which was stopped ends where an unbroken one does, in the same process and in another."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from ssl_bench.errors import Interrupted
from ssl_bench.plugins.loading import load_plugin
from ssl_bench.system.digests import digest_of
from ssl_bench.tasks.base import PretextTask
from ssl_bench.testing.battery.bench import Bench, CheckFailed, NotApplicable
from ssl_bench.training.loop import fit
from ssl_bench.training.movement import tensor_digest

STEPS, STOPPED_AFTER, IMAGES = 6, 3, 16
SECONDS = 180  #: that another process may take
HASH_SEEDS = ("0", "1")


def interruption(bench: Bench) -> str:
    """A run that is stopped and goes on in a new object ends with the same bits as one that was not."""
    with tempfile.TemporaryDirectory() as folder:
        whole, stopped = (
            run_some_steps(bench),
            run_some_steps(bench, Path(folder) / "checkpoint.safetensors", stop=True),
        )
        again = run_some_steps(bench, Path(folder) / "checkpoint.safetensors")
    assert stopped is None and whole is not None and again is not None
    if whole != again:
        raise CheckFailed(
            f"a run that was stopped after {STOPPED_AFTER} of {STEPS} steps and went on in a new object ended "
            f"elsewhere ({_differing(whole, again)}): "
            "something is kept where no checkpoint reaches it (a number, a list, a generator or an array on the "
            "object, its class or its module). "
            "Make tensors and counters buffers with self.register_buffer, use self.progress for the share of the run, "
            "draw with the global random functions"
        )
    return f"{STEPS} steps, stopped after {STOPPED_AFTER}"


def processes(bench: Bench) -> str:
    """Other processes, with other hashes of strings, give the same bits,
    and go on from a checkpoint to the same bits."""
    place = located(bench.task)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        here = run_some_steps(bench)
        run_some_steps(bench, folder / "checkpoint.safetensors", stop=True)
        started = [_start(bench, place, folder, number, seed) for number, seed in enumerate(HASH_SEEDS)]
        results = [_result(process, folder, number) for number, process in enumerate(started)]
    for there in results:
        if there["whole"] != here:
            raise CheckFailed(
                f"another process ended elsewhere with the same seed ({_differing(here or {}, there['whole'])}): "
                "something depends on the process. "
                "Look for the order of a set, hash() or id(), time, random numbers drawn when the module is imported, "
                "and caches of classes and modules"
            )
        if there["resumed"] != here:
            raise CheckFailed(
                "a run that was stopped ended elsewhere when another process went on with it "
                f"({_differing(here or {}, there['resumed'])}): something "
                "is kept in a class or a module, where no checkpoint reaches it; make it a buffer with "
                "self.register_buffer"
            )
    return f"{len(results)} processes, PYTHONHASHSEED {' and '.join(HASH_SEEDS)}"


def run_some_steps(bench: Bench, checkpoint: Path | None = None, stop: bool = False) -> dict[str, str] | None:
    """Some steps on a new object; the digests of what it then holds and of its losses, or None where it was stopped."""
    task = bench.build(batch_size=IMAGES, begin=False)
    done = [0]

    def stopping() -> bool:
        done[0] += 1
        return stop and done[0] >= STOPPED_AFTER

    try:
        result = fit(
            task,
            bench.batches(IMAGES),
            bench.recipes(IMAGES),
            STEPS,
            seed=0,
            precision="fp32",
            cost=False,
            checkpoint=checkpoint,
            stop=stopping,
        )
    except Interrupted:
        return None
    digests = {name: tensor_digest(tensor) for name, tensor in _state_tensors(task)}
    return digests | {
        "losses": digest_of(json.dumps({name: curve.value for name, curve in result.curves.items()}).encode())
    }


def _state_tensors(task: PretextTask) -> list[tuple[str, torch.Tensor]]:
    return [(name, tensor) for name, tensor in task.state_dict().items() if isinstance(tensor, torch.Tensor)]


def _differing(first: dict[str, str], second: dict[str, str]) -> str:
    names = [name for name in first if second.get(name) != first[name]]
    return f"{len(names)} of {len(first)} tensors and curves differ, first {names[0]}" if names else "other tensors"


def located(task: type[PretextTask]) -> dict[str, Any]:
    """Where another process finds a class: plain data."""
    if members := getattr(task, "members", ()):
        return {"name": task.name, "members": [located(member) for member in members]}
    module = sys.modules.get(task.__module__)
    file = getattr(module, "__file__", None)
    if file is None or task.__module__ == "__main__" or "<locals>" in task.__qualname__:
        raise NotApplicable("another process cannot import the class; define it at the top of a file")
    return {"module": task.__module__, "file": str(file), "class": task.__qualname__}


def found_at(place: dict[str, Any]) -> type[PretextTask]:
    """The class that ``located`` described."""
    if "members" in place:
        from ssl_bench.plugins.registry import TASKS

        for member in place["members"]:
            if not member["module"].startswith("ssl_bench."):
                TASKS._added.setdefault(found_at(member).name, found_at(member))
        combined: type[PretextTask] = TASKS.get(place["name"])
        return combined
    name, file = place["module"], place["file"]
    if name.startswith("ssl_bench_plugin_"):
        load_plugin(file)
        module = sys.modules[name]
    else:
        try:
            module = importlib.import_module(name)
        except ImportError:
            spec = importlib.util.spec_from_file_location(name, file)
            assert spec is not None and spec.loader is not None
            module = sys.modules[name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
    value: Any = module
    for part in place["class"].split("."):
        value = getattr(value, part)
    task: type[PretextTask] = value
    return task


def _start(bench: Bench, place: dict[str, Any], folder: Path, number: int, hash_seed: str) -> subprocess.Popen[bytes]:
    place_of = folder / str(number)
    place_of.mkdir()
    (place_of / "checkpoint.safetensors").write_bytes((folder / "checkpoint.safetensors").read_bytes())
    request = {
        "task": place,
        "options": bench.options.model_dump(mode="json"),
        "size": bench.size,
        "threads": torch.get_num_threads(),
        "path": sys.path,
        "checkpoint": str(place_of / "checkpoint.safetensors"),
        "result": str(place_of / "result.json"),
    }
    (place_of / "request.json").write_text(json.dumps(request))
    words = [sys.executable, "-m", "ssl_bench.testing.battery.going_on", str(place_of / "request.json")]
    paths = [str(Path(__file__).resolve().parents[3]), *(entry or "." for entry in sys.path)]
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(paths)}
    with open(place_of / "output", "wb") as output:
        return subprocess.Popen(
            words, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )


def _result(process: subprocess.Popen[bytes], folder: Path, number: int) -> dict[str, dict[str, str]]:
    try:
        code = process.wait(SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise CheckFailed(
            f"another process did not finish {STEPS} steps within {SECONDS} s, and this one did; look for what waits "
            "or locks"
        ) from None
    result = folder / str(number) / "result.json"
    if code or not result.is_file():
        lines = (folder / str(number) / "output").read_text(errors="replace").strip().splitlines()
        raise CheckFailed(
            f"another process could not train it (exit code {code}): {lines[-1] if lines else 'it said nothing'}"
        )
    digests: dict[str, dict[str, str]] = json.loads(result.read_text())
    return digests


def train_and_resume(request_file: str) -> None:
    """What the other process does: the run of ``interruption`` from a checkpoint, and whole."""
    request = json.loads(Path(request_file).read_text())
    torch.set_num_threads(request["threads"])
    bench = Bench(found_at(request["task"]), request["options"], request["size"])
    # first: a run from the start would fill the caches of classes that this one must do without
    resumed = run_some_steps(bench, Path(request["checkpoint"]))
    results = {"whole": run_some_steps(bench), "resumed": resumed}
    Path(request["result"]).write_text(json.dumps(results))


if __name__ == "__main__":
    train_and_resume(sys.argv[1])
