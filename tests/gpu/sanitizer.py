"""compute-sanitizer over small cases of kernels_gpu_test: memcheck, racecheck, synccheck.   sanitizer.py [--tool NAME]

The program is looked for in CUDA_HOME, /usr/local/cuda and PATH. Ends with 3 where there is no device, with 4 where
there is no compute-sanitizer, or one that cannot work here, and with 5 where there was no time for all, with the
reason. tests/gpu/run sets the environment.
"""

import argparse
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

NO_DEVICE, SKIPPED, OUT_OF_TIME = 3, 4, 5  # as tests/gpu/run has them
ERRORS = 77  # what compute-sanitizer ends with when it has found something; no test program does
TOOLS = {
    # No leaks: a process that ends gives everything back. Errors that CUDA returns are the tests' own to judge.
    "memcheck": ["--leak-check", "no", "--report-api-errors", "no"],
    "synccheck": [],
    "racecheck": [],  # the slowest
}
# Each op and each variant of attention and of products, once. Not what maps memory of other processes.
CASES = (
    "GpuOps.*:GpuExperts.*:GpuMatmul.Odd*:GpuAttention.Agrees*:GpuAttention.ADecoding*:GpuAttention.Windows*"
    ":GpuGraphs.*"
)
LIMIT_S = 0.9 * float(os.environ.get("SHOAL_GPU_SECONDS", "90"))  # of all tools together: of what run gives
# Of a test that failed, or of what a tool has found (its own lines begin so; "ERROR SUMMARY: 0 errors" is none).
FOUND = re.compile(r"^\[  FAILED  \]|^=+ (?:Error: |Invalid |Barrier error|Race reported|Uninitialized )", re.M)
# What it says of a device, a driver or a virtual machine that it cannot look into.
CANNOT = re.compile(r"Device not supported|not supported on this|Unable to initialize|insufficient permissions", re.I)


def find():
    homes = [os.environ.get("CUDA_HOME"), "/usr/local/cuda"]
    for home in filter(None, homes):
        for place in ("bin/compute-sanitizer", "compute-sanitizer/compute-sanitizer"):
            path = pathlib.Path(home) / place
            if os.access(path, os.X_OK):
                return str(path)
    return shutil.which("compute-sanitizer")


def check(sanitizer, tool, left_s):
    """The exit code (None: it was stopped), what was said, and the seconds."""
    program = pathlib.Path(os.environ["SHOAL_GPU_PROGRAMS"]) / "kernels_gpu_test"
    command = [sanitizer, "--tool", tool, *TOOLS[tool], "--error-exitcode", str(ERRORS)]
    # Not what the program starts: it asks another one for its version before it opens the device.
    command += ["--target-processes", "application-only", str(program), f"--gtest_filter={CASES}", "--gtest_brief=1"]
    # Kernels are looked into as they are loaded: only those that run.
    env = dict(os.environ, SHOAL_GPU_SIZES="small", CUDA_MODULE_LOADING="LAZY")
    begin = time.monotonic()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env, start_new_session=True
    ) as process:
        try:
            said, _ = process.communicate(timeout=max(left_s, 0))
            code = process.returncode
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            said, _ = process.communicate()
            code = None
    return code, said, time.monotonic() - begin


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tool", choices=TOOLS, action="append", help="only this one; may be given again")
    args = parser.parse_args(arguments)
    if os.environ.get("SHOAL_EMULATED"):
        print("skipped: an emulated device runs no machine code that compute-sanitizer could look into")
        return SKIPPED
    sanitizer = find()
    if sanitizer is None:
        print("skipped: there is no compute-sanitizer in CUDA_HOME, /usr/local/cuda or PATH")
        return SKIPPED
    begin, failed, late = time.monotonic(), [], []
    for tool in args.tool or TOOLS:
        code, said, seconds = check(sanitizer, tool, LIMIT_S - (time.monotonic() - begin))
        print(f"== {tool}\n{said}", flush=True)
        passed = re.search(r"^\[  PASSED  \] (\d+) tests?\.", said, re.MULTILINE)
        if "no device: " in said:  # compute-sanitizer may have ended with a code of its own
            return NO_DEVICE
        if code != 0 and passed is None and CANNOT.search(said):
            print(f"skipped: compute-sanitizer: {CANNOT.search(said).group(0)}")
            return SKIPPED
        if code == 0 and passed is not None:
            print(f"figure: {tool} {passed.group(1)} tests\nfigure: {tool} {seconds:.1f} s", flush=True)
        elif code is None and not FOUND.search(said):
            late.append(tool)
        else:
            failed.append(f"{tool}: {'stopped' if code is None else f'exit code {code}'}")
    if late:
        print(f"out of time: {', '.join(late)}")
    if failed:
        print("; ".join(failed))
    return 1 if failed else OUT_OF_TIME if late else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
