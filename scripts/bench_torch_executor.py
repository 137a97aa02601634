"""What libtorch's profiling executor costs and gains: first answers, answers of a new shape, and steady ones.

Usage: bench_torch_executor.py

Runs each setting in a process of its own and prints the table of docs/decisions/041. Needs torch 1.13 (Debian's
python3-torch).
"""

import os
import subprocess
import sys
import time
import warnings

SETTINGS = {"as it is": True, "off": False}
ROUNDS, RUNS = 7, 60


def modules(torch):
    nn = torch.nn

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.heads = nn.Linear(256, 768)
            self.out = nn.Linear(256, 256)
            self.wide = nn.Sequential(nn.Linear(256, 1024), nn.GELU(), nn.Linear(1024, 256))
            self.norm = nn.LayerNorm(256)

        def forward(self, x):
            q, k, v = self.heads(x).chunk(3, -1)
            x = x + self.out(torch.softmax(q @ k.transpose(1, 2) / 16.0, -1) @ v)
            return self.norm(x + self.wide(x))

    class Loop(nn.Module):
        def forward(self, x):
            state = x[:, 0]
            for step in range(x.size(1)):
                state = torch.tanh(state * 0.5 + torch.sigmoid(x[:, step]) * 0.5) + state * state - x[:, step]
            return state

    mlp = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10), nn.Softmax(-1))
    encoder = nn.Sequential(nn.Embedding(1000, 256), *[Layer() for _ in range(4)])
    return {"an MLP of 64": (mlp, lambda n: torch.rand(n, 64)),
            "four layers of attention": (encoder, lambda n: torch.randint(0, 1000, (1, 8 * n))),
            "a loop of 20 steps": (Loop(), lambda n: torch.rand(n, 20, 64))}


def measure(profiling):
    warnings.filterwarnings("ignore")
    import torch  # pylint: disable=import-outside-toplevel

    torch.set_num_threads(1)
    torch.manual_seed(0)
    if not profiling:
        torch._C._jit_set_profiling_mode(False)  # pylint: disable=protected-access

    def timed(module, given):
        start = time.perf_counter()
        module(given)
        return (time.perf_counter() - start) * 1e3

    for name, (module, given) in modules(torch).items():
        module = torch.jit.freeze(torch.jit.script(module.eval()), optimize_numerics=False)
        with torch.inference_mode():
            first = [timed(module, given(1)) for _ in range(2)]
            shapes = max(timed(module, given(n)) for n in range(2, 9))
            value = given(4)
            steady = min(sum(timed(module, value) for _ in range(RUNS)) / RUNS for _ in range(ROUNDS))
        print(f"{name}\t{first[0]:.2f}\t{first[1]:.2f}\t{shapes:.2f}\t{steady:.3f}")


def main():
    print("| profiling | module | first, ms | second, ms | slowest of seven new shapes, ms | steady, ms |")
    print("|---|---|---|---|---|---|")
    for setting, profiling in SETTINGS.items():
        done = subprocess.run([sys.executable, __file__, str(int(profiling))], capture_output=True, text=True, check=True,
                              env={**os.environ, "OPENBLAS_NUM_THREADS": "1"})
        for line in done.stdout.splitlines():
            print(f"| {setting} | " + " | ".join(line.split("\t")) + " |", flush=True)


if len(sys.argv) > 1:
    measure(sys.argv[1] == "1")
else:
    main()
