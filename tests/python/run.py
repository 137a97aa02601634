"""Runs the tests in this folder, all or those named, and ends with a line `N passed, N failed`.

Usage: run.py [MODULE[.CLASS[.TEST]]...], for example run.py test_oip_http.Refusals
"""

import pathlib
import sys
import unittest


class _Counting(unittest.TextTestResult):
    """Counts tests, whatever subtests they have."""

    passed = 0

    def addSuccess(self, test):  # The name is unittest's.
        super().addSuccess(test)
        self.passed += 1


def main():
    """0 when at least one test ran and none failed."""
    folder = pathlib.Path(__file__).resolve().parent
    sys.path.insert(0, str(folder))
    loader = unittest.TestLoader()
    names = sys.argv[1:] or sorted(path.stem for path in folder.glob("test_*.py"))
    result = unittest.TextTestRunner(resultclass=_Counting, verbosity=1).run(loader.loadTestsFromNames(names))
    failed = len(result.failures) + len(result.errors) + len(result.unexpectedSuccesses)
    print(f"{result.passed} passed, {failed} failed", flush=True)
    return 0 if failed == 0 and result.passed > 0 else 1


if __name__ == "__main__":
    sys.exit(main())
