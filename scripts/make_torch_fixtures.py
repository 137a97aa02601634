"""Writes the TorchScript archives and reference answers that the tests of TorchScript models compare with.

Usage: make_torch_fixtures.py OUT_FOLDER

Each fixture is a small module as `torch.jit.save` leaves it; `reference.json` has, for each, inputs and what libtorch's own
Python answers, as the hexadecimal of their bytes. Needs torch 1.13 (Debian's python3-torch); made once, committed small.
"""

import json
import pathlib
import sys
import zipfile
from typing import Dict, List, NamedTuple, Optional, Tuple

import torch
from torch import nn

TYPES = ["bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64"]


class Mlp(nn.Module):
    """What most who come bring: layers in a row, traced."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3), nn.Softmax(-1))

    def forward(self, x):
        return self.layers(x)


class Loop(nn.Module):
    """Control flow, an argument that may be left out, and one that is no tensor."""

    def forward(self, x: torch.Tensor, scale: Optional[torch.Tensor] = None, rounds: int = 3) -> torch.Tensor:
        for _ in range(rounds):
            if bool(x.sum() > 10):
                x = x / 2
            else:
                x = x * 3 + 1
        if scale is not None:
            x = x * scale
        return x


class Reader(nn.Module):
    """Two inputs of token ids and a tuple, as a traced question-answering model has them."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(16, 8)
        self.ends = nn.Linear(8, 2)

    def forward(self, input_ids, attention_mask):
        hidden = self.words(input_ids) * attention_mask.unsqueeze(-1)
        start, end = self.ends(torch.tanh(hidden)).split(1, dim=-1)
        return start.squeeze(-1), end.squeeze(-1)


class Named(nn.Module):
    """A dict, whose keys are the names of outputs."""

    def forward(self, x: torch.Tensor) -> Dict[str, torch.Tensor]:
        return {"sum": x.sum(1), "argmax": x.argmax(1), "positive": x > 0}


class Pair(NamedTuple):
    high: torch.Tensor
    low: torch.Tensor


class Fields(nn.Module):
    """A named tuple, whose fields are the names of outputs, and tensors that do not lie in rows."""

    def forward(self, x: torch.Tensor) -> Pair:
        return Pair(x.transpose(0, 1).contiguous().transpose(0, 1), x[:, ::2])


class Listed(nn.Module):
    """A list of tensors; writes into what it is given, which is somebody else's."""

    def forward(self, x: torch.Tensor) -> List[torch.Tensor]:
        x += 1
        return [x, x * 2]


class Types(nn.Module):
    """Every datatype, through an operation that keeps it."""

    def forward(self, b: torch.Tensor, u1: torch.Tensor, i1: torch.Tensor, i2: torch.Tensor, i4: torch.Tensor,
                i8: torch.Tensor, f2: torch.Tensor, g2: torch.Tensor, f4: torch.Tensor, f8: torch.Tensor
                ) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor,
                           torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        return (b.flip(1), u1.flip(1), i1.flip(1), i2.flip(1), i4.flip(1), i8.flip(1), f2.flip(1), g2.flip(1), f4.flip(1),
                f8.flip(1))


class Mixing(nn.Module):
    """Its items are not apart: each is told the mean of all."""

    def forward(self, x):
        return x - x.mean(0, keepdim=True)


class Forked(nn.Module):
    """Work in the background, which the runtime has a thread for; and words that go nowhere."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        other = torch.jit.fork(torch.relu, x)
        print("asked")
        return torch.jit.wait(other) + x


class Counter(nn.Module):
    """What may not be served to several clients: it counts its requests."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen += 1
        return x + self.seen


class Writer(nn.Module):
    """What no artefact may do: it writes a file of the machine that serves it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.save(x, "/tmp/packhorse-was-here")
        return x


class Awakening(nn.Module):
    """The same while it is loaded, in code that loading runs."""

    def __init__(self):
        super().__init__()
        self.weight = torch.zeros(2)

    @torch.jit.export
    def __getstate__(self) -> Tuple[torch.Tensor, bool]:
        return self.weight, self.training

    @torch.jit.export
    def __setstate__(self, state: Tuple[torch.Tensor, bool]) -> None:
        self.weight = torch.from_file("/etc/hostname", size=1, dtype=torch.uint8)
        self.training = state[1]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.weight.sum()


class Untyped(nn.Module):
    """Takes a number without which it does not run."""

    def forward(self, x: torch.Tensor, rate: int) -> torch.Tensor:
        return x * rate


class Quantised(nn.Module):
    """Weights in eight bits, packed by the runtime when it loads them; what is rounded hangs on all items, so they are not
    apart."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 4)

    def forward(self, x):
        return self.layer(x)


