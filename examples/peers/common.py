"""What the peers share: arguments, repeats, and the JSON they leave."""

import argparse
import json
import statistics
import time


def arguments(description, types=None):
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--shapes",
        default="256x1536x1536",
        help="TOKENSxOUTxIN, separated by commas",
    )
    parser.add_argument("--attention", default="", help="TOKENSxHEADSxCHANNELS, separated by commas")
    if types:
        parser.add_argument("--types", default=types, help="formats of the weights")
    parser.add_argument("--seconds", type=float, default=1.0, help="time for each")
    parser.add_argument("--out", default="-", help="JSON file")
    return parser.parse_args()


def sizes(text):
    return [tuple(int(part) for part in shape.split("x")) for shape in text.split(",") if shape]


def timed(run, seconds, least=3, most=200):
    """Times of `run`, which waits for its device: medians of the wall and of the process."""
    run()
    start = time.perf_counter()
    wall, cpu = [], []
    while len(wall) < least or (time.perf_counter() - start < seconds and len(wall) < most):
        before = (time.perf_counter(), time.process_time())
        run()
        wall.append(time.perf_counter() - before[0])
        cpu.append(time.process_time() - before[1])
    middle = statistics.median(wall)
    return {
        "wall_seconds": middle,
        "spread_seconds": statistics.median(abs(value - middle) for value in wall),
        "cpu_seconds": statistics.median(cpu),
        "count": len(wall),
    }


def difference(actual, expected):
    """Root of the mean square error, relative to the expected values; NaN if one is not finite."""
    import numpy

    actual = numpy.asarray(actual, dtype=numpy.float64)
    expected = numpy.asarray(expected, dtype=numpy.float64)
    return float(numpy.linalg.norm(actual - expected) / numpy.linalg.norm(expected))


def entry(kernel, precision, shape, ops, error, tolerance, times):
    """One result; an unverified one has no times."""
    result = {"kernel": kernel, "precision": precision, "shape": "x".join(map(str, shape))}
    result.update({"error": error, "tolerance": tolerance})
    if error <= tolerance:
        result.update(times())
        result["ops_per_second"] = ops / result["wall_seconds"]
        result["ops_per_core_second"] = ops / max(result["cpu_seconds"], 1e-9)
    else:
        result["unverified"] = True
    print(json.dumps(result), flush=True)
    return result


def write(path, peer, device, entries, missing=None):
    text = json.dumps(
        {"peer": peer, "device": device, "missing": missing, "entries": entries}, indent=1
    )
    if missing:
        print(f"{peer}: {missing}")
    if path == "-":
        print(text)
    else:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text + "\n")
