"""Runs the tests in this folder, all or those named, and ends with a line `N passed, N failed`.

Usage: run.py [--processes N] [MODULE[.CLASS[.TEST]]...], for example run.py test_oip_http.Refusals

Each module runs in a process of its own, as many at once as there are cores; a module that is named alone runs here.
"""

import argparse
import concurrent.futures
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import unittest

FOLDER = pathlib.Path(__file__).resolve().parent
# What takes longest begins first, so that it is not still running when all else has ended.
LONGEST = ["test_chaos", "test_detections", "test_protection", "test_openapi", "test_conformance"]


class _Counting(unittest.TextTestResult):
    """Counts tests, whatever subtests they have."""

    passed = 0

    def addSuccess(self, test):  # The name is unittest's.
        super().addSuccess(test)
        self.passed += 1


def run_here(names):
    """How many of these tests passed and how many failed."""
    sys.path.insert(0, str(FOLDER))
    # What the binary keeps for its user is nobody else's: neither of tests that run beside these nor of earlier ones.
    with tempfile.TemporaryDirectory(prefix="packhorse-caches-", ignore_cleanup_errors=True) as caches:
        os.environ["XDG_CACHE_HOME"] = caches
        tests = unittest.TestLoader().loadTestsFromNames(names)
        result = unittest.TextTestRunner(resultclass=_Counting, verbosity=1).run(tests)
    return result.passed, len(result.failures) + len(result.errors) + len(result.unexpectedSuccesses)


def run_module(module, names):
    """The same by a process of its own, which has said all that it had to when its module is told of."""
    print(f"== {module}", flush=True)
    begun = time.monotonic()
    # A file rather than a pipe, which whatever a crash leaves behind would hold open.
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as file:
        code = subprocess.run([sys.executable, __file__, "--processes", "1", *names], check=False, stdout=file,
                              stderr=subprocess.STDOUT).returncode
        file.seek(0)
        said = file.read()
    told = re.findall(r"^(\d+) passed, (\d+) failed$", said, re.MULTILINE)
    passed, failed = map(int, told[-1]) if told else (0, 0)
    if not told or code != status(passed, failed):
        said += f"{module}: its process ended with {code}, which is a failure of its own\n"
        failed += 1
    took = time.monotonic() - begun
    print(f"{said}== {module}: {passed} passed, {failed} failed, {took:.1f} s", flush=True)
    return passed, failed


def run_modules(modules, processes):
    """The same for the names of each module, so many modules at once."""
    order = sorted(modules, key=lambda module: LONGEST.index(module) if module in LONGEST else len(LONGEST))
    pool = concurrent.futures.ThreadPoolExecutor(processes)
    try:
        counts = list(pool.map(run_module, order, (modules[module] for module in order)))
    finally:
        # Nobody begins another after an interrupt.
        pool.shutdown(cancel_futures=True)
    return map(sum, zip(*counts, strict=True))


def status(passed, failed):
    """0 when at least one test ran and none failed."""
    return 0 if failed == 0 and passed > 0 else 1


def main():
    """Runs what the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=max(2, len(os.sched_getaffinity(0))), metavar="N")
    parser.add_argument("names", nargs="*", metavar="MODULE[.CLASS[.TEST]]")
    asked = parser.parse_args()
    modules = {}
    for name in asked.names or sorted(path.stem for path in FOLDER.glob("test_*.py")):
        modules.setdefault(name.split(".")[0], []).append(name)
    if asked.processes == 1 or len(modules) == 1:
        passed, failed = run_here([name for names in modules.values() for name in names])
    else:
        passed, failed = run_modules(modules, asked.processes)
    print(f"{passed} passed, {failed} failed", flush=True)
    return status(passed, failed)


if __name__ == "__main__":
    sys.exit(main())