class Wide(nn.Module):
    """Eight MiB of weights, of which few are asked for."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(512, 4096))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight[:2, :3]


def without_weights(path):
    """Takes the weights out of the archive at `path`, for a test to put in its own."""
    with zipfile.ZipFile(path) as archive:
        rest = [(name, archive.read(name)) for name in archive.namelist() if not name.endswith("data/0")]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in rest:
            archive.writestr(zipfile.ZipInfo(name), content)


def told(tensor):
    tensor = tensor.detach().contiguous()
    name = str(tensor.dtype).removeprefix("torch.")
    raw = tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor
    return {"dtype": name, "shape": list(tensor.shape), "content": raw.numpy().tobytes().hex()}


def outputs(answer):
    if isinstance(answer, torch.Tensor):
        answer = (answer,)
    if hasattr(answer, "_asdict"):
        answer = answer._asdict()
    pairs = answer.items() if isinstance(answer, dict) else ((f"OUTPUT__{at}", one) for at, one in enumerate(answer))
    return {name: told(one) for name, one in pairs}


def typed(random):
    whole = torch.randint(0, 2, (3, 2), generator=random)
    return {name: whole.to(getattr(torch, name)) for name in TYPES}


def main():
    out = pathlib.Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(7)
    torch.set_num_threads(1)
    random = torch.Generator().manual_seed(11)

    def floats(*shape):
        return torch.randn(*shape, generator=random)

    def ids(*shape):
        return torch.randint(0, 16, shape, generator=random)

    def mask(*shape):
        return torch.randint(0, 2, shape, generator=random)

    script, trace = torch.jit.script, torch.jit.trace
    quantised = torch.quantization.quantize_dynamic(Quantised().eval(), {nn.Linear}, dtype=torch.qint8)
    letters = dict(zip(TYPES, ["b", "u1", "i1", "i2", "i4", "i8", "f2", "g2", "f4", "f8"]))
    fixtures = {
        "mlp": (trace(Mlp().eval(), floats(2, 4)), [{"x": floats(n, 4)} for n in (1, 3)]),
        "loop": (script(Loop()), [{"x": floats(2, 3)}, {"x": floats(2, 3) + 9}]),
        "loop_scaled": (script(Loop()), [{"x": floats(2, 3), "scale": floats(2, 3)}]),
        "reader": (trace(Reader().eval(), (ids(2, 5), mask(2, 5))),
                   [{"input_ids": ids(n, 6), "attention_mask": mask(n, 6)} for n in (1, 2)]),
        "named": (script(Named()), [{"x": floats(2, 4)}]),
        "fields": (script(Fields()), [{"x": floats(2, 4)}]),
        "listed": (script(Listed()), [{"x": floats(2, 4)}]),
        "types": (script(Types()), [{letters[name]: one for name, one in typed(random).items()}]),
        "mixing": (trace(Mixing(), floats(2, 2)), [{"x": floats(n, 2)} for n in (1, 3)]),
        "forked": (script(Forked()), [{"x": floats(2, 4)}]),
        "quantised": (script(quantised), [{"x": floats(2, 8)}]),
    }
    reference = {}
    for name, (module, asks) in fixtures.items():
        module.eval()
        torch.jit.save(module, str(out / f"{name}.pt"))
        loaded = torch.jit.load(str(out / f"{name}.pt"))
        with torch.inference_mode():
            reference[name] = [{"inputs": {key: told(one) for key, one in ask.items()},
                                "outputs": outputs(loaded(**{key: one.clone() for key, one in ask.items()}))}
                               for ask in asks]
    (out / "reference.json").write_text(json.dumps(reference, indent=1) + "\n", encoding="utf-8")
    for name, module in (("counter", Counter()), ("writer", Writer()), ("awakening", Awakening()), ("untyped", Untyped())):
        torch.jit.save(script(module.eval()), str(out / f"{name}.pt"))
    torch.jit.save(script(Wide().eval()), str(out / "wide.pt"))
    without_weights(out / "wide.pt")
    torch.save(Mlp().state_dict(), out / "state_dict.pth")
    torch.save(Mlp().state_dict(), out / "legacy.pth", _use_new_zipfile_serialization=False)


main()
