#!/usr/bin/env python3
"""What the first and the second clip of a program cost: CPU time of the process and wall time.

`first_use.py PROGRAM [--model MODEL] [--out FILE.json]`. The first run finds no shader cache of
the driver (Mesa's and NVIDIA's are pointed to an empty folder), the second what the first left.
"""

import argparse
import json
import os
import resource
import subprocess
import tempfile
import time


def run(command, environment):
    """Wall and CPU seconds of a command, which must end with status 0."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall_seconds": wall, "cpu_seconds": cpu}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("program")
    parser.add_argument("--model", default="pocket-w4a4")
    parser.add_argument("--out", default="-", help="JSON file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        caches = ["MESA_SHADER_CACHE_DIR", "__GL_SHADER_DISK_CACHE_PATH", "XDG_CACHE_HOME"]
        environment = {**os.environ, **{name: folder for name in caches}}
        clip = os.path.join(folder, "clip.mp4")
        command = [options.program, "--quiet", "sample", options.model, "--out", clip]
        found = {"model": options.model}
        for name in ["cold", "warm"]:
            found[name] = run(command, environment)
            os.remove(clip)
    print(json.dumps(found, indent=1))
    if options.out != "-":
        with open(options.out, "w", encoding="utf-8") as file:
            json.dump(found, file, indent=1)


if __name__ == "__main__":
    main()
